"""Networks that transformers saved: tiny ones with random weights, saved by the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from models import catalog
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.compiler.weights import WeightsError
from pellucid.decode.preprocess import Frame, to_input
from pellucid.network.file import digest_of
from tests.support import SAMPLES

LABELS = {0: "cat", 1: "dog", 2: "rat"}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
SEGFORMER = {
    **{"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
    "decoder_hidden_size": 16,
}
# The class of the network, its configuration, and that of its image processor.
KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "ResNetForImageClassification": (RESNET, "ConvNextImageProcessor", {"size": {"shortest_edge": 64}}),
    "ViTForImageClassification": (
        {**VIT, "image_size": 32},
        "ViTImageProcessor",
        {"size": {"height": 32, "width": 32}},
    ),
    "ConvNextForImageClassification": (
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 384}},
    ),
    "SwinForImageClassification": (
        {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "window_size": 4, "patch_size": 4},
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    ),
    "SegformerForSemanticSegmentation": (
        SEGFORMER,
        "SegformerImageProcessor",
        {"size": {"height": 64, "width": 64}},
    ),
    "CLIPVisionModelWithProjection": (
        {**VIT, "image_size": 32, "projection_dim": 24},
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    ),
    "ViTModel": ({**VIT, "image_size": 32}, "ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "ResNetModel": (
        RESNET,
        "DeiTImageProcessor",
        {"size": {"height": 72, "width": 72}, "crop_size": {"height": 64, "width": 48}},
    ),
}


def saved(folder: Path, architecture: str, labels: dict[int, str] = LABELS, **changes: Any) -> Any:
    """Save a network and its image processor into the folder, and return both."""
    config, kind, fields = KINDS[architecture]
    torch.manual_seed(0)
    network = getattr(transformers, architecture)
    made = network.config_class(**{**config, "id2label": labels, **changes})
    net = network(made).eval()
    net.save_pretrained(folder)
    processor = getattr(transformers, kind)(**fields)
    processor.save_pretrained(folder)
    return net, processor


def output_of(net: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        given = net(pixels)
    for key in ("logits", "image_embeds", "pooler_output"):
        if key in given:
            found: Tensor = given[key]
            return found if key == "logits" else found.flatten(1)
    raise AssertionError


@pytest.mark.parametrize("architecture", KINDS)
def test_a_folder_brings_labels_preprocessing_and_the_kind_of_output(tmp_path: Path, architecture: str) -> None:
    net, processor = saved(tmp_path / "pets", architecture)
    loaded, spec = catalog.load(f"hf:{tmp_path / 'pets'}")
    assert (spec.name, spec.title) == ("pets", f"{architecture}, pets")
    assert spec.weights_sha256 == digest_of(tmp_path / "pets" / "model.safetensors")
    picture = Image.open(SAMPLES / "cat.jpg").convert("RGB")
    expected = processor(images=picture, return_tensors="pt")["pixel_values"]
    sides = expected.shape[2:]
    assert spec.preprocess.size == tuple(sides)
    pixels = to_input(picture, Frame.of(*picture.size, spec.preprocess), spec.preprocess).astype(np.float32) / 255
    mean, std = (np.array(values, np.float32) for values in (spec.preprocess.mean, spec.preprocess.std))
    own = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None]
    assert float((own - expected).abs().mean()) < 0.05
    with torch.no_grad():
        given = loaded(expected)
    torch.testing.assert_close(given, output_of(net, expected))
    if architecture.endswith("SemanticSegmentation"):
        assert (spec.output.kind, spec.labels, given.shape) == ("dense", ("cat", "dog", "rat"), (1, 3, 16, 16))
    elif architecture.endswith("ImageClassification"):
        assert (spec.output.kind, spec.labels, given.shape) == ("softmax", ("cat", "dog", "rat"), (1, 3))
        traced = TracedNetwork(loaded, spec.preprocess.size)
        assert traced.spec.default_layer
        assert not traced.spec.default_layer.startswith("net")  # no module around it renames its layers
    else:
        assert (spec.output.kind, spec.labels, given.ndim) == ("embedding", (), 2)


@pytest.mark.parametrize(
    ("problem", "kind", "labels"),
    [
        ("single_label_classification", "softmax", LABELS),
        ("multi_label_classification", "sigmoid", LABELS),
        ("regression", "linear", LABELS),
        (None, "linear", {0: "age"}),
    ],
)
def test_the_type_of_problem_gives_the_kind_of_output(
    tmp_path: Path, problem: str | None, kind: str, labels: dict[int, str]
) -> None:
    saved(tmp_path, "ResNetForImageClassification", labels, problem_type=problem)
    _, spec = catalog.load(f"hf:{tmp_path}")
    assert (spec.output.kind, spec.labels) == (kind, tuple(labels.values()))


def test_a_first_label_background_is_the_background(tmp_path: Path) -> None:
    saved(tmp_path, "SegformerForSemanticSegmentation", {0: "Background", 1: "road"})
    assert catalog.load(f"hf:{tmp_path}")[1].output.background == 0


def changed(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"architectures": ["PetsForImageClassification"]}, "which transformers .* does not have; code"),
        ("config.json", {"architectures": None}, "names no class under architectures"),
        ("config.json", {"architectures": ["BertModel"]}, "which takes input_ids; supported: a classifier"),
        ("config.json", {"problem_type": "ranking"}, "ranking"),
        ("config.json", {"hidden_sizes": [8, 24]}, "hf:"),
        ("config.json", {"depths": [1, 2]}, r"do not fit ResNetForImageClassification: missing: resnet\.encoder"),
        (
            "preprocessor_config.json",
            {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True, "do_normalize": False},
            "does more than resize a picture",
        ),
        ("preprocessor_config.json", {"resample": 1}, r"the image processor of hf:.* can't be used"),
        (
            "preprocessor_config.json",
            {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 32}},
            "resizes pictures to 64x32 pixels whatever their shape",
        ),
    ],
)
def test_what_a_folder_can_not_have_is_said(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    saved(tmp_path, "ResNetForImageClassification")
    changed(tmp_path, file, **changes)
    with pytest.raises(WeightsError, match=message):
        catalog.load(f"hf:{tmp_path}")


def test_a_network_without_a_vector_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "SegformerForSemanticSegmentation")
    changed(tmp_path, "config.json", architectures=["SegformerModel"])
    transformers.SegformerModel(transformers.SegformerConfig(**SEGFORMER)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="a SegformerModel, which returns last_hidden_state; supported: a class"):
        catalog.load(f"hf:{tmp_path}")


def test_files_that_are_missing_or_would_run_code_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no config\.json in the folder"):
        catalog.load(f"hf:{tmp_path}")
    net, _ = saved(tmp_path, "ResNetForImageClassification")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no preprocessor_config\.json, so its preprocessing is unknown"):
        catalog.load(f"hf:{tmp_path}")
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no model\.safetensors: save it by save_pretrained"):
        catalog.load(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json can't be read"):
        catalog.load(f"hf:{tmp_path}")


def test_without_transformers_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(WeightsError, match=r"pip install 'pellucid\[transformers\]'"):
        catalog.load(f"hf:{tmp_path}")
