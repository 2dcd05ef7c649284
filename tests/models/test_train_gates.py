"""models.train_gates on a folder of synthetic pictures: training, resuming and determinism."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from models import catalog
from models.insert import gate_state, gates_of, with_gates
from models.training import train_gates
from models.training.corruptions import HELD_OUT, TRAINED
from models.training.pictures import Sampler, centre_crop, find_pictures, to_pixels
from models.training.recipe import StandardisedAttention, draw_batch, fold
from pellucid.network.spec import ModelSpec, PreprocessSpec
from tests.models.test_insert import SIZE, pixels, small_network

PREPROCESS = PreprocessSpec((32, 32), 36, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    for number in range(40):
        source, label = ("photos", "drawings")[number % 2], number % 5
        path = tmp_path / "data" / source / f"{label:04}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (40, 48 + number, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny() -> tuple[nn.Module, ModelSpec]:
        return small_network(), ModelSpec("tiny", "a test's", tuple("abcde"), PREPROCESS, "seeded")

    monkeypatch.setitem(catalog._NETWORKS, "tiny", tiny)


def run(folder: Path, out: Path, *more: str) -> dict[str, Tensor]:
    arguments = ["--data", str(folder), "--out", str(out), "--model", "tiny", "--layers", "stem", "stage"]
    train_gates.main([*arguments, "--steps", "4", "--batch", "6", "--side", "32", *more])
    return safetensors.torch.load_file(out)


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_command_writes_trained_gates(folder: Path, tmp_path: Path) -> None:
    state = run(folder, tmp_path / "gates.safetensors", "--share", "photos=3", "--share", "drawings=1")
    assert state.keys() == gate_state(with_gates(small_network(), {"stem": "channel", "stage": "channel"}, SIZE)).keys()
    assert state["stage.gate.excite.weight"].abs().max() > 0
    assert not (tmp_path / "gates.checkpoint").exists()


def test_the_seed_decides_the_weights_also_of_a_resumed_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = run(folder, tmp_path / "unbroken.safetensors")
    assert not equal(unbroken, run(folder, tmp_path / "other.safetensors", "--seed", "8"))
    monkeypatch.setattr(train_gates, "CHECKPOINT_EVERY", 2)
    drawn = []

    def until_the_power_fails(*arguments: object) -> object:
        drawn.append(arguments)
        if len(drawn) > 4:  # one for the statistics, then three steps
            raise KeyboardInterrupt
        return draw_batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train_gates, "draw_batch", until_the_power_fails)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "broken.safetensors")
    assert (tmp_path / "broken.checkpoint").exists()
    monkeypatch.setattr(train_gates, "draw_batch", draw_batch)
    with pytest.raises(train_gates.CheckpointError, match="seed 0 -> 1"):
        run(folder, tmp_path / "broken.safetensors", "--seed", "1")
    assert equal(run(folder, tmp_path / "broken.safetensors"), unbroken)


def test_static_gates_do_not_depend_on_the_picture(folder: Path, tmp_path: Path) -> None:
    state = run(folder, tmp_path / "gates.safetensors", "--static")
    assert state["stage.gate.excite.weight"].abs().max() == 0
    assert state["stage.gate.excite.bias"].abs().max() > 0


def test_gates_of_nested_layers_are_trained(folder: Path, tmp_path: Path) -> None:
    state = run(folder, tmp_path / "gates.safetensors", "--layers", "stage", "stage.conv")
    assert {name.rpartition(".gate.")[0] for name in state} == {"stage", "stage.layer.conv"}


def test_a_missing_folder_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(folder, tmp_path / "missing" / "gates.safetensors")


def test_folding_the_statistics_does_not_change_the_logits() -> None:
    gated = with_gates(small_network(), {"stage": "channel"}, SIZE)
    torch.manual_seed(3)
    layer = dict(gates_of(gated))["stage"]
    gate = StandardisedAttention(torch.randn(12) * 10, torch.rand(12) * 5)
    nn.init.normal_(gate.excite.weight)
    layer.gate = gate
    before = gated(pixels())
    fold(gated)
    assert gate_state(gated).keys() == gate_state(with_gates(small_network(), {"stage": "channel"}, SIZE)).keys()
    assert torch.allclose(gated(pixels()), before, atol=1e-5)
    assert not torch.allclose(before, small_network()(pixels()), atol=1e-3)


def test_the_held_out_part_is_never_trained_on(folder: Path) -> None:
    everything, fit, dev = (find_pictures(folder, part) for part in ("all", "fit", "dev"))
    assert {p.path for p in fit} | {p.path for p in dev} == {p.path for p in everything}
    assert 0 < len(dev) < len(fit)
    assert not {p.path for p in fit} & {p.path for p in dev}
    assert {(p.source, p.label) for p in everything} == {(s, n) for n in range(5) for s in ("photos", "drawings")}
    with pytest.raises(ValueError, match="no such source: paintings"):
        Sampler(everything, {"paintings": 1.0})


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"CCCC/name\.jpg"):
        find_pictures(tmp_path)


@pytest.mark.parametrize("name", [*TRAINED, *HELD_OUT])
def test_each_corruption_damages_more_with_strength_and_repeats(name: str) -> None:
    corruption = (TRAINED | HELD_OUT)[name]
    steps = np.linspace(20, 200, 160)
    slope = np.stack([np.tile(steps, (160, 1)), np.tile(steps[:, None], (1, 160)), np.full((160, 160), 90)], 2)
    picture = (slope + np.random.default_rng(0).integers(0, 50, slope.shape)).astype(np.uint8)

    def damage(strength: float) -> float:
        results = [corruption(picture, strength, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
        assert np.array_equal(results[0], results[1])
        assert {(r.shape, r.dtype) for r in results} == {(picture.shape, picture.dtype)}
        return float(np.mean([np.abs(r.astype(float) - picture).mean() for r in results]))

    assert 0 < damage(0) < damage(1)


def test_pictures_are_preprocessed_by_the_networks_spec(folder: Path) -> None:
    picture = find_pictures(folder)[0]
    crop = centre_crop(picture.path, PREPROCESS)
    assert crop.shape == (32, 32, 3)
    x = to_pixels([crop], PREPROCESS)
    assert x.shape == (1, 3, 32, 32)
    assert torch.allclose(x[0, :, 5, 7], (torch.tensor(crop[5, 7]) / 255 - 0.5) / 0.25)
