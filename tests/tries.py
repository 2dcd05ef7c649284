"""What people have, and what comes of it when they compile it: one list, for a test and for a page of the docs.

``python -m tests.tries`` compiles and explains each, and writes docs/reference/what-can-be-served.md.
"""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

import pellucid as library
from pellucid.errors import Unexplainable
from pellucid.network.spec import counted
from tests.commands.invoke import pellucid
from tests.support import REPOSITORY, photograph

PAGE: Final = REPOSITORY / "docs" / "reference" / "what-can-be-served.md"
# The module of the networks of your own.
PETS: Final = """\
import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels))

    def forward(self, x):
        return x * (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))).sigmoid()[:, :, None, None]


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        return x * self.conv(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()


def block(channels, out):
    conv = nn.Conv2d(channels, out, 3, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.SiLU(), Attention(out), Positions())


class Pets(nn.Module):
    def __init__(self, classes=3, channels=3, width=8):
        super().__init__()
        self.blocks = nn.Sequential(block(channels, width), block(width, 2 * width))
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, x):
        return self.classifier(self.blocks(x).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, classes, 1)

    def forward(self, x):
        first = F.silu(self.first(x))
        return self.last(torch.cat((first, F.silu(self.up(F.silu(self.down(first))))), 1))


class Counting(Pets):
    def forward(self, x):
        return super().forward(x), x.mean()


class Naming(Pets):
    def forward(self, x):
        return {"logits": super().forward(x), "score": x.mean((1, 2, 3))}


class Deciding(Pets):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


class Guessing(Pets):
    def forward(self, x):
        x = super().forward(x)
        return x + torch.rand_like(x)


class Dropping(Pets):
    def forward(self, x):
        return super().forward(F.dropout(x, 0.5))


class Training(Pets):
    def forward(self, x):
        return super().forward(F.batch_norm(x, None, None, training=True))


class Pairs(Pets):
    def forward(self, x, other):
        return super().forward(x - other)


class Video(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.classifier = nn.Conv3d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.classifier(self.conv(x).mean((2, 3, 4)))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(50, 16), nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
        self.head = nn.Linear(16, 50)

    def forward(self, tokens):
        return self.head(self.layer(self.words(tokens)))


class Rows(Pets):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(96, 16, batch_first=True)

    def forward(self, x):
        return self.classifier(self.gru(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


class Fourier(Pets):
    def forward(self, x):
        return super().forward(torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:]))


class Lazy(Pets):
    def __init__(self):
        super().__init__()
        self.classifier = nn.LazyLinear(3)


def build():
    return Pets(width=12)


def half():
    return Pets().half()


def detector():
    from torchvision.models import detection

    return detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)


def eight_bits():
    return torch.ao.quantization.quantize_dynamic(Pets(), {nn.Linear}, torch.qint8)


torch.manual_seed(0)
ended = nn.Sequential(Pets(), nn.Softmax(1))
parallel = nn.DataParallel(Pets())
compiled = torch.compile(Pets())
scripted = torch.jit.script(Pets())
"""


@dataclass(frozen=True)
class Try:
    """One thing that people have. ``how`` are the arguments of `pellucid compile`, without ``--out``.

    ``make`` writes the files in the current folder, ``description`` is that of a ``file:``. ``picture`` is what is
    explained, a photograph by default.
    """

    what: str
    how: str
    served: bool = True
    make: Callable[[], object] | None = None
    description: str = ""
    picture: Callable[[], Any] = lambda: photograph("cat")


# -- files


def _pets(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = importlib.import_module("pets").Pets(**arguments)
    return net.eval()


def _state(path: str, prefix: str = "", beside: str = "") -> None:
    state: Any = {f"{prefix}{key}": value for key, value in _pets().state_dict().items()}
    torch.save({beside: state, "epoch": 3} if beside else state, path)


def _blank(path: str, architecture: str, **arguments: Any) -> None:
    """Seeded weights of torchvision or timm, in place of your own."""
    source, _, name = architecture.partition(":")
    module: Any = importlib.import_module(f"models.sources.{source}_source")
    torch.manual_seed(0)
    torch.save(module.blank(name, 3, arguments, ()).state_dict(), path)


def _architecture(path: str, architecture: str, arguments: str = "", size: int = 64, **given: Any) -> dict[str, Any]:
    """The fields of a try of an architecture of torchvision or timm, with small pixels."""
    text = f'architecture = "{architecture}"\nlabels = ["cat", "dog", "rat"]\n[preprocess]\nsize = {size}\n{arguments}'
    return {"how": f"file:{path}", "make": partial(_blank, path, architecture, **given), "description": text}


def _exported(path: str, batch: Any) -> None:
    pixels, shapes = torch.zeros(2 if batch else 1, 3, 32, 32), ({0: batch},) if batch else None
    torch.export.save(torch.export.export(_pets(), (pixels,), dynamic_shapes=shapes), path)


def _onnx(path: str, channels: int = 3) -> None:
    torch.onnx.export(_pets(channels=channels), (torch.zeros(1, channels, 32, 32),), path, dynamo=False)


def _ir(path: str, quantized: bool = False) -> None:
    import openvino as ov
    from openvino import opset15 as ops

    _onnx("as.onnx")
    model = ov.convert_model("as.onnx")
    if quantized:
        (pixels,) = model.get_parameters()
        low, high = np.float32(-3), np.float32(3)
        readers = [*pixels.output(0).get_target_inputs()]
        levels = ops.fake_quantize(pixels, low, high, low, high, 256)
        for reader in readers:
            reader.replace_source_output(levels.output(0))
    ov.save_model(model, path, compress_to_fp16=False)


def _onnx_of_8_bits(path: str) -> None:
    import onnx
    from onnx import helper

    _onnx(path)
    model = onnx.load(path)
    graph = model.graph
    first = next(node for node in graph.node if graph.input[0].name in node.input)
    scale, zero = helper.make_tensor("scale", 1, [], [0.02]), helper.make_tensor("zero", 2, [], [128])
    graph.initializer.extend([scale, zero])
    pixels = graph.input[0].name
    quantized = helper.make_node("QuantizeLinear", [pixels, "scale", "zero"], ["levels"])
    first.input[[*first.input].index(pixels)] = "rounded"
    for at, node in enumerate(
        [quantized, helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["rounded"])]
    ):
        graph.node.insert(at, node)
    onnx.save(model, path)


def _folder(architecture: str) -> None:
    from tests.models import test_hf

    test_hf.saved(Path(architecture.lower()), architecture)


def _text_folder() -> None:
    import transformers

    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50)
    transformers.GPT2LMHeadModel(config).save_pretrained("gpt")


def _write(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes(data)


_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n" + bytes(64), b"PK\x05\x06" + bytes(18)


# -- the tries, by the sections of the page

_OWN = "--size 32 --labels cat,dog,rat --output softmax"
_CLASS = f"pets:Pets {_OWN}"
_NARROW: Final[dict[str, Any]] = {"channels": [8, 16, 16, 16], "stem_width": 8}
_FOLDERS = ("ResNetForImageClassification", "SegformerForSemanticSegmentation", "ViTModel")
TRIES: Final[dict[str, list[Try]]] = {
    "A class of your own": [
        Try("a class, with CBAM in each block", _CLASS),
        Try("a class with arguments", f"{_CLASS} --arguments '{{\"width\": 16}}'"),
        Try("a function that builds it", f"pets:build {_OWN}"),
        Try("its state dict", f"{_CLASS} --weights last.pth", make=partial(_state, "last.pth")),
        Try("a state dict of DataParallel", f"{_CLASS} --weights dp.pth", make=partial(_state, "dp.pth", "module.")),
        Try(
            "a Lightning checkpoint",
            f"{_CLASS} --weights last.ckpt",
            make=partial(_state, "last.ckpt", "model.", "state_dict"),
        ),
        Try(
            "a checkpoint with a prefix that you name",
            f"{_CLASS} --weights ema.pth --strip-prefix ema",
            make=partial(_state, "ema.pth", "ema."),
        ),
        Try("a network in `nn.DataParallel`", f"pets:parallel {_OWN}"),
        Try("a network of `torch.compile`", f"pets:compiled {_OWN}"),
        Try("a network in half precision", f"pets:half {_OWN}"),
        Try("a network of rows, by a GRU", f"pets:Rows {_OWN}", False),
        Try("a network with Fourier transforms", f"pets:Fourier {_OWN}"),
        Try("the wrong number of labels", "pets:Pets --size 32 --labels cat,dog --output softmax", False),
        Try("a class without a size or labels", "pets:Pets", False),
        Try("a file of Python", f"pets.py:Pets {_OWN}", False),
    ],
    "A network by name, and a checkpoint of one": [
        Try("`lite0`, which comes along", "lite0 --size 64"),
        Try(
            "a classifier of torchvision (squeeze and excitation)",
            **_architecture("mobile.pth", "torchvision:mobilenet_v3_small"),
        ),
        Try(
            "a segmentation network of torchvision",
            **_architecture("lraspp.pth", "torchvision:lraspp_mobilenet_v3_large"),
        ),
        Try("a classifier of timm (squeeze and excitation)", **_architecture("se.pth", "timm:test_efficientnet")),
        Try(
            "a classifier of timm with ECA",
            **_architecture(
                "eca.pth",
                "timm:resnet10t",
                '[arguments]\nblock_args = {attn_layer = "eca"}\nchannels = [8, 16, 16, 16]\nstem_width = 8',
                **{**_NARROW, "block_args": {"attn_layer": "eca"}},
            ),
        ),
        Try(
            "a classifier of timm with CBAM",
            **_architecture(
                "cbam.pth",
                "timm:resnet10t",
                '[arguments]\nblock_args = {attn_layer = "cbam"}\nchannels = [8, 16, 16, 16]\nstem_width = 8',
                **{**_NARROW, "block_args": {"attn_layer": "cbam"}},
            ),
        ),
        Try("a vision transformer of timm", **_architecture("vit.pth", "timm:test_vit", size=160)),
        Try("a detector of torchvision", "torchvision:ssdlite320_mobilenet_v3_large", False),
        Try("a video network of torchvision", "torchvision:r3d_18", False),
        Try("a name that does not exist", "timm:resnet51", False),
        Try("a name without its source", "resnet50", False),
    ],
    "What it puts out": [
        Try("several labels at once", "pets:Pets --size 32 --labels cat,dog,rat --output sigmoid --threshold 0.4"),
        Try("one logit: yes or no", "pets:Pets --size 32 --labels ill --output sigmoid --arguments '{\"classes\": 1}'"),
        Try(
            "quantities with units",
            "pets:Pets --size 32 --labels age,mass --units years,kg --output linear --arguments '{\"classes\": 2}'",
        ),
        Try("a segmentation, a U-Net", "pets:UNet --size 32 --labels background,cat,cup --background background"),
        Try("an embedding", "pets:Pets --size 32 --output embedding --arguments '{\"classes\": 16}'"),
        Try("a network that ends in a softmax", "pets:ended --size 32 --labels cat,dog,rat"),
        Try("numbers whose meaning is not declared", "pets:Pets --size 32 --labels cat,dog,rat", False),
        Try(
            "one logit, as a class",
            "pets:Pets --size 32 --labels ill --output softmax --arguments '{\"classes\": 1}'",
            False,
        ),
        Try("a tuple", f"pets:Counting {_OWN}", False),
        Try("a dict", f"pets:Naming {_OWN}", False),
        Try("boxes, a detector", f"pets:detector {_OWN}", False),
    ],
    "What it takes in": [
        Try("grayscale", f"{_CLASS} --mean 0.5 --std 0.25 --arguments '{{\"channels\": 1}}'"),
        Try(
            "16-bit grayscale",
            f"{_CLASS} --mean 0.5 --std 0.25 --low 0 --high 65535 --arguments '{{\"channels\": 1}}'",
            picture=lambda: np.random.default_rng(0).integers(0, 65536, (48, 64), np.uint16),
        ),
        Try(
            "RGBA",
            f"{_CLASS} --channels red,green,blue,alpha --arguments '{{\"channels\": 4}}'",
            picture=lambda: np.random.default_rng(0).integers(0, 256, (48, 64, 4), np.uint8),
        ),
        Try(
            "five channels",
            f"{_CLASS} --channels blue,green,red,nir,swir --low 0 --high 10000 --shown nir,red,green"
            " --arguments '{\"channels\": 5}'",
            picture=lambda: np.random.default_rng(0).uniform(0, 10000, (48, 64, 5)).astype(np.float32),
        ),
        Try("five channels, undeclared", f"{_CLASS} --arguments '{{\"channels\": 5}}'", False),
        Try(
            "seventeen channels",
            f"{_CLASS} --mean {','.join(['0'] * 17)} --arguments '{{\"channels\": 17}}'",
            False,
        ),
        Try("two pictures", f"pets:Pairs {_OWN}", False),
        Try("a video, by 3-D convolutions", f"pets:Video {_OWN}", False),
        Try("text, as of GPT", f"pets:Text {_OWN}", False),
    ],
    "A file that holds a network": [
        Try(
            "a file of `torch.export`, any batch",
            f"any.pt2 {_OWN[10:]}",
            make=partial(_exported, "any.pt2", torch.export.Dim.AUTO),
        ),
        Try(
            "a file of `torch.export`, a batch of one",
            f"one.pt2 {_OWN[10:]}",
            make=partial(_exported, "one.pt2", None),
        ),
        Try("a file of ONNX", f"pets.onnx {_OWN}", make=partial(_onnx, "pets.onnx")),
        Try("OpenVINO's IR", f"pets.xml {_OWN}", make=partial(_ir, "pets.xml")),
        Try("a grayscale ONNX file", f"gray.onnx {_OWN} --mean 0.5 --std 0.25", make=partial(_onnx, "gray.onnx", 1)),
        Try("a quantized ONNX file", f"int8.onnx {_OWN}", False, partial(_onnx_of_8_bits, "int8.onnx")),
        Try("a quantized IR", f"int8.xml {_OWN}", False, partial(_ir, "int8.xml", quantized=True)),
        Try(
            "a file of TorchScript",
            f"script.pt {_OWN}",
            False,
            lambda: torch.jit.trace(_pets(), torch.zeros(1, 3, 32, 32)).save("script.pt"),  # type: ignore[no-untyped-call]
        ),
        Try("a whole network, pickled", f"whole.pth {_OWN}", False, lambda: torch.save(_pets(), "whole.pth")),
        Try("weights alone", f"bare.pth {_OWN}", False, partial(_state, "bare.pth")),
        Try("a checkpoint without a description", "file:bare.pth", False, partial(_state, "bare.pth")),
        Try("Keras's `.keras`", f"pets.keras {_OWN}", False, partial(_write, "pets.keras", _ZIP)),
        Try("Keras's `.h5`", f"pets.h5 {_OWN}", False, partial(_write, "pets.h5", _HDF5)),
        Try("TensorFlow's `.pb`", f"frozen.pb {_OWN}", False, partial(_write, "frozen.pb", b"\n\x0bplaceholder")),
        Try("TensorFlow's SavedModel", f"saved {_OWN}", False, partial(_write, "saved/saved_model.pb", b"\x08\x01")),
        Try("TensorFlow Lite", f"pets.tflite {_OWN}", False, partial(_write, "pets.tflite", bytes(4) + b"TFL3")),
        Try("Core ML", f"pets.mlmodel {_OWN}", False, partial(_write, "pets.mlmodel", b"\x08\x04")),
        Try("a picture", f"cat.jpg {_OWN}", False, lambda: _write("cat.jpg", photograph("cat"))),
        Try("an empty file", f"empty.pt {_OWN}", False, partial(_write, "empty.pt", b"")),
        Try("a file that is not there", f"gone.onnx {_OWN}", False),
    ],
    "A folder of transformers": [
        *(
            Try(what, f"hf:{name.lower()}", make=partial(_folder, name))
            for what, name in zip(
                ("a classifier", "a segmentation network", "a ViT without a head"), _FOLDERS, strict=True
            )
        ),
        Try("a text model", "hf:gpt", False, _text_folder),
        Try("a folder without `config.json`", "hf:empty", False, lambda: Path("empty").mkdir(exist_ok=True)),
        Try("the folder's name alone", "empty", False, lambda: Path("empty").mkdir(exist_ok=True)),
    ],
    "What it computes": [
        Try("a branch on the pixels", f"pets:Deciding {_OWN}", False),
        Try("random numbers", f"pets:Guessing {_OWN}", False),
        Try("dropout that stays on", f"pets:Dropping {_OWN}", False),
        Try("a norm over the batch, as in training", f"pets:Training {_OWN}", False),
        Try("weights that wait for a first picture", f"pets:Lazy {_OWN}", False),
        Try("a network of TorchScript", f"pets:scripted {_OWN}", False),
        Try("torch's quantized layers", f"pets:eight_bits {_OWN}", False),
    ],
}


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """A current folder with the module of the networks of your own."""
    path = [*sys.path]
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        Path("pets.py").write_text(PETS, "utf-8")
        sys.modules.pop("pets", None)
        sys.path.insert(0, scratch)
        try:
            yield
        finally:
            sys.path[:] = path
            sys.modules.pop("pets", None)


def run(tried: Try) -> tuple[bool, str]:
    """Compile it as its command says, predict, and make a heat map by every method.

    Returns whether it is served, and what answers, or the sentence that refuses it.
    """
    if tried.make is not None:
        tried.make()
    arguments = shlex.split(tried.how)
    if tried.description:
        Path(arguments[0].removeprefix("file:")).with_suffix(".toml").write_text(tried.description, "utf-8")
    done = pellucid("compile", *arguments, "--out", "pets.pellucid")
    if isinstance(done.exception, Exception):
        raise done.exception
    if done.exit_code == 0:
        return True, explained(tried.picture())
    assert (done.exit_code, done.stdout) == (2, "")
    lines = (line for line in done.stderr.splitlines() if not line.startswith(("compiling ", "without --weights")))
    sentence = "\n".join(lines).strip()
    assert sentence
    assert "\n" not in sentence, sentence
    return False, sentence


def explained(picture: Any) -> str:
    """What the compiled network answers for one picture."""
    net = library.open("pets.pellucid", device="cpu", precision="fp32", threads=1)
    output, network, manifest = net.spec.output, net.network, net.compiled.manifest
    given: dict[str, Any] = {"reference": photograph("coffee")} if output.kind == "embedding" else {}
    assert bool(net.predict(picture)) == (output.kind != "embedding")
    (cam, *_) = net.grad_cam(picture, **given)
    assert cam.mask.width > 0
    refused = []
    for method in net.methods:
        try:
            net.grad_cam(picture, method=method.name, samples=2, **given)
        except Unexplainable:
            refused.append(f"`{method.name}`")
    counts = {
        "layer": network.layers,
        "gate": network.gates,
        "spatial gate": network.spatial_gates,
        "attention": network.attentions,
    }
    found = [f"`{output.kind}`, {counted(output.shape[0], output.kind)}"]
    found += [f"{len(each)} {what}{'s' * (len(each) != 1)}" for what, each in counts.items() if each]
    some = sum(value.gradient is not None or value.linear is not None for value in manifest.values.values())
    where = "" if some == len(manifest.values) else f" at {some} of {len(manifest.values)} layers"
    lacks = [limit.rpartition(": ")[2] for limit in manifest.limits if "OpenVINO can't" in limit]
    runtime = f"torch (OpenVINO lacks {', '.join(lacks)})" if lacks else "OpenVINO"
    found.append(f"gradients{where} by {runtime}")
    found.append(f"all methods but {', '.join(refused)}" if refused else "all methods")
    return "; ".join(found)


def row(tried: Try, served: bool, answer: str) -> str:
    """A row of the page."""
    described = [line for line in tried.description.splitlines() if line.startswith(("architecture", "block_args"))]
    how = "; ".join(f"`{each}`" for each in (tried.how, *described))
    return f"| {tried.what} | {how} | {answer if served else f'no: {answer}'} |"


def main() -> None:
    page = [PREAMBLE]
    with folder(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of torch's exporters
        for section, tries in TRIES.items():
            page += [f"\n## {section}\n", "| what you have | `pellucid compile` | what answers |", "|---|---|---|"]
            page += [row(tried, *run(tried)) for tried in tries]
    PAGE.write_text("\n".join(page) + "\n", "utf-8")


PREAMBLE: Final = """\
# What can be served

Made by `python -m tests.tries`: each row is a small network with random weights. The command in its row compiled it.
Then it was opened, and predictions and heat maps of every method were computed. A test repeats this. `pets` is a
module with classes of your own. A `file:` has a description beside it; its relevant lines are shown ([your own
network](../how-to/your-own-model.md)).

The column *what answers* has:

- the kind of output, and the number of layers, gates and attentions that were found
- the runtime that computes gradients: OpenVINO, or torch if OpenVINO lacks an operation
- *all methods*: all methods of heat maps; those that read attention only if the network has attentions
- *no*: the error that `pellucid compile` prints

[networks.md](networks.md) has the measured gradients of the networks of torchvision and timm."""

if __name__ == "__main__":
    main()
