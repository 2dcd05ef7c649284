"""`pellucid.open` returns the same answers and errors as the HTTP client of a server with the same network."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pellucid
from pellucid import ApiError, Client, Network
from pellucid.client import Figure
from pellucid.errors import InvalidOption, PellucidError, Unexplainable, UnknownName, UnsupportedMediaType
from pellucid.network.file import NetworkFileError
from pellucid.network.names import NetworkNameError
from pellucid.schemas import Attention, Comparison, FeatureMap, GradCam, Prediction, Result, WhatIf
from tests.support import SAMPLES, compiled, difference

CAT, COFFEE = SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg"
GATE = "blocks.15.gate"
TRUST = {"trust": True, "trust_steps": 2, "trust_maps": 4}


@pytest.fixture(scope="module")
def asked(server: str) -> Iterator[Client]:
    with Client(server, timeout_s=200) as client:
        yield client


@pytest.fixture(scope="module")
def plain() -> Network:
    return pellucid.open(compiled("lite0-plain"), precision="fp32", threads=1)


def told(answer: Any) -> Any:
    """An answer of either as plain data, without the time of trials, which only a server measures."""
    if isinstance(answer, list):
        return [told(each) for each in answer]
    found: Any = answer.model_dump(exclude_unset=True)
    for cam in found.get("grad_cam") or []:
        (cam.get("trust") or {"cost": {}})["cost"].pop("estimated_ms", None)
    return found


ASKED: list[tuple[str, dict[str, Any], type]] = [
    ("predict", {}, list),
    ("predict", {"top_k": 3}, list),
    ("attention", {}, Attention),
    ("attention", {"target": "tabby", "layer": "blocks.10"}, Attention),
    ("attention", {"effects": False}, Attention),
    ("attention", {"restore": GATE}, Attention),
    ("feature_maps", {}, list),
    ("feature_maps", {"layers": ["stem", "blocks.4"], "count": 3, "scale": "layer", "colormap": "magma"}, list),
    ("feature_maps", {"gates": GATE, "channels": [0, 5], "tile": 32, "columns": 1}, list),
    ("grad_cam", {}, list),
    ("grad_cam", {"layer": ["blocks.10", "head"], "method": "grad-cam,hirescam", "target": [281, "espresso"]}, list),
    ("grad_cam", {"layer": ["blocks.10", "head"], "fuse": "mean", "overlay": True, "alpha": 0.3}, list),
    ("grad_cam", {"against": "tabby", "against_weight": 0.6, "signed": True}, list),
    ("grad_cam", {"method": "ablation-cam", "layer": "stem"}, list),
    ("grad_cam", {"method": "smoothgrad", "layer": "pixels", "samples": 2}, list),
    ("what_if", {"mute": [1, 2], "target": "tabby", "max_side": 64}, WhatIf),
    ("what_if", {"gate": GATE, "scale": ["3:0.5", "4:2"]}, WhatIf),
    ("what_if", {"layer": "head", "keep": 7, "rank": True}, WhatIf),
    ("compare", {"target": [281, 285]}, Comparison),
    ("explain", {}, Result),
    ("explain", {"include": ["predictions", "grad_cam"], "overlay": True, "layer": "blocks.15", **TRUST}, Result),
    ("explain", {"effects": True, "target": ["tabby", "tiger cat"], "layers": "stem"}, Result),
]


@pytest.mark.parametrize(("method", "options", "kind"), ASKED)
def test_answers_equal_the_clients(
    lite0: Network, asked: Client, method: str, options: dict[str, Any], kind: type
) -> None:
    here, there = (getattr(one, method)(CAT, **options) for one in (lite0, asked))
    assert type(here) is type(there)
    assert isinstance(here, kind)
    assert difference(told(there), told(here)) is None


def test_a_network_prints_as_one_line(lite0: Network) -> None:
    assert repr(lite0.compiled) == "<network lite0: 1000 classes, 224 x 224 pixels, 225 layers, 7 gates>"
    assert repr(lite0) == f"{repr(lite0.compiled)[:-1]}, {lite0.engine.info.description}>"


def test_lists_hold_the_clients_types(lite0: Network) -> None:
    assert {type(each) for each in lite0.predict(CAT)} == {Prediction}
    assert {type(each) for each in lite0.feature_maps(CAT, layers="stem")} == {FeatureMap}
    assert {type(each) for each in lite0.grad_cam(CAT)} == {GradCam}


def test_a_comparison_of_two_pictures_equals_the_clients(lite0: Network, asked: Client) -> None:
    here, there = (one.compare(CAT, COFFEE, layer="blocks.10", max_side=64) for one in (lite0, asked))
    assert difference(told(there), told(here)) is None


def test_a_comparison_of_two_networks_equals_the_clients(lite0: Network, plain: Network, asked: Client) -> None:
    here = lite0.compare(CAT, against=plain, against_layer="blocks.10", layer="head", max_side=64)
    there = asked.compare(CAT, against_model="lite0-plain", against_layer="blocks.10", layer="head", max_side=64)
    assert difference(told(there), told(here)) is None


def test_figures_say_what_the_clients_say(lite0: Network, plain: Network, asked: Client) -> None:
    def words(figure: Figure) -> list[str]:
        return [re.sub(r"[\d.]", "", text) for text in re.findall(r">([^<]*)</text>", bytes(figure).decode())]

    svg: dict[str, Any] = {"media_type": "image/svg+xml"}
    asks: list[tuple[Path | None, dict[str, Any]]] = [
        (None, {"target": ["tabby", "espresso"], "include": ["grad_cam"], "theme": "dark"}),
        (None, {"route": "what-if", "gate": GATE, "mute": [3]}),
        (COFFEE, {"route": "compare"}),
    ]
    for other, options in asks:
        assert words(lite0.figure(CAT, other, **options, **svg)) == words(asked.figure(CAT, other, **options, **svg))
    assert bytes(lite0.figure(CAT, route="compare", against=plain)).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="route='compare'"):
        lite0.figure(CAT, COFFEE)


def test_heat_maps_equal_the_clients(lite0: Network, asked: Client) -> None:
    options: dict[str, Any] = {"layer": "blocks.10", "method": ["grad-cam", "hirescam"], "target": [281, 285]}
    here, there = (one.heat_maps(CAT, **options) for one in (lite0, asked))
    assert np.shape(here.heat) == np.shape(there.heat)
    for left, right in zip(here.heat, there.heat, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-3 * np.abs(right).max())
    for name in ("targets", "layers", "methods", "size", "sha256"):
        assert getattr(here, name) == getattr(there, name), name


def test_the_options_of_every_request_are_accepted(lite0: Network, asked: Client) -> None:
    options: dict[str, Any] = {"timeout_ms": 60_000, "model": "lite0", "provenance": True, "target": None}
    here, there = (one.grad_cam(CAT, layer="blocks.10", **options) for one in (lite0, asked))
    assert difference(told(there), told(here)) is None
    again = lite0.grad_cam(CAT, layer="blocks.10", **options)
    assert told(here) == told(again)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("predict", {"top_k": 0}),
        ("predict", {"top_k": "many"}),
        ("predict", {"topk": 3}),
        ("grad_cam", {"layer": "haed"}),
        ("grad_cam", {"target": "tabbi"}),
        ("grad_cam", {"target": 1000}),
        ("grad_cam", {"method": "gradcam"}),
        ("grad_cam", {"method": "grad-cam", "layer": "pixels"}),
        ("grad_cam", {"fuse": "mean"}),
        ("grad_cam", {"against": "tabby", "target": "tabby"}),
        ("grad_cam", {"colormap": "rainbows"}),
        ("grad_cam", {"alpha": 2}),
        ("heat_maps", {"layer": ["head", "stem"]}),
        ("attention", {"restore": "blocks.1"}),
        ("feature_maps", {"gates": "stem"}),
        ("feature_maps", {"layers": "stem", "channels": 32}),
        ("what_if", {"mute": 1, "keep": 1}),
        ("what_if", {"scale": "1"}),
        ("what_if", {"gate": GATE, "layer": "head"}),
        ("explain", {"include": "gradcam"}),
        ("compare", {}),
        ("compare", {"target": [281, 281]}),
        ("compare", {"target": [281, "espreso"]}),
        ("compare", {"target": [281, 285], "layer": "haed"}),
        ("compare", {"target": [281, 285], "against_layer": "head"}),
        ("compare", {"target": [281, 285], "provenance": True}),
    ],
)
def test_errors_have_the_text_of_the_service(
    lite0: Network, asked: Client, method: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as there:
        getattr(asked, method)(CAT, **options)
    with pytest.raises(PellucidError) as here:
        getattr(lite0, method)(CAT, **options)
    assert (here.value.status, here.value.slug, here.value.title) == (
        there.value.status,
        there.value.kind,
        there.value.title,
    )
    sentences = (re.sub(r"got '(\d+)'", r"got \1", said) for said in (str(here.value), there.value.detail))
    assert len({*sentences}) == 1, there.value.detail  # over HTTP, numbers are text
    assert [*(here.value.allowed or ())] == [*(there.value.allowed or ())]


def test_a_wrong_option_is_invalid_and_a_wrong_name_unknown(lite0: Network) -> None:
    with pytest.raises(InvalidOption, match="top_k"):
        lite0.predict(CAT, top_k=0)
    with pytest.raises(UnknownName, match="Did you mean 'head'"):
        lite0.grad_cam(CAT, layer="haed")


def test_the_name_of_another_network_is_unknown(lite0: Network) -> None:
    with pytest.raises(UnknownName, match=r"Unknown model 'lite1'\. Did you mean 'lite0'"):
        lite0.predict(CAT, model="lite1")


def test_an_error_in_the_second_network_names_it(lite0: Network, plain: Network, asked: Client) -> None:
    with pytest.raises(ApiError) as there:
        asked.compare(CAT, against_model="lite0-plain", against_layer="haed")
    with pytest.raises(UnknownName) as here:
        lite0.compare(CAT, against=plain, against_layer="haed")
    assert str(here.value) == there.value.detail
    assert str(here.value).startswith("The second network: ")


@pytest.mark.parametrize("data", [b"no picture", CAT.read_bytes()[:1000]], ids=["no picture", "cut off"])
def test_an_undecodable_image_has_the_error_text_of_the_service(lite0: Network, asked: Client, data: bytes) -> None:
    with pytest.raises(ApiError) as there:
        asked.predict(data)
    with pytest.raises(PellucidError) as here:
        lite0.predict(data)
    assert (here.value.slug, str(here.value)) == (there.value.kind, there.value.detail)


def test_a_picture_with_too_many_pixels_is_refused() -> None:
    small = pellucid.open(compiled("lite0-plain"), precision="fp32", threads=1, max_pixels=100)
    with pytest.raises(PellucidError, match="pixels"):
        small.predict(CAT)


SOURCES: dict[str, Callable[[], Any]] = {
    "text": lambda: str(CAT),
    "path": lambda: CAT,
    "bytes": CAT.read_bytes,
    "picture": lambda: Image.open(io.BytesIO(CAT.read_bytes())),
    "array": lambda: np.asarray(Image.open(CAT).convert("RGB")),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_an_image_may_be_a_path_bytes_a_pillow_image_or_an_array(plain: Network, source: Callable[[], Any]) -> None:
    expected, found = plain.predict(CAT), plain.predict(source())
    assert [each.index for each in found] == [each.index for each in expected]
    # JPEG decoders can differ by one level
    assert [each.logit for each in found] == pytest.approx([each.logit for each in expected], abs=0.05)


def test_another_type_of_image_is_refused(plain: Network) -> None:
    with pytest.raises(UnsupportedMediaType, match="an image is a path"):
        plain.predict(3)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedMediaType, match="addresses are not fetched"):
        plain.predict("https://example.org/cat.jpg")
    with pytest.raises(FileNotFoundError):
        plain.predict("nowhere.jpg")


def test_a_network_describes_itself(lite0: Network) -> None:
    assert (lite0.spec.name, len(lite0.spec.labels)) == ("lite0", 1000)
    assert lite0.network.default_layer == "head"
    assert len(lite0.network.gates) == 7
    assert "grad-cam" in {method.name for method in lite0.methods}


def test_an_error_says_why_a_network_cant_be_opened(tmp_path: Path) -> None:
    with pytest.raises(NetworkFileError, match="no file"):
        pellucid.open(tmp_path / "none.pellucid")
    (tmp_path / "broken.pellucid").write_bytes(b"PK")
    with pytest.raises(NetworkFileError, match=r"broken\.pellucid"):
        pellucid.open(tmp_path / "broken.pellucid")
    with pytest.raises(NetworkNameError, match="unknown model 'lite1'"):
        pellucid.open("lite1", cache=tmp_path)
    with pytest.raises(ValueError, match="there is no OpenVINO engine"):
        pellucid.open(compiled("lite0"), engine="openvino", device="cuda:99")


class TwoLinear(nn.Module):
    """A network whose head has two linear layers, so its gradient is not constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Conv2d(8, 8, 3, 2), nn.Tanh())
        self.hidden, self.classifier = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.hidden(self.features(x).mean((2, 3))).tanh())
        return logits


class Underived(TwoLinear):
    """Uses an operation without a derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.special.zeta(x.abs() + 2, torch.ones_like(x)))


class Flat(nn.Module):
    """Has no layer with a spatial extent."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3 * 32 * 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def opened(net: nn.Module, folder: Path, **options: Any) -> Network:
    return pellucid.open(
        pellucid.compile(net, folder / "net.pellucid", labels=[*"abc"], size=32, output="softmax", progress=False),
        threads=1,
        **options,
    )


def test_the_result_of_compile_can_be_opened_also_in_bfloat16(tmp_path: Path) -> None:
    exact = opened(TwoLinear(), tmp_path, engine="torch", precision="fp32")
    coarse = pellucid.open(exact.compiled, engine="torch", precision="bf16", threads=1)
    expected, found = (one.heat_maps(CAT, target=[0, 1, 2]).heat for one in (exact, coarse))
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    logits = [{each.index: each.logit for each in one.predict(CAT)} for one in (exact, coarse)]
    assert logits[1] == pytest.approx(logits[0], abs=0.02)


def test_a_network_without_gradients_refuses_only_methods_that_need_one(tmp_path: Path) -> None:
    net = opened(Underived(), tmp_path, precision="fp32")
    assert len(net.predict(CAT)) == 3
    assert net.feature_maps(CAT)
    assert net.grad_cam(CAT, method="eigen-cam")
    for ask in (net.grad_cam, net.attention, net.explain, net.what_if):
        with pytest.raises(Unexplainable, match="Underived has no gradient: the derivative for 'zeta'"):
            ask(CAT)


def test_a_network_without_layers_predicts_and_refuses_the_rest(tmp_path: Path) -> None:
    net = opened(Flat(), tmp_path, precision="fp32")
    assert len(net.predict(CAT)) == 3
    for ask in (net.grad_cam, partial(net.grad_cam, method="best"), net.attention, net.explain, net.feature_maps):
        with pytest.raises(Unexplainable, match="no layer with a spatial extent"):
            ask(CAT)
