"""The import law: who may see whom. A change of the law changes this table and docs/explanation/architecture.md."""

from __future__ import annotations

import ast
import itertools
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("pellucid", "service", "models")
# Nouns, errors, and how maps are enlarged: without torch.
EVERYONE = {
    "pellucid.types",
    "pellucid.errors",
    "pellucid.network.spec",
    "pellucid.ranks",
    "pellucid.resampling",
}

# package or module -> what of ours it may import, besides itself and EVERYONE
MAY_IMPORT = {
    # Building runs pictures through an engine; reading needs the network's description alone.
    "pellucid.atlas": {
        "pellucid.decode.image",
        "pellucid.engine",
        "pellucid.explain.evidence",
        "pellucid.network",
        "pellucid.runtime.base",
    },
    "pellucid.atlas.file": {
        "pellucid.atlas.checks",
        "pellucid.atlas.content",
        "pellucid.network",
    },
    "pellucid.client": {"pellucid.schemas"},
    "pellucid.compiler": {"pellucid.decode.image", "pellucid.network", "pellucid.runtime"},
    "pellucid.decode": set(),
    "pellucid.engine": {"pellucid.explain", "pellucid.network", "pellucid.runtime"},
    "pellucid.explain": set(),
    # All that explains one picture, as the service's flow does, with the client's options and answers.
    "pellucid.library": {
        "pellucid.atlas.file",
        "pellucid.client",
        "pellucid.decode",
        "pellucid.engine",
        "pellucid.explain",
        "pellucid.network",
        "pellucid.parts",
        "pellucid.runtime",
        "pellucid.schemas",
    },
    "pellucid.exports": {"pellucid.parts.figures.side_by_side", "pellucid.render", "pellucid.schemas"},
    "pellucid.lookup": set(),
    "pellucid.network": set(),
    "pellucid.parts": {
        "pellucid.atlas.content",
        "pellucid.atlas.file",
        "pellucid.decode.region",
        "pellucid.decode.view",
        "pellucid.lookup",
        "pellucid.render",
        "pellucid.trust",
    },
    "pellucid.render": set(),
    "pellucid.report": {"pellucid.render", "pellucid.schemas"},
    "pellucid.ranks": set(),
    "pellucid.resampling": set(),
    "pellucid.runtime": {"pellucid.network"},
    "pellucid.schemas": set(),
    "pellucid.trust": {"pellucid.render.compose"},  # a map is tried as it is drawn
    "pellucid.types": set(),
    "pellucid.errors": set(),
    "models": {"pellucid.compiler", "pellucid.decode", "pellucid.network"},
    # One request from top to bottom; it knows no route and no other protocol.
    "service.flow": {
        "pellucid.atlas.file",
        "pellucid.decode",
        "pellucid.parts",
        "pellucid.render",
        "pellucid.schemas",
        "pellucid.trust",
        "service.dispatch",
        "service.http.connection",
        "service.http.problem_json",
        "service.telemetry",
    },
    "service.http": {"pellucid.parts", "service.flow.bodies", "service.telemetry"},
    # Neither the door nor the worker nor a decoder: the flow is the same for every protocol.
    "service.protocols": {
        "pellucid.decode.tensor",
        "pellucid.lookup",
        "pellucid.parts",
        "pellucid.schemas",
        "service.flow",
        "service.http",
    },
    "service.routes": {
        "pellucid.atlas.file",
        "pellucid.parts",
        "pellucid.render.colormap",
        "pellucid.schemas",
        "pellucid.trust",
        "service.flow",
        "service.http",
    },
    "service.dispatch": set(),
    "service.config": {"service.http.access"},
    "service.process": set(),
    "service.telemetry": set(),
    "service.agents": {"pellucid.client", "pellucid.parts", "pellucid.render.compose", "pellucid.schemas"},
    "service.commands": {
        "pellucid.atlas",
        "pellucid.client",
        "pellucid.compiler",
        "pellucid.engine",
        "pellucid.exports",
        "pellucid.network",
        "pellucid.parts",
        "pellucid.report",
        "pellucid.runtime",
        "pellucid.schemas",
        "service.agents",
        "service.app",
        "service.config",
        "service.http.connection",
        "service.http.middleware",
        "service.telemetry",
    },
    # Wraps a whole app, as `cli` does for one process.
    "service.scale": {
        "service.flow.networks",
        "service.app",
        "service.config",
        "service.process",
        "service.telemetry",
    },
    "service.cli": {
        "service.http.access",
        "service.commands",
        "service.config",
        "service.process",
    },
    "service.app": {"pellucid", "service"},
    "service.loading": {"pellucid", "service.config", "service.dispatch", "service.flow", "service.telemetry"},
    "service.__main__": {"service.cli"},
}
# What takes seconds and hundreds of megabytes -> who may import it, the service's commands inside a function alone.
# Nobody else loads any of it, by however many imports: what serves a compiled network has no torch.
HEAVY_FOR = {
    "torch": {"pellucid.compiler", "pellucid.runtime.torch_runtime", "models", "service.commands"},
    "torchvision": {"models"},
    "transformers": {"models"},
    "openvino": {
        "pellucid.compiler.imported",
        "pellucid.runtime.openvino_runtime",
        "pellucid.runtime.aten_to_openvino",
    },
}
HEAVY = {*HEAVY_FOR}
_ENGINE = {"pellucid.compiler", "pellucid.engine", "pellucid.explain", "pellucid.runtime"}
# package or module -> what importing it loads nothing of, by however many imports
NEVER_LOADS = {
    "pellucid.client": {"PIL", "numpy"},
    "pellucid.explain": {"PIL", "pellucid.engine", "pellucid.runtime"},
    "service.dispatch": {"fastapi", "starlette", *_ENGINE},
    "service.flow": _ENGINE,
    "service.http": _ENGINE,
    "service.protocols": _ENGINE,
    "service.routes": _ENGINE,
}


@cache
def sources(root: Path = ROOT) -> dict[str, Path]:
    """The files of all modules, by name."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path, root: Path = ROOT, *, at_once: bool = False) -> set[str]:
    """What a module imports anywhere, or ``at_once``: before it is loaded, which leaves functions and types out."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parts[: -node.level] if node.level else ()
            # `from service.flow import bodies` may name a module of the package
            found |= {".".join((*package, *filter(None, [node.module]), alias.name)) for alias in node.names}
        elif at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif at_once and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
    return found


@cache
def loaded_by(module: str, root: Path = ROOT) -> dict[str, str]:
    """All modules that importing ``module`` imports, of ours and of others, each with the module that imports it."""
    files = sources(root)
    found, waiting = {module: ""}, [module]
    while waiting:
        importing = waiting.pop()
        names = imports(files[importing], root, at_once=True) if importing in files else set()
        # A module's packages are loaded before it. Of others' modules the first part will do.
        parts = [name.split(".") for name in (importing, *names)]
        for name in {".".join(each[: end + 1]) for each in parts for end in range(len(each))}:
            ours = name in files
            if name not in found and (ours or "." not in name):
                found[name] = importing
                waiting += [name] * ours
    return found


def inside(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def way_to(target: str, module: str, root: Path = ROOT) -> str:
    """The chain of imports by which importing ``module`` loads ``target``."""
    chain, loaded = [target], loaded_by(module, root)
    while chain[-1] != module:
        chain.append(loaded[chain[-1]])
    return " <- ".join(chain)


def owner(module: str) -> str | None:
    return max((entry for entry in MAY_IMPORT if inside(module, {entry})), key=len, default=None)


def test_every_module_imports_only_what_the_law_allows() -> None:
    for module, path in sources().items():
        law = owner(module)
        if law is None:
            assert module in PACKAGES, f"{module} has no place in the law"
            continue
        ours = {name for name in imports(path) if inside(name, set(PACKAGES))}
        forbidden = {name for name in ours if not inside(name, MAY_IMPORT[law] | EVERYONE | {law})}
        assert not forbidden, f"{module} may not import {sorted(forbidden)}"


def test_what_the_wheel_has_inside_pellucid_imports_itself_relatively() -> None:
    """``service`` and ``models`` are top-level packages in the repository, and ``pellucid.service`` where installed."""
    for node in itertools.chain.from_iterable(ast.walk(tree(path)) for path in sources().values()):
        if isinstance(node, ast.Import):
            absolute = {alias.name for alias in node.names}
        else:
            absolute = {node.module or ""} if isinstance(node, ast.ImportFrom) and node.level == 0 else set()
        assert not [name for name in absolute if inside(name, {"models", "service"})], ast.unparse(node)


def test_what_is_heavy_or_beneath_is_loaded_by_nobody_else() -> None:
    for module, path in sources().items():
        imported = {name.partition(".")[0] for name in imports(path)} & HEAVY
        assert all(inside(module, HEAVY_FOR[name]) for name in imported), (module, imported)
        never = set().union(*(what for who, what in NEVER_LOADS.items() if inside(module, {who})))
        if inside(module, {"service"}) or not inside(module, set().union(*HEAVY_FOR.values())):
            never |= HEAVY
        assert not [way_to(name, module) for name in loaded_by(module) if inside(name, never)]


def test_an_import_by_way_of_others_is_found(tmp_path: Path) -> None:
    for name, text in {
        "pellucid/__init__.py": "",
        "pellucid/plan.py": "from torch import nn\ndef later():\n    import torchvision",
        "service/__init__.py": "",
        "service/handler.py": "from .parts import draw",
        "service/parts/__init__.py": "from . import draw",
        "service/parts/draw.py": "import pellucid.plan",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = way_to("torch", "service.handler", tmp_path)
    assert found == "torch <- pellucid.plan <- service.parts.draw <- service.handler"
    assert "torchvision" not in loaded_by("service.handler", tmp_path)


def test_the_library_and_the_networks_stand_alone_and_the_service_sees_the_library() -> None:
    """``pellucid`` finds ``models`` by an entry point, as it would find a package of the user's."""
    for entry, allowed in MAY_IMPORT.items():
        package = entry.partition(".")[0]
        seen = {name.partition(".")[0] for name in allowed} - {package}
        assert seen <= ({"pellucid"} - {package}), entry
