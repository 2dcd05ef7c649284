"""`pellucid compile`: a class or a name of the catalogue becomes a file, which other commands then take."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import pellucid as library
from pellucid.network.file import digest_of, load
from pellucid.network.spec import ModelSpec, OutputSpec, PreprocessSpec
from tests.commands.invoke import pellucid
from tests.support import REPOSITORY, SAMPLES, present

# Each test has a module of its own name, since an import is remembered.
SOURCE = """
import torch
from torch import nn

class Pets(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU())
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)
        self.classifier = nn.Linear(6, classes)

    def forward(self, x):
        x = self.features(x)
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return self.classifier((x * gate[:, :, None, None]).mean((2, 3)))

class Undecided(Pets):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)

class Underived(Pets):
    def forward(self, x):
        return super().forward(torch.special.zeta(x.abs() + 2, torch.ones_like(x)))

class Segmenting(Pets):
    def forward(self, x):
        return self.features(x)

class Failing:
    def __init__(self):
        raise RuntimeError("no disk")

class Nested(Pets):
    def __init__(self, head, scales):
        super().__init__(head["classes"])
        assert scales == [[1, 2.5], None, True]

def build(classes=3):
    return Pets(classes)

built = Pets(3)
number = 3
"""
USUAL = ("--size", "32", "--labels", "cat,dog,rat", "--arguments", '{"classes": 3}', "--output", "softmax")


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder that defines networks."""
    name = f"nets_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def network(module: str) -> Any:
    torch.manual_seed(0)
    return __import__(module).Pets(classes=3).eval()


def test_a_class_with_its_weights_becomes_a_file_that_answers_as_it_does(module: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    net = network(module)
    safetensors.torch.save_file(net.state_dict(), "pets.safetensors")
    Path("labels.txt").write_text("cat\ndog\nrat\n")
    options = ("--weights", "pets.safetensors", "--labels", "labels.txt", "--size", "24x32", "--resize", "32")
    more = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--interpolation", "nearest", "--squash")
    told = ("--name", "animals", "--title", "Three animals", "--arguments", '{"classes": 3}', "--output", "softmax")
    done = pellucid("compile", f"{module}:Pets", "--out", "pets.pellucid", *options, *more, *told)
    assert done.exit_code == 0, done.stderr
    compiled = load(Path("pets.pellucid"))
    size = Path("pets.pellucid").stat().st_size / 1e6
    first, limit = done.stdout.splitlines()
    assert first == f"pets.pellucid: animals, {size:.1f} MB, {len(compiled.spec.layers)} layers, 1 gate"
    assert limit.startswith("it runs at one size of pixels: ")  # its sides are no multiples of the pixels'
    assert done.stderr == ""  # no bar is drawn into a file
    spec, preprocess = compiled.model, compiled.model.preprocess
    assert (spec.name, spec.title, spec.labels) == ("animals", "Three animals", ("cat", "dog", "rat"))
    assert (preprocess.size, preprocess.resize, preprocess.interpolation) == ((24, 32), 32, "nearest")
    assert (preprocess.mean, preprocess.std, preprocess.squash) == ((0.5,) * 3, (0.25,) * 3, True)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = library.open("pets.pellucid", precision="fp32", threads=1).predict(pixels)
    with torch.no_grad():
        expected = net((torch.from_numpy(pixels[4:28]).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25)[0]
    logits = [present(each.logit) for each in sorted(found, key=lambda each: each.index)]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_what_is_not_given_is_imagenets_and_the_files_name(module: str) -> None:
    done = pellucid("compile", f"{module}:Pets", "--out", "pets.pellucid", *USUAL)
    assert done.exit_code == 0, done.stderr
    spec = load(Path("pets.pellucid")).model
    assert (spec.name, spec.title, spec.labels) == ("pets", "Pets", ("cat", "dog", "rat"))
    assert (spec.preprocess.size, spec.preprocess.resize) == ((32, 32), 37)
    assert spec.preprocess.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("build", ()),
        ("build", ("--arguments", '{"classes": 3}')),
        ("built", ()),
        ("Nested", ("--arguments", '{"head": {"classes": 3}, "scales": [[1, 2.5], null, true]}')),
    ],
)
def test_a_function_a_network_and_nested_arguments_are_taken(module: str, named: str, options: tuple[str, ...]) -> None:
    usual = ("--size", "32", "--labels", "cat,dog,rat", "--output", "softmax")
    done = pellucid("compile", f"{module}:{named}", "--out", "pets.pellucid", *usual, *options)
    assert done.exit_code == 0, done.stderr
    assert load(Path("pets.pellucid")).model.source == f"compiled from {module}:{named}"


def test_a_lightning_checkpoint_is_loaded_under_its_prefix(module: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    net = network(module)
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    state |= {f"ema.{key}": torch.zeros_like(value) for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 0.1}}, "last.ckpt")
    asked = ("compile", f"{module}:Pets", "--out", "pets.pellucid", *USUAL, "--weights", "last.ckpt")
    done = pellucid(*asked)
    assert (done.exit_code, Path("pets.pellucid").exists()) == (2, False)
    assert "under the prefixes model., ema.: choose one by --strip-prefix" in done.stderr
    done = pellucid(*asked, "--strip-prefix", "model")
    assert done.exit_code == 0, done.stderr
    weight = load(Path("pets.pellucid")).weights["classifier.weight"]
    np.testing.assert_array_equal(weight, net.classifier.weight.detach())


def exported(module: str, folder: Path, batch: Any = torch.export.Dim.AUTO) -> Any:
    sys.path.insert(0, str(folder))
    net = network(module)
    program = torch.export.export(net, (torch.zeros(2, 3, 24, 32),), dynamic_shapes=({0: batch},) if batch else None)
    torch.export.save(program, "pets.pt2")
    return net


def test_a_file_of_torch_export_becomes_a_file_that_answers_as_the_network_does(module: str, tmp_path: Path) -> None:
    net = exported(module, tmp_path)
    usual = ("--labels", "cat,dog,rat", "--output", "softmax")
    done = pellucid("compile", "pets.pt2", "--out", "out.pellucid", *usual, "--mean", "0,0,0")
    assert done.exit_code == 0, done.stderr
    compiled = load(Path("out.pellucid"))
    assert (compiled.model.name, compiled.model.title, len(compiled.spec.gates)) == ("out", "pets", 1)
    assert compiled.model.source == "compiled from pets.pt2"
    assert (compiled.model.preprocess.size, compiled.model.preprocess.mean) == ((24, 32), (0, 0, 0))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    found = library.open("out.pellucid", precision="fp32", threads=1).predict(pixels)
    assert len(found) == 3
    for other, said in {
        ("--size", "32"): "pets.pt2 takes pixels of 24x32, not 32x32",
        ("--arguments", "{}"): "--arguments needs a class",
    }.items():
        done = pellucid("compile", "pets.pt2", "--out", "no.pellucid", *usual, *other)
        assert done.exit_code == 2
        assert said in done.stderr
    torch.save({f"net.{key}": value + 1 for key, value in net.state_dict().items()}, "tuned.pth")
    tuned = (*usual, "--weights", "tuned.pth")
    done = pellucid("compile", "pets.pt2", "--out", "tuned.pellucid", *tuned)
    assert done.exit_code == 0, done.stderr
    bias = load(Path("tuned.pellucid")).weights["classifier.bias"]
    np.testing.assert_array_equal(bias, net.classifier.bias.detach() + 1)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_file_that_is_no_network_is_answered_with_the_way_that_works(module: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    net = network(module)
    torch.jit.trace(net, torch.zeros(1, 3, 32, 32)).save("script.pt")  # type: ignore[no-untyped-call]
    torch.save(net.state_dict(), "weights.pth")
    torch.save(net, "whole.pth")
    for file, said in {
        "script.pt": "script.pt is TorchScript, a program that is not run: build the network by its class and load its "
        "state_dict, or export it with torch.export (.pt2) or to ONNX",
        "weights.pth": "weights.pth holds weights and no network: name its class, pellucid compile package",
        "whole.pth": "whole.pth can't be loaded without running its code",
        "gone.pt2": "there is no weights file at gone.pt2",
    }.items():
        done = pellucid("compile", file, "--out", "out.pellucid", *USUAL[:4])
        assert done.exit_code == 2
        assert said in done.stderr.splitlines()[-1]


PARTS = ",".join("abcdef")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Pets", ("--labels", "cat,dog", "--output", "sigmoid"), OutputSpec("sigmoid", (2,))),
        (
            "Pets",
            ("--labels", "a,b", "--output", "sigmoid", "--threshold", "0.3"),
            OutputSpec("sigmoid", (2,), (), 0.3),
        ),
        ("Pets", ("--labels", "age,n", "--output", "linear", "--units", "y,"), OutputSpec("linear", (2,), ("y", ""))),
        ("Pets", ("--output", "embedding"), OutputSpec("embedding", (2,))),
        ("Segmenting", ("--labels", PARTS), OutputSpec("dense", (6, 7, 7))),
        ("Segmenting", ("--labels", PARTS, "--background", "b"), OutputSpec("dense", (6, 7, 7), background=1)),
        ("Segmenting", ("--labels", PARTS, "--background", "2"), OutputSpec("dense", (6, 7, 7), background=2)),
    ],
)
def test_the_output_is_declared_or_found_out(
    module: str, name: str, options: tuple[str, ...], expected: OutputSpec
) -> None:
    done = pellucid("compile", f"{module}:{name}", "--out", "pets.pellucid", "--size", "32", *options)
    assert done.exit_code == 0, done.stderr
    assert load(Path("pets.pellucid")).model.output == expected


def test_an_onnx_file_becomes_a_file_that_answers_as_its_network(module: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    net = network(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(1, 3, 32, 32),), "animals.onnx", dynamo=False)
    done = pellucid(
        "compile", "animals.onnx", "--labels", "cat,dog,rat", "--output", "softmax", "--out", "pets.pellucid"
    )
    assert done.exit_code == 0, done.stderr
    assert "1 gate" in done.stdout
    spec = load(Path("pets.pellucid")).model
    assert (spec.name, spec.title, spec.preprocess.size) == ("pets", "animals", (32, 32))
    assert (spec.source, spec.weights_sha256) == ("compiled from animals.onnx", digest_of(Path("animals.onnx")))
    assert pellucid("compile", "animals.onnx", "--out", "pets.pellucid").exit_code == 2
    refused = pellucid("compile", "animals.onnx", *USUAL, "--out", "pets.pellucid")
    assert "--arguments needs a class" in refused.stderr
    other = pellucid("compile", "animals.onnx", "--labels", "a,b,c", "--size", "64", "--out", "pets.pellucid")
    assert "takes pixels of 32x32, not 64x64" in other.stderr


def test_what_can_not_be_asked_of_the_network_is_said(module: str) -> None:
    done = pellucid("compile", f"{module}:Underived", "--out", "pets.pellucid", *USUAL)
    assert done.exit_code == 0, done.stderr
    _, *limits = done.stdout.splitlines()
    assert limits == [*load(Path("pets.pellucid")).manifest.limits]
    assert "the derivative for 'zeta' is not implemented" in limits[0]
    assert "OpenVINO can't run the network" in limits[1]


def test_other_commands_take_the_file_as_their_model(module: str) -> None:
    assert pellucid("compile", f"{module}:Pets", "--out", "pets.pellucid", *USUAL).exit_code == 0
    (listed,) = json.loads(pellucid("models", "--model", "pets.pellucid", "--json").stdout)
    assert (listed["name"], listed["classes"]) == ("pets", 3)
    assert json.loads(pellucid("layers", "pets.pellucid", "--json").stdout)["gates"]
    explained = pellucid("explain", SAMPLES / "cat.jpg", "--model", "pets.pellucid", "--out", "explained")
    assert explained.exit_code == 0, explained.stderr
    best = json.loads(Path("explained/cat/predictions.json").read_text())["predictions"][0]
    assert best["label"] in ("cat", "dog", "rat")
    missing = pellucid("models", "--model", "rats.pellucid")
    assert missing.exit_code == 2
    assert "rats.pellucid" in missing.stderr


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [((), 0, 10_000), (("--high", "5000"), 0, 5000), (("--low", "10"), 10, 10_000)],
)
def test_a_name_of_the_catalogue_keeps_what_is_not_given_anew(
    module: str, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], low: float, high: float
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    preprocess = PreprocessSpec(
        (32, 32), 36, "bicubic", (0.5,) * 3, (0.5,) * 3, low=(0.0,) * 3, high=(10_000.0,) * 3, depth="float32"
    )
    spec = ModelSpec("bands", "Bands", ("a", "b", "c"), preprocess, "this test", output=OutputSpec("softmax", (3,)))
    monkeypatch.setattr("pellucid.compiler.sources.named", lambda name: (network(module), spec))
    done = pellucid("compile", "bands", "--title", "Reflectance", "--size", "64", "--out", "bands.pellucid", *options)
    assert done.exit_code == 0, done.stderr
    model = load(Path("bands.pellucid")).model
    assert (model.name, model.title, model.labels) == ("bands", "Reflectance", ("a", "b", "c"))
    found = model.preprocess
    assert (found.size, found.resize, found.interpolation) == ((64, 64), 73, "bicubic")
    assert (found.depth, found.low, found.high) == ("float32", (low,) * 3, (high,) * 3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("lite1",), "unknown model 'lite1'"),
        (("nowhere:Net", *USUAL), "nowhere:Net can't be imported: No module named 'nowhere'"),
        (("{}:Net", *USUAL), "can't be imported"),
        (("{}:SOURCE", *USUAL), "can't be imported"),
        (("{}:number", *USUAL), ":number is not a class, a function or a network, but of the type int"),
        (("{}:built", *USUAL), ":built is a network that is built already, so --arguments have no use"),
        (("{}:Nested", *USUAL[:4]), "; --arguments gives its arguments, or name a function without any that builds it"),
        (("nets.py:Pets", *USUAL), "nets.py:Pets names a file: name its module, as nets:Pets"),
        (("{}:Failing", "--size", "32", "--labels", "a,b"), "no disk"),
        (("{}:nn.ReLU", "--size", "32", "--labels", "a,b", "--output", "softmax"), "can't be compiled"),
        (("{}:nn.ReLU", "--size", "32", "--labels", "a,b"), "3 classes, and 2 labels"),
        (("{}:torch.Size", "--size", "32", "--labels", "a,b"), "returns Size, not a torch.nn.Module"),
        (("{}:Undecided", "--size", "32", "--labels", "a,b"), "can't be traced"),
        (("{}:Pets",), "--size"),
        (("{}:Pets", "--size", "32"), "--labels"),
        (("{}:Pets", "--size", "32", "--output", "softmax", "--labels", "a,b,c"), "2 classes, and 3 labels"),
        (("{}:Pets", "--size", "32", "--labels", "a,b"), "Declare the output: softmax"),
        (("{}:Pets", *USUAL, "--units", "m,m,m"), "only the output linear has units"),
        (("{}:Pets", *USUAL, "--output", "linear", "--units", "m"), "only the output linear has units"),
        (("{}:Pets", *USUAL, "--output", "sigmoid", "--threshold", "0"), "threshold is a probability"),
        (("{}:Pets", *USUAL, "--background", "cow"), "background 'cow' is not among the labels"),
        (("{}:Pets", *USUAL, "--background", "cat"), "only the output dense has a background"),
        (("{}:Pets", *USUAL, "--output", "embedding"), "has no labels"),
        (("lite0", "--output", "dense"), "the output dense has the shape"),
        (("{}:Pets", *USUAL, "--arguments", "[1]"), "--arguments is a JSON object"),
        (("{}:Pets", *USUAL, "--arguments", '{"clases": 3}'), "clases"),
        (("lite0", "--arguments", "{}"), "--arguments needs a class"),
        (("{}:Pets", *USUAL, "--size", "32x"), "--size"),
        (("{}:Pets", *USUAL, "--mean", "1,2"), "takes 3 channels, not 2 (channel 1, channel 2): give mean and std"),
        (("{}:Pets", *USUAL, "--mean", "1,2", "--std", "1,1,1"), "mean has 2 numbers, one for each channel, and std 3"),
        (("{}:Pets", *USUAL, "--mean", "a"), "--mean"),
        (("{}:Pets", *USUAL, "--low", "2", "--high", "1"), "low must be below high"),
        (("{}:Pets", *USUAL, "--shown", "nir"), "shown names one or three of red, green, blue, not nir"),
        (("lite0-plain", "--mean", "0.5"), "mean has 1 number, one for each channel, and std 3"),
        (("{}:Pets", *USUAL, "--std", "1,0,1"), "--std"),
        (("{}:Pets", *USUAL, "--name", "a/b"), "'a/b'"),
        (("{}:Pets", *USUAL, "--weights", "none.pth"), "none.pth"),
        (("{}:Pets", *USUAL, "--weights", "other.safetensors"), "do not fit Pets: missing"),
        (("{}:Pets", *USUAL, "--out", "/dev/null/x.pellucid"), "can't be written"),
    ],
)
def test_what_can_not_be_compiled_is_said_in_one_sentence(module: str, asked: tuple[str, ...], said: str) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(1)}, "other.safetensors")
    done = pellucid("compile", "--out", "out.pellucid", *(each.replace("{}:", f"{module}:") for each in asked))
    assert done.exit_code == 2, done.stderr
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert said in last
    assert not Path("out.pellucid").exists()


def test_a_pickled_network_is_not_run(module: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    torch.save(network(module), "whole.pth")
    done = pellucid("compile", f"{module}:Pets", "--out", "out.pellucid", *USUAL, "--weights", "whole.pth")
    assert done.exit_code == 2
    assert "without running its code" in done.stderr


def test_without_torch_it_says_what_to_install(tmp_path: Path) -> None:
    hidden = "import importlib.util as u; find = u.find_spec\nu.find_spec = lambda name, *a: None if name == 'torch' "
    script = hidden + "else find(name, *a)\nfrom service.cli import main; main()"
    command = [sys.executable, "-c", script, "compile", "lite0", "--out", str(tmp_path / "out.pellucid")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install 'pellucid[compile]'" in done.stderr


def test_channels_and_their_range_are_options(module: str) -> None:
    options = ("--channels", "nir, red,green", "--low", "0,0,1", "--high", "100", "--shown", "red")
    done = pellucid("compile", f"{module}:Pets", *USUAL, *options, "--out", "pets.pellucid")
    assert done.exit_code == 0, done.stderr
    found = load(Path("pets.pellucid")).model.preprocess
    assert (found.channels, found.low, found.high) == (("nir", "red", "green"), (0, 0, 1), (100, 100, 100))
    assert (found.shown, found.depth, found.mean) == (("red",), "float32", (0.485, 0.456, 0.406))
