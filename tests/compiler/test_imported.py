"""ONNX files and OpenVINO's IR become networks with the layers, gates and gradients of the torch network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from openvino import opset1
from openvino import opset15 as ops
from openvino.preprocess import PrePostProcessor
from torch import Tensor, nn
from torch.nn import functional

import pellucid
from pellucid.compiler.compiling import CompileError
from pellucid.compiler.imported.read import read, weights_digest
from pellucid.compiler.sources import SourceError
from pellucid.network.file import digest_of
from tests.networks import SIZE, Attention, TinyNet, Tokens, images, network
from tests.support import present

LABELS = tuple("abcde")
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


class Excited(nn.Module):
    """Squeeze-and-excitation, a mobile block with hard-swish and a hard sigmoid, and CBAM, one behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.wide, self.deep = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, 2, 1, groups=16)
        self.pooled, self.mlp = nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * self.excite(functional.silu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))).sigmoid()
        x = functional.hardswish(self.deep(functional.hardswish(self.wide(x))))
        x = x * functional.hardsigmoid(self.pooled(x.mean((2, 3))))[:, :, None, None]
        x = x + x * torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))[:, :, None, None]
        x = x * torch.sigmoid(self.spatial(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)))
        logits: Tensor = self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class Next(nn.Module):
    """As ConvNeXt: channels last, layer norm, GELU and layer scale, around a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale, self.classifier = nn.Parameter(torch.randn(8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.narrow(functional.gelu(self.wide(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))) * self.scale
        logits: Tensor = self.classifier((x + y.permute(0, 3, 1, 2)).mean((2, 3)))
        return logits


class Heads(nn.Module):
    """A vision transformer with torch's own attention, which regroups the batch with the positions and the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 16, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.attention, self.first = nn.MultiheadAttention(16, 2, batch_first=True), Attention()
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1)
        x = self.first(x + self.attention(x, x, x, need_weights=False)[0])
        logits: Tensor = self.classifier(x[:, 0])
        return logits


class Segmenter(nn.Module):
    """Logits at each position: a map that is enlarged, and one by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 5, 1)
        self.up = nn.ConvTranspose2d(8, 5, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.encoder(x))
        logits = functional.interpolate(self.head(y), x.shape[2:], mode="bilinear", align_corners=False)
        total: Tensor = logits + self.up(y)
        return total


OF_OURS: dict[str, Callable[[], nn.Module]] = {
    "excited": Excited,
    "next": Next,
    "heads": Heads,
    "segmenter": Segmenter,
    "tokens": Tokens,
    "tiny": TinyNet,
}


@cache
def seeded(name: str) -> nn.Module:
    if name == "tiny":
        return network("tiny")
    torch.manual_seed(0)
    return OF_OURS[name]().eval()


@cache
def exported(name: str, form: str, folder: Path) -> Path:
    """A network of ours as a file, in a folder that the tests of this module share."""
    return export(seeded(name), folder / name, form)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def export(net: nn.Module, path: Path, form: str) -> Path:
    """``onnx``: by torch's exporter, with an open batch; ``older``: by its older one, for one picture; ``ir``."""
    x = images(2)
    path = path.with_suffix(".xml" if form == "ir" else ".onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "onnx":
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=shapes, verbose=False, external_data=False)
        elif form == "older":
            torch.onnx.export(net, (x[:1],), path, dynamo=False, opset_version=17, verbose=False)
        else:
            program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            ov.save_model(ov.convert_model(program), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("form", ["onnx", "older", "ir"])
@pytest.mark.parametrize("name", OF_OURS)
def test_a_file_computes_what_its_network_does(name: str, form: str, folder: Path) -> None:
    net = seeded(name)
    found, size = read(exported(name, form, folder), SIZE)
    assert size == SIZE
    for count in (1, 3):
        with torch.no_grad():
            expected = net(images(count))
            off = (found(images(count)) - expected).abs().max() / expected.abs().max()
        assert off < 1e-4


@pytest.mark.parametrize("form", ["onnx", "older", "ir"])
def test_gates_are_found_in_a_file(form: str, folder: Path, tmp_path: Path) -> None:
    path = exported("excited", form, folder)
    found = pellucid.compile(path, tmp_path / "file.pellucid", labels=LABELS, size=64, output="softmax", progress=False)
    of_torch = pellucid.compile(
        seeded("excited"), tmp_path / "torch.pellucid", labels=LABELS, size=64, output="softmax", progress=False
    )
    gates, expected = ([(gate.shape, gate.squash) for gate in each.spec.gates] for each in (found, of_torch))
    assert len(expected) == 3
    assert [shape for shape, _ in gates] == [shape for shape, _ in expected]
    opened, other = (
        pellucid.open(str(tmp_path / name), precision="fp32") for name in ("file.pellucid", "torch.pellucid")
    )
    for one, two in zip(opened.attention(PIXELS).gates, other.attention(PIXELS).gates, strict=True):
        np.testing.assert_allclose(one.weights, two.weights, atol=1e-4)


def test_a_map_is_that_of_the_torch_network_at_a_layer_of_the_same_name(tmp_path: Path) -> None:
    net = seeded("tiny")
    found = pellucid.compile(
        export(net, tmp_path / "tiny", "older"),
        tmp_path / "file.pellucid",
        labels=LABELS,
        size=64,
        output="softmax",
        progress=False,
    )
    expected = pellucid.compile(
        net, tmp_path / "torch.pellucid", labels=LABELS, size=64, output="softmax", progress=False
    )
    layers = {layer.name for layer in found.spec.layers} & {layer.name for layer in expected.spec.layers}
    assert {"stem", "block", "gate", "head"} <= layers
    assert found.spec.default_layer == expected.spec.default_layer == "head"
    assert found.manifest.values["head"].linear is not None  # its gradient has a closed form
    one, two = (
        pellucid.open(str(tmp_path / name), precision="fp32").grad_cam(PIXELS, layer="stem,block,head", target="b")
        for name in ("file.pellucid", "torch.pellucid")
    )
    for mine, theirs in zip(one, two, strict=True):
        assert mine.layer == theirs.layer
        np.testing.assert_allclose(mine.raw.max, theirs.raw.max, rtol=1e-3)
        np.testing.assert_allclose(
            np.asarray(mine.mask.to_pil(), float), np.asarray(theirs.mask.to_pil(), float), atol=2
        )


Value = Any


def saved(path: Path, make: Callable[[Value], Value], shape: Any = (1, 3, 16, 16), kind: Any = np.float32) -> Path:
    """A file with the operations that ``make`` adds to the picture."""
    picture = ops.parameter(ov.PartialShape(list(shape)), kind)
    made = make(picture)
    results = made if isinstance(made, list) else [made]
    ov.save_model(ov.Model(results, [picture]), path, compress_to_fp16=False)
    return path


def weights(*shape: int) -> Any:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


OPERATIONS: dict[str, Callable[[Value], Value]] = {
    "convolution, one side padded": lambda x: ops.convolution(x, weights(4, 3, 3, 3), [2, 2], [0, 0], [1, 1], [1, 1]),
    "transposed": lambda x: ops.convolution_backprop_data(
        x, weights(3, 4, 3, 3), [2, 2], pads_begin=[1, 1], pads_end=[0, 0]
    ),
    "transposed groups": lambda x: ops.group_convolution_backprop_data(x, weights(3, 1, 2, 3, 3), [2, 2]),
    "groups": lambda x: ops.group_convolution(x, weights(3, 2, 1, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1]),
    "max pool, one side padded": lambda x: ops.max_pool(x, [2, 2], [1, 1], [0, 0], [1, 1], [3, 3], "floor").output(0),
    "max pool, ceil": lambda x: ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3], "ceil_torch").output(0),
    "average pool": lambda x: ops.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], True),
    "average pool with padding": lambda x: ops.avg_pool(x, [2, 2], [0, 0], [1, 1], [3, 3], False),
    "elu": lambda x: ops.elu(x, 0.5),
    "prelu": lambda x: ops.prelu(x, weights(3)),
    "leaky relu": lambda x: ops.prelu(x, weights(1)),
    "hard sigmoid": lambda x: ops.hard_sigmoid(x, np.float32(0.2), np.float32(0.5)),
    "swish": lambda x: ops.swish(x, np.float32(1.5)),
    "gelu": lambda x: ops.gelu(x, "tanh"),
    "power": lambda x: ops.power(ops.abs(x), np.float32(1.5)),
    "bounds": lambda x: ops.maximum(ops.minimum(x, np.float32(0.5)), np.float32(-0.5)),
    "number first": lambda x: ops.subtract(
        np.float32(1), ops.divide(np.float32(2), ops.add(ops.exp(x), np.float32(1)))
    ),
    "select": lambda x: ops.select(ops.greater(x, np.float32(0)), x, ops.negative(x)),
    "instance norm": lambda x: ops.mvn(x, np.array([2, 3]), True, 1e-3, "outside_sqrt"),
    "channel norm": lambda x: ops.mvn(x, np.array([1]), True, 1e-3, "inside_sqrt"),
    "batch norm": lambda x: ops.batch_norm_inference(x, weights(3), weights(3), weights(3), weights(3) ** 2, 1e-3),
    "group norm": lambda x: ops.group_normalization(x, weights(3), weights(3), 3, 1e-3),
    "unit length": lambda x: ops.normalize_l2(x, np.array([1]), 1e-3, "add"),
    "unit length at least": lambda x: ops.normalize_l2(x, np.array([1]), 1e-3, "max"),
    "local response": lambda x: ops.lrn(x, np.array([1]), 1e-2, 0.75, 1, 3),
    "depth first": lambda x: ops.depth_to_space(ops.concat([x] * 4, 1), "depth_first", 2),
    "blocks first": lambda x: ops.depth_to_space(ops.concat([x] * 4, 1), "blocks_first", 2),
    "strided slice": lambda x: ops.strided_slice(
        x, [0, 1, 2, 0], [0, 0, 0, 9], [1, 1, 2, 1], [1, 0, 0, 0], [1, 1, 1, 0]
    ),
    "one channel": lambda x: ops.strided_slice(x, [0, 1], [0, 2], [1, 1], [1, 0], [1, 0], [], [0, 1]),
    "backwards": lambda x: ops.slice(x, [2], [-9], [-1], [1]),
    "places": lambda x: ops.gather(x, np.array([2, 0, 0]), np.array(1)),
    "channels backwards": lambda x: ops.gather(x, np.array([2, 1, 0]), np.array(1)),
    "repeated": lambda x: ops.tile(x, [1, 2, 1, 1]),
    "widened": lambda x: ops.broadcast(ops.reduce_mean(x, [2, 3], True), [1, 3, 4, 4], broadcast_spec="BIDIRECTIONAL"),
    "reflected": lambda x: ops.pad(x, [0, 0, 1, 1], [0, 0, 2, 2], "reflect"),
    "padded": lambda x: ops.pad(x, [0, 0, 1, 0], [0, 1, 2, 2], "constant", np.float32(3)),
    "nearest": lambda x: ops.interpolate(x, [32, 32], "nearest", "sizes", axes=[2, 3]),
    "corners": lambda x: ops.interpolate(
        x, [33, 20], "linear_onnx", "sizes", axes=[2, 3], coordinate_transformation_mode="align_corners"
    ),
    "cubic": lambda x: ops.interpolate(x, [32, 24], "cubic", "sizes", axes=[2, 3]),
    "parts": lambda x: ops.concat([*reversed(ops.split(x, 1, 3).outputs())], 1),
    "some parts": lambda x: ops.variadic_split(x, 1, [1, 2]).output(1),
    "length": lambda x: ops.reduce_l2(x, [1], True),
    "sums": lambda x: ops.subtract(ops.reduce_sum(x, [-1], False), ops.reduce_l1(x, [-1], False)),
    "extremes": lambda x: ops.subtract(ops.reduce_max(x, [1], False), ops.reduce_min(x, [1], False)),
    "attention": lambda x: ops.scaled_dot_product_attention(x, x, x),
    "equation": lambda x: ops.einsum([x, weights(3, 5)], "bchw,cd->bdhw"),
    "rolled": lambda x: ops.roll(x, [1, 3], [2, 3]),
    "adaptive": lambda x: ops.adaptive_avg_pool(x, [3, 5]),
    "weights first": lambda x: ops.matmul(weights(5, 16), x, False, False),
    "squared": lambda x: ops.squared_difference(x, weights(1, 3, 1, 1)),
    "log": lambda x: ops.log_softmax(ops.sqrt(ops.abs(x)), 1),
}


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (-1, 3, -1, -1)], ids=["fixed", "open"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_computes_what_openvino_does(name: str, shape: Any, tmp_path: Path) -> None:
    """``read`` compares the network with OpenVINO's run of the file."""
    made = OPERATIONS[name]
    net, _ = read(saved(tmp_path / "one.xml", lambda x: ops.relu(made(x)), shape), (16, 16))
    with torch.no_grad():
        assert net(torch.zeros(3, 3, 16, 16)).shape[0] == 3


def test_the_first_batch_norm_takes_its_data_third(tmp_path: Path) -> None:
    def norm(x: Value) -> Value:
        return opset1.batch_norm_inference(x, weights(3), weights(3), weights(3), weights(3) ** 2, 1e-3)

    read(saved(tmp_path / "norm.xml", norm))


def classify(x: Value) -> Value:
    y = ops.relu(ops.convolution(x, weights(4, 3, 3, 3), [2, 2], [1, 1], [1, 1], [1, 1]))
    return ops.matmul(ops.reduce_mean(y, [2, 3], False), weights(4, 5), False, False)


def test_preprocessing_in_the_file_stays(tmp_path: Path) -> None:
    """A picture of bytes with channels last: --mean 0,0,0 and a deviation of 1/255 give what the file expects."""
    picture = ops.parameter([1, 3, 16, 16], np.float32)
    steps = PrePostProcessor(ov.Model([classify(picture)], [picture]))
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean([120.0, 110.0, 100.0]).scale([60.0, 55.0, 50.0])
    model = steps.build()
    ov.save_model(model, tmp_path / "bytes.xml", compress_to_fp16=False)
    std = (1 / 255,) * 3
    pellucid.compile(
        tmp_path / "bytes.xml", tmp_path / "out.pellucid", labels=LABELS, size=16,
        output="softmax", mean=(0, 0, 0), std=std,
        squash=True, resize=16, progress=False,
    )  # fmt: skip
    found = pellucid.open(str(tmp_path / "out.pellucid"), precision="fp32").predict(PIXELS[:16, :16], top_k=5)
    expected = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([PIXELS[None, :16, :16]])[0][
        0
    ]
    logits = [present(each.logit) for each in sorted(found, key=lambda each: each.index)]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_softmax_at_the_end_shows_the_kind_and_is_left_out_of_the_logits(tmp_path: Path) -> None:
    outputs: list[tuple[str, Any, Any]] = [
        ("plain", classify, "softmax"),
        ("ended", lambda x: ops.softmax(classify(x), -1), None),
    ]
    plain, ended = (
        pellucid.compile(
            saved(tmp_path / f"{name}.xml", made),
            tmp_path / f"{name}.pellucid",
            labels=[*"abcde"],
            size=16,
            output=output,
            progress=False,
        )
        for name, made, output in outputs
    )
    assert ended.model.output == plain.model.output
    found = [[each.logit for each in pellucid.open(each).predict(PIXELS[:16, :16])] for each in (plain, ended)]
    assert found[0] == found[1]


def quantized(x: Value) -> Value:
    low, high = np.float32(-1), np.float32(1)
    return classify(ops.fake_quantize(x, low, high, low, high, 256))


@pytest.mark.parametrize(
    ("make", "shape", "said"),
    [
        (lambda x: [classify(x), ops.relu(x)], (1, 3, 16, 16), "2 outputs"),
        (lambda x: ops.relu(x), (1, 16), "takes no picture"),
        (classify, (-1, 3, -1, -1), "give the size"),
        (lambda x: ops.cum_sum(x, np.array(1)), (1, 3, 16, 16), "can't be imported: CumSum"),
        (lambda x: ops.convert(ops.topk(classify(x), 1, 1, "max", "value").output(1), "f32"), (1, 3, 16, 16), "TopK"),
        (quantized, (1, 3, 16, 16), "quantized"),
        (lambda x: ops.reshape(x, [1, -1, 2], False), (5, 3, 16, 16), "can't be read for any batch"),
    ],
)
def test_what_can_not_be_imported_is_said_in_one_sentence(make: Any, shape: Any, said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "odd.xml", make, shape)
    with pytest.raises(SourceError) as error:
        read(path, None if said == "give the size" else (16, 16))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_whose_pictures_read_one_another_is_not_compiled(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "odd.xml", lambda x: classify(ops.subtract(x, ops.reduce_mean(x, [0], True))), (-1, 3, 16, 16)
    )
    with pytest.raises(CompileError, match="for an image beside other images"):
        pellucid.compile(path, tmp_path / "out.pellucid", labels=LABELS, size=16, progress=False)


def test_a_file_that_is_broken_or_not_whole_is_said(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(SourceError) as error:
            read(path, (16, 16))
        assert "\n" not in str(error.value)
        return str(error.value)

    whole = saved(tmp_path / "whole.xml", classify)
    assert "takes pixels of 16x16, not 32x32" in refusal_of_size(whole)
    whole.with_suffix(".bin").unlink()
    assert "weights in whole.bin" in refusal(whole)
    assert "there is no file" in refusal(tmp_path / "absent.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"noise" * 99)
    assert "noise.onnx is damaged" in refusal(tmp_path / "noise.onnx")
    path = export(seeded("tiny"), tmp_path / "apart", "older")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="apart.data", size_threshold=0)
    (tmp_path / "apart.data").unlink()
    assert "weights in a file that is not beside it" in refusal(path)


def test_the_digest_of_the_weights_covers_external_data(tmp_path: Path) -> None:
    def compiled() -> str | None:
        options: dict[str, Any] = {"output": "softmax", "progress": False}
        return pellucid.compile(path, tmp_path / "net.pellucid", labels=list("abcde"), **options).model.weights_sha256

    path = export(seeded("tiny"), tmp_path / "net", "older")
    assert compiled() == digest_of(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0)
    before, graph = compiled(), digest_of(path)
    data = bytearray((tmp_path / "net.data").read_bytes())
    data[:4] = np.float32(0.5).tobytes()
    (tmp_path / "net.data").write_bytes(data)
    assert digest_of(path) == graph
    assert compiled() != before
    (tmp_path / "net.data").unlink()
    with pytest.raises(SourceError, match=r"net\.onnx has its weights in 'net\.data', which is no file beside it"):
        weights_digest(path)


def test_the_digest_of_the_weights_of_openvinos_format_is_that_of_its_bin(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.xml", classify)
    assert weights_digest(path) == digest_of(path.with_suffix(".bin"))


def refusal_of_size(path: Path) -> str:
    with pytest.raises(SourceError) as error:
        read(path, (32, 32))
    return str(error.value)
