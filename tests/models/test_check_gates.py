"""models.check_gates on a folder of synthetic pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from models.insert import gate_state, with_gates
from models.training import check_gates
from models.training.check_gates import Examination, freeze_gates, gates_over_all
from models.training.pictures import find_pictures
from pellucid.compiler.trace.graph import TracedNetwork
from tests.models.test_insert import SIZE, pixels, small_network, train_at_random
from tests.models.test_train_gates import PREPROCESS, folder, tiny_model

__all__ = ["folder", "tiny_model"]


def test_frozen_gates_equal_their_means_for_any_picture() -> None:
    gated = with_gates(small_network(), {"stem": "channel", "stage": "channel"}, SIZE)
    means = {"stage.gate": torch.linspace(0.5, 1.5, 12), "stem.gate": torch.linspace(0.1, 1.9, 8)}
    traced = TracedNetwork(freeze_gates(gated, means), SIZE)
    readings = traced.trunk([*traced.gates.values()])(pixels())
    for gate, reading in zip(traced.gates, readings, strict=True):
        assert torch.allclose(reading.flatten(1), means[gate].expand(2, -1), atol=1e-6)


def test_every_network_sees_the_same_pixels_each_time(folder: Path) -> None:
    examination = Examination(find_pictures(folder), ("noise", "motion"), PREPROCESS, torch.float32)
    gated = with_gates(small_network(), {"stage": "channel"}, SIZE)
    train_at_random(gated)
    once = examination.run({"plain": small_network(), "gated": gated})
    again = examination.run({"gated": gated})
    for condition in ("clean", "noise", "motion"):
        assert torch.equal(once["gated"][condition].top1, again["gated"][condition].top1)
    assert gates_over_all(once["gated"])["stage.gate"].shape == (3 * 40, 12)
    assert not torch.equal(once["gated"]["clean"].gates["stage.gate"], once["gated"]["noise"].gates["stage.gate"])


def test_views_of_a_picture_are_its_centre_and_random_crops(folder: Path) -> None:
    pictures = find_pictures(folder)
    gated = with_gates(small_network(), {"stage": "channel"}, SIZE)
    train_at_random(gated)
    one, two = (
        Examination(pictures, ("noise",), PREPROCESS, torch.float32, views).run({"gated": gated})["gated"]
        for views in (1, 2)
    )
    for condition in ("clean", "noise"):
        centres, crops = two[condition].gates["stage.gate"].tensor_split(2)
        assert torch.allclose(centres, one[condition].gates["stage.gate"], atol=1e-5)
        assert not torch.allclose(crops, centres, atol=1e-3)


def test_the_command_prints_the_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gated = with_gates(small_network(), {"stem": "channel", "stage": "channel"}, SIZE)
    safetensors.torch.save_file(gate_state(gated), tmp_path / "new.safetensors")
    arguments = ["--data", str(folder), "--gates", str(tmp_path / "new.safetensors"), "--model", "tiny"]
    check_gates.main([*arguments, "--layers", "stem", "stage"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "40 pictures, views of each 1, top-1 in percent"
    rows = {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ")[1:] for line in lines if "|" in line}
    assert {"clean", "noise", "impulse (never trained on)", "mean of the damaged"} <= rows.keys()
    assert rows["clean"][3:] == ["+0.0", "+0.0"]  # untrained gates change no answers, frozen or not
    assert rows["stem.gate"] == ["8", "0.000", "1.000", "1.000", "1.000"]
