"""The import law: who may see whom. A change of the law is a change of this table, and of docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("service", "models")
EVERYONE = {"service.types", "service.errors", "models.spec"}  # nouns and errors, without torch

# package or module -> what of ours it may import, besides itself and EVERYONE
MAY_IMPORT = {
    "models": {"models"},
    "service.api": {"service.decode", "service.dispatch", "service.render", "service.telemetry", "service.trust"},
    # Neither the door nor the worker nor a decoder: the flow is the handler's, for every protocol.
    "service.api.protocols": {"service.api", "service.decode.tensor"},
    "service.decode": set(),
    "service.dispatch": {"service.engine.base"},
    "service.engine": {"service.explain", "models"},
    "service.explain": set(),
    "service.render": set(),
    "service.trust": {"service.render.compose"},  # a map is tried as it is drawn
    "service.types": set(),
    "service.errors": set(),
    "service.config": {"service.api.auth"},
    "service.process": set(),
    "service.telemetry": set(),
    "service.client": {"service.api.schemas"},
    "service.commands": {
        "service.api.schemas",
        "service.app",
        "service.client",
        "service.config",
        "service.telemetry",
        "models",
    },
    # Wraps a whole app, as `cli` does for one process.
    "service.scale": {
        "service.api.handler",
        "service.app",
        "service.config",
        "service.process",
        "service.telemetry",
    },
    "service.cli": {
        "service.api.auth",
        "service.api.connection",
        "service.commands",
        "service.config",
        "service.process",
    },
    "service.app": {"service", "models"},
    "service.__main__": {"service.cli"},
}
# Packages that know nothing of tensors.
WITHOUT_TORCH = {
    "service.api",
    "service.dispatch",
    "service.render",
    "service.telemetry",
    "service.trust",
    "service.client",
    *EVERYONE,
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from service.api import intake` may name a module of the package
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def owner(module: str) -> str | None:
    return max((entry for entry in MAY_IMPORT if inside(module, {entry})), key=len, default=None)


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_every_module_imports_only_what_the_law_allows(path: Path) -> None:
    module = module_name(path)
    law = owner(module)
    if law is None:
        assert module == "service", f"{module} has no place in the law"
        return
    ours = {name for name in imports(path) if inside(name, set(PACKAGES))}
    forbidden = {name for name in ours if not inside(name, MAY_IMPORT[law] | EVERYONE | {law})}
    assert not forbidden, f"{module} may not import {sorted(forbidden)}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_the_http_side_imports_no_torch(path: Path) -> None:
    if inside(module_name(path), WITHOUT_TORCH):
        assert not {name for name in imports(path) if inside(name, {"torch", "torchvision"})}
