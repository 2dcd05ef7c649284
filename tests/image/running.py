"""A container's own command, run as its image says, and what the kernel tells of its process."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from tests.image.buildah import buildah_command

# How long a start may take on a busy machine; what it took is printed.
_START_S: Final = 300


@dataclass(frozen=True)
class Running:
    """The served process of a container. ``pid`` is as this machine counts."""

    container: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    pid: int
    ready_s: float
    log: IO[bytes]

    def healthcheck(self, command: list[str]) -> bool:
        """Whether the image's HEALTHCHECK, run beside the service in its network, finds it healthy."""
        beside = ["nsenter", f"--net=/proc/{self.pid}/ns/net"] if self.pid_lives() else []
        return (
            subprocess.run(beside + _in(self.container, self.environment, command), capture_output=True).returncode == 0
        )

    def pid_lives(self) -> bool:
        return os.path.exists(f"/proc/{self.pid}/ns/net") and self.process.poll() is None

    def status(self) -> dict[str, str]:
        """/proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text("utf-8").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def logged(self) -> str:
        self.log.seek(0)
        return self.log.read().decode()

    def stop(self) -> int:
        """The exit code after SIGTERM to the process, as an orchestrator sends it."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def running(
    container: str, config: dict[str, Any], settings: dict[str, str], *, offline: bool = False
) -> Iterator[Running]:
    """The image's Entrypoint and Cmd, as its user and with its environment, until ready; ``settings`` are added to it.

    ``offline``: in a network of its own, in which there is nothing but itself.
    """
    command = _in(container, settings, [*config["Entrypoint"], *config["Cmd"]])
    if offline:
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while b"serves at" not in (said := _read(log)):
                assert process.poll() is None, said.decode()
                assert time.monotonic() < started + _START_S, said.decode()
                time.sleep(0.1)
            took = time.monotonic() - started
            yield Running(container, settings, process, _served(process.pid), took, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _in(container: str, environment: dict[str, str], command: list[str]) -> list[str]:
    added = [option for name, value in environment.items() for option in ("--env", f"{name}={value}")]
    return buildah_command("run", "--isolation", "chroot", *added, container, "--", *command)


def _read(log: IO[bytes]) -> bytes:
    return os.pread(log.fileno(), 2**20, 0)


def _served(pid: int) -> int:
    """The last of the line of processes that begins with this one: buildah, its helper in the chroot, the service."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    others = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    descendants = children or others
    return _served(descendants[0]) if descendants else pid
