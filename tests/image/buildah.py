"""Images and containers without a daemon: debootstrap makes the base, buildah builds on it and runs it in a chroot.

Both need root. All that they keep lies in ``.cache/image``; the base is made once, and what is built on it is removed
again.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support import REPOSITORY

KEPT: Final = REPOSITORY / ".cache" / "image"
# As python:3.11-slim, which can't be had without a registry: a Debian with Python and CA certificates.
BASE: Final = "localhost/pellucid-base:bookworm"
_PACKAGES: Final = "ca-certificates,python3,python3-venv,python-is-python3"
_CA_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"


def buildah(*arguments: str, said: bool = False) -> str:
    """What buildah prints; with ``said`` it goes to the terminal. Raises CalledProcessError if it fails."""
    done = subprocess.run(buildah_command(*arguments), check=True, text=True, stdout=None if said else subprocess.PIPE)
    return (done.stdout or "").strip()


def buildah_command(*arguments: str) -> list[str]:
    """The command line, with a storage of its own."""
    storage = ["--storage-driver", "vfs", "--root", str(KEPT / "storage"), "--runroot", str(KEPT / "run")]
    return ["buildah", *storage, *arguments]


@contextmanager
def built(target: str) -> Iterator[str]:
    """The Dockerfile's image of this target, removed at the end."""
    name = f"localhost/pellucid-test:{target}"
    _make_base()
    with tempfile.TemporaryDirectory() as scratch:
        buildah(
            *("bud", "--isolation", "chroot", "--no-cache", "--force-rm"),
            *("--format", "docker"),  # the other knows no HEALTHCHECK
            *("--build-arg", f"PYTHON_IMAGE={BASE}", "--build-arg", "TORCH_INDEX="),
            *_as_this_machine_installs(Path(scratch)),
            *("--target", target, "--tag", name, str(REPOSITORY)),
            said=True,
        )
    try:
        yield name
    finally:
        buildah("rmi", "--force", name)
        buildah("rmi", "--prune")


@contextmanager
def container(image: str) -> Iterator[str]:
    """The name of a container of the image."""
    name = buildah("from", "--pull-never", image)
    try:
        yield name
    finally:
        buildah("rm", name)


def config(image: str) -> dict[str, Any]:
    """What the image says of itself: User, Entrypoint, Cmd, Env, Healthcheck, Labels."""
    inspected = json.loads(buildah("inspect", "--type", "image", image))
    found: dict[str, Any] = inspected["Docker"]["config"]
    return found


def _make_base() -> None:
    if subprocess.run(buildah_command("inspect", "--type", "image", BASE), capture_output=True).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for archive in root.glob("var/cache/apt/archives/*.deb"):
            archive.unlink()
        empty = buildah("from", "scratch")
        buildah("add", "--quiet", empty, str(root), "/")
        buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", empty)
        buildah("commit", "--quiet", "--rm", empty, BASE)


def _as_this_machine_installs(scratch: Path) -> list[str]:
    """Options that lend the build this machine's pip configuration and CA certificates: mounts that no image keeps."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, text=True, stdout=subprocess.PIPE
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        settings.setdefault(name.rpartition(".")[2], "\n".join(shlex.split(value)))
    lent = {_CA_BUNDLE: os.environ.get("SSL_CERT_FILE", _CA_BUNDLE)}
    for value in settings.values():
        for part in value.split():
            # A folder that is an index may link to files beside it.
            path = os.path.dirname(part.removeprefix("file://")) if part.startswith("file://") else part
            if path.startswith("/") and os.path.exists(path):
                lent.setdefault(path, path)
    written = configparser.RawConfigParser()
    written["global"] = {name: value.replace("\n", " ") for name, value in settings.items()}
    with (scratch / "pip.conf").open("w") as file:
        written.write(file)
    lent["/etc/pip.conf"] = str(scratch / "pip.conf")
    return [option for inside, path in lent.items() for option in ("--volume", f"{path}:{inside}:ro")]
