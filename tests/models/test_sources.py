"""Loading networks by name from torchvision, timm and files, and the errors if that fails."""

from __future__ import annotations

import builtins
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
from models.lite0 import EfficientNetLite0
from models.sources import timm_source, torchvision_source
from pellucid.compiler.trace.graph import TracedNetwork, UntraceableError
from pellucid.compiler.weights import WeightsError, digest, read_state
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
    assert spec.weights_sha256 == digest(tmp_path / f"pets{suffix}")
    assert spec.preprocess == torchvision_source.preprocess("mobilenet_v3_small")
    assert len(TracedNetwork(loaded, spec.preprocess.size).spec.gates) == 9


def test_a_description_may_be_toml_with_labels_in_a_file_and_its_own_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "pets.safetensors"
    safetensors.torch.save_file(small().state_dict(), path)
    (tmp_path / "labels.txt").write_text("cat\ndog\nrat\n")
    path.with_suffix(".toml").write_text(
        'architecture = "torchvision:mobilenet_v3_small"\nlabels = "labels.txt"\nname = "my-pets"\n'
        f'sha256 = "{digest(path)}"\n[preprocess]\nsize = 128\nmean = [0.5, 0.5, 0.5]\n'
    )
    _, spec = catalog.load(f"file:{path}")
    assert (spec.name, spec.labels) == ("my-pets", ("cat", "dog", "rat"))
    assert (spec.preprocess.size, spec.preprocess.resize) == ((128, 128), 146)  # 128 of 146 pixels as 224 of 256
    assert spec.preprocess.mean == (0.5, 0.5, 0.5)
    assert spec.preprocess.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("architecture", "net"),
    [
        ("lite0", lambda: EfficientNetLite0(3)),
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


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    message = r"^pets\.pth can't be loaded without running its code: .* save its model\.state_dict\(\) instead$"
    with pytest.raises(WeightsError, match=message):
        catalog.load(described(tmp_path, {"net": small()}, ".pth"))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_saved_program_or_a_damaged_file_is_refused_and_the_error_says_what_to_use(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    pixels = torch.zeros(1, 3, 2, 2)
    torch.jit.trace(net, pixels).save(str(tmp_path / "script.pt"))  # type: ignore[no-untyped-call]
    torch.export.save(torch.export.export(net, (pixels,)), tmp_path / "exported.pt2")
    torch.save(net.state_dict(), tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:500])
    (tmp_path / "empty.pth").write_bytes(b"")
    program = r"holds a program \((TorchScript|torch\.export)\), which is not run"
    damaged = "is damaged or is not a weights file"
    supported = r": use a \.safetensors file, or the network's state_dict\(\) saved by torch\.save$"
    for name, reason in {
        "script.pt": program,
        "exported.pt2": program,
        "half.pth": damaged,
        "empty.pth": damaged,
    }.items():
        with pytest.raises(WeightsError, match=f"^{name} {reason}{supported}"):
            read_state(tmp_path / name)


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
        ("resnet18", "known: lite0, lite0-plain, torchvision:NAME, timm:NAME, file:PATH"),
        ("torchvision:resnet19", "close to it: torchvision:resnet1"),
        ("torchvision:lraspp_mobilenet_v3_large", "segments pictures; .* close to it: torchvision:mobilenet_v3_large$"),
        ("torchvision:fcn_resnet50", "segments pictures; .* close to it: torchvision:resnet50$"),
        ("torchvision:fasterrcnn_resnet50_fpn", "detects objects; .* close to it: torchvision:resnet50$"),
        ("torchvision:quantized_resnet18", "is quantized; .* close to it: torchvision:resnet18$"),
        ("torchvision:r3d_18", "classifies videos; only torchvision's float image classifiers are supported$"),
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
    for name in torchvision.models.list_models(module=torchvision.models):
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
