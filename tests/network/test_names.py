"""A network found by name is compiled once and cached under a key of its inputs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pellucid.network import names
from pellucid.network.names import REFUSED, NetworkNameError, find


class Compiler:
    """A fake compiler process. Writes a file, or fails as configured."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.code, self.says, self.writes = 0, "", True

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.writes and self.code == 0:
            Path(command[command.index("--out") + 1]).write_text("compiled")
        return subprocess.CompletedProcess(command, self.code, self.says)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(subprocess, "run", compiler.run)
    return compiler


def described(folder: Path) -> str:
    """Write a checkpoint, its description and its labels. Returns the network's name."""
    (folder / "pets.safetensors").write_bytes(b"weights")
    (folder / "pets.json").write_text('{"labels": "classes.names"}')
    (folder / "classes.names").write_text("cat\ndog\n")
    return f"file:{folder / 'pets.safetensors'}"


def test_a_path_is_returned_as_it_is(compiler: Compiler, tmp_path: Path) -> None:
    (tmp_path / "net").touch()
    assert find(str(tmp_path / "net")) == tmp_path / "net"
    assert find("~/nowhere.pellucid") == Path("~/nowhere.pellucid").expanduser()
    assert compiler.commands == []


def test_a_name_is_compiled_once_in_a_child_process(compiler: Compiler, tmp_path: Path) -> None:
    path = find("torchvision:resnet18", tmp_path)
    assert find("torchvision:resnet18", tmp_path) == path
    assert path.parent == tmp_path / "networks"
    assert re.fullmatch(r"torchvision-resnet18-[0-9a-f]{16}\.pellucid", path.name)
    command = [sys.executable, "-P", "-m", "pellucid.compiler", "torchvision:resnet18", "--out", str(path)]
    assert compiler.commands == [command]
    find("lite0", tmp_path, progress=False)
    assert compiler.commands[1][-1] == "--quiet"


def test_similar_names_have_different_files(compiler: Compiler, tmp_path: Path) -> None:
    found = {find(name, tmp_path) for name in ("timm:a", "timm-a", "timm/a", "x" * 300, "x" * 301)}
    assert len(found) == 5


def test_every_input_of_the_network_changes_the_file(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = described(tmp_path)
    found = [find(name, tmp_path)]
    for changed in ("pets.safetensors", "classes.names", "pets.json"):
        (tmp_path / changed).write_text("other")
        found.append(find(name, tmp_path))
    monkeypatch.setattr(names, "version", lambda library: "99")
    found.append(find(name, tmp_path))
    monkeypatch.setattr(names, "_code", lambda: "other code")
    found.append(find(name, tmp_path))
    assert len({*found}) == len(compiler.commands) == 6
    (tmp_path / "unrelated.json").write_text("{}")
    assert find(name, tmp_path) == found[-1]
    assert {*(tmp_path / "networks").glob("*.pellucid")} == {*found[-4:]}  # those that were used last


def test_a_library_that_a_name_does_not_use_compiles_nothing_again(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = {"torch": "2", "timm": "1"}
    monkeypatch.setattr(names, "version", lambda library: installed.get(library, "0"))
    found = {name: find(name, tmp_path) for name in ("lite0", "timm:resnet18")}
    said = capsys.readouterr().err
    assert "Compiling lite0 for the first time; this takes a minute or two.\n" in said
    find("lite00", tmp_path)
    assert capsys.readouterr().err == ""  # that a name is misspelt is said alone
    installed["timm"] = "2"
    assert find("lite0", tmp_path) == found["lite0"]
    assert find("timm:resnet18", tmp_path) != found["timm:resnet18"]
    assert "timm:resnet18 again: Pellucid, torch, timm or the network's files have changed" in capsys.readouterr().err


def test_brackets_in_a_checkpoints_name_are_not_a_pattern(compiler: Compiler, tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    checkpoint = folder / "pets[best].pth"
    checkpoint.write_text("one")
    first = find(f"file:{checkpoint}", tmp_path)
    checkpoint.write_text("other")
    assert find(f"file:{checkpoint}", tmp_path) != first


def test_a_folder_of_transformers_is_compiled_again_if_a_file_changes(compiler: Compiler, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first = find(f"hf:{folder}", tmp_path)
    assert find(f"hf:{folder}", tmp_path) == first
    (folder / "preprocessor_config.json").write_text("{}")
    assert find(f"hf:{folder}", tmp_path) != first


def test_a_missing_checkpoint_is_reported_by_the_compiler(compiler: Compiler, tmp_path: Path) -> None:
    compiler.code, compiler.says = REFUSED, "there is no weights file at gone.pth\n"
    with pytest.raises(NetworkNameError, match=r"^there is no weights file at gone\.pth$"):
        find(f"file:{tmp_path / 'nowhere' / 'gone.pth'}", tmp_path)


@pytest.mark.parametrize(("code", "writes"), [(1, False), (-9, False), (0, False)])
def test_a_compilation_that_ends_silently_is_reported(
    compiler: Compiler, tmp_path: Path, code: int, writes: bool
) -> None:
    compiler.code, compiler.writes = code, writes
    with pytest.raises(NetworkNameError, match=f"lite0 could not be compiled: .* exit code {code}$"):
        find("lite0", tmp_path)


def test_without_torch_the_error_says_what_to_do(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = find("lite0", tmp_path)
    monkeypatch.setattr(names, "find_spec", lambda name: None if name == "torch" else pytest.fail(name))
    assert find("lite0", tmp_path) == kept
    message = r"lite0-plain has not been compiled yet, and compiling needs torch: pip install 'pellucid\[compile\]', or"
    with pytest.raises(NetworkNameError, match=message):
        find("lite0-plain", tmp_path)


def test_without_a_writable_cache_it_is_compiled_into_a_temporary_folder(
    compiler: Compiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    found = find("lite0", tmp_path / "file")
    assert found.is_file()
    assert tmp_path not in found.parents
    assert "lite0 is compiled again at each start" in caplog.text


def test_the_child_process_says_why_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "net.pth").touch()
    (tmp_path / "net.json").write_text(json.dumps({"architecture": "torchvision:resnet18", "labels": "none.txt"}))
    with pytest.raises(NetworkNameError, match=r"there is no labels file at .*none\.txt"):
        find(f"file:{tmp_path / 'net.pth'}", tmp_path)
    assert not [*tmp_path.rglob("*.pellucid")]
