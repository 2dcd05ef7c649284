"""Files of torch.export: read without running their code, with the layers, gates and answers of the network."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid
from pellucid.compiler import exported
from pellucid.compiler.compiling import compile_network
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.compiler.weights import WeightsError
from pellucid.network.file import digest_of
from tests.networks import PREPROCESS, TinyNet, images

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

ANY = ({0: torch.export.Dim.AUTO},)


def saved(folder: Path, net: nn.Module, pixels: Tensor | None = None, shapes: Any = ANY) -> Path:
    path = folder / "net.pt2"
    program = torch.export.export(net, (images(2) if pixels is None else pixels,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def edited(path: Path, change: Callable[[dict[str, Any]], None], **files: bytes) -> Path:
    """The file with another graph, and with other contents of members, by the end of their names."""
    out = path.with_name("edited.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(content)
                change(program)
                content = json.dumps(program).encode()
            for ending, other in files.items():
                content = other if name.endswith(ending) else content
            target.writestr(name, content)
    return out


SHALLOW: dict[str, Any] = {"num_classes": 3, "img_size": 56, "depths": (2, 2), "embed_dim": 24, "num_heads": (2, 4)}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "gated": (TinyNet, 64),
    "residual": (lambda: torchvision.models.resnet18(num_classes=3), 64),
    "shuffling": (lambda: torchvision.models.ShuffleNetV2((2, 2, 2), (24, 48, 96, 192, 64), 3), 64),
    "padding": (lambda: timm.create_model("tf_mobilenetv3_small_100", num_classes=3), 64),
    "tokens": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=3), 32),
    "windows": (partial(timm.create_model, "swin_tiny_patch4_window7_224", **SHALLOW), 56),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_has_the_layers_gates_and_answers_of_the_original(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    net = make().eval()
    found = exported.load(saved(tmp_path, net, images(2, (side, side))))
    assert found.size == (side, side)
    assert type(found.net).__name__ == type(net).__name__
    assert found.net.state_dict().keys() == net.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(found.net(images(3, (side, side))), net(images(3, (side, side))))
    traced, original = TracedNetwork(found.net, found.size), TracedNetwork(net, found.size)
    assert traced.spec.default_layer == original.spec.default_layer
    assert traced.spec.default_layer_reason == original.spec.default_layer_reason
    assert [gate.layer for gate in traced.spec.gates] == [gate.layer for gate in original.spec.gates]
    modules = {path for path, _ in net.named_modules()}
    assert {layer for layer in original.spec.by_name if layer in modules} - traced.spec.by_name.keys() <= {
        layer.name for layer in original.spec.layers if layer.kind.startswith(("Identity", "Drop"))
    }


class _Bounded(nn.Module):
    """A gate of channels for each function that bounds one, before a softmax over the classes."""

    BOUNDS: tuple[Callable[[Tensor], Tensor], ...] = (
        *(F.hardsigmoid, partial(F.hardsigmoid, inplace=True), torch.sigmoid, lambda x: x.sigmoid_()),
        *(lambda x: F.relu6(x + 3) / 6, lambda x: F.hardtanh(x + 3, 0, 6) / 6, lambda x: x.clip(0, 1)),
        *(torch.tanh, partial(torch.softmax, dim=1), torch.special.expit),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classifier = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, 3)
        self.squeezed = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in self.BOUNDS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, (squeezed, bound) in enumerate(zip(self.squeezed, self.BOUNDS, strict=True)):
            weights = bound(squeezed(x.mean((2, 3), keepdim=True) if number % 2 else F.adaptive_avg_pool2d(x, 1)))
            x = F.hardswish(x) * weights if number % 2 else x.mul_(weights)
        return self.classifier(x.mean((2, 3))).softmax(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("table", [None, {}, torch.export.default_decompositions()], ids=["plain", "aten", "core"])
def test_a_gate_is_found_whatever_function_bounds_it(tmp_path: Path, table: Any) -> None:
    net, path = _Bounded().eval(), tmp_path / "net.pt2"
    program = torch.export.export(net, (images(2),), dynamic_shapes=ANY)
    torch.export.save(program if table is None else program.run_decompositions(table), path)
    original, traced = (TracedNetwork(each, (64, 64), None) for each in (net, exported.load(path).net))
    assert len(traced.spec.gates) == len(original.spec.gates) == len(_Bounded.BOUNDS)
    assert traced.kind == original.kind == "softmax"
    if table is None:
        assert original.spec.by_name.keys() <= traced.spec.by_name.keys()


def test_it_is_compiled_with_its_gradients(tmp_path: Path) -> None:
    from pellucid.network.spec import ModelSpec

    net = TinyNet().eval()
    model = ModelSpec("tiny", "", tuple("abcde"), PREPROCESS, "")
    found = compile_network(exported.load(saved(tmp_path, net)).net, model, None)
    assert found.manifest.limits == ()
    assert [gate.layer for gate in found.spec.gates] == ["gate"]
    assert found.manifest.pixels.gradient


def test_the_digest_of_the_weights_is_the_files(tmp_path: Path) -> None:
    path = saved(tmp_path, TinyNet().eval())
    options: dict[str, Any] = {"output": "softmax", "progress": False}
    found = pellucid.compile(path, tmp_path / "tiny.pellucid", labels=list("abcde"), **options)
    assert found.model.weights_sha256 == digest_of(path)


def test_a_static_batch_is_taken_if_the_graph_holds_no_size_of_it(tmp_path: Path) -> None:
    path = saved(tmp_path, TinyNet().eval(), images(1), None)
    assert exported.load(path).net(images(3)).shape == (3, 5)
    tokens = NETWORKS["tokens"][0]().eval()
    with pytest.raises(
        WeightsError, match=r"^net\.pt2 was exported for batches of exactly 1: .* with two pictures or "
    ):
        exported.load(saved(tmp_path, tokens, images(1, (32, 32)), None))


def test_the_size_of_the_pixels_may_vary(tmp_path: Path) -> None:
    auto = torch.export.Dim.AUTO
    found = exported.load(saved(tmp_path, TinyNet().eval(), None, ({0: auto, 2: auto, 3: auto},)))
    assert found.size is None
    assert found.net(images(1, (96, 32))).shape == (1, 5)


class _Twice(nn.Module):
    """Its modules run twice, and have the names of the reader's own attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.run, self.output = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)
        self.register_buffer("scale", torch.full((3, 1, 1), 0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(self.run(x).relu() * self.scale).mean((2, 3))
        logits: Tensor = self.output(self.output(x).relu())
        return logits


def test_a_module_may_run_twice(tmp_path: Path) -> None:
    net = _Twice().eval()
    found = exported.load(saved(tmp_path, net)).net
    with torch.no_grad():
        torch.testing.assert_close(found(images(3)), net(images(3)))
    original = [layer.name for layer in TracedNetwork(net, (64, 64)).spec.layers]
    assert {"run", "run_1"} <= {*original} & {layer.name for layer in TracedNetwork(found, (64, 64)).spec.layers}


class _Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3)), x.amax((2, 3))


class _Added(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + y).mean((2, 3))


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(x.sum() > 0, lambda x: x.mean((2, 3)), lambda x: x.amax((2, 3)), (x,))
        return chosen


def test_what_a_file_can_not_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="returns 2 values: export a module that returns one tensor"):
        exported.load(saved(tmp_path, _Two()))
    torch.export.save(torch.export.export(_Added(), (images(2), images(2))), tmp_path / "added.pt2")
    with pytest.raises(WeightsError, match="takes 2 tensors: export a module that takes the pixels alone"):
        exported.load(tmp_path / "added.pt2")
    with pytest.raises(
        WeightsError, match=r"net\.pt2 has the operation torch\.ops\.higher_order\.cond, which is not one of"
    ):
        exported.load(saved(tmp_path, _Branching()))
    with pytest.raises(WeightsError, match=r"in training mode: torch\.export\.export\(net\.eval\(\), "):
        exported.load(saved(tmp_path, TinyNet().train()))


def _foreign(target: str) -> Callable[[dict[str, Any]], None]:
    def change(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["nodes"][-1]["target"] = target

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_foreign("torch.os.system"), r"has the operation torch\.os\.system, which is not one of torch's own"),
        (_foreign("torch.ops.aten.from_file.default"), "which is not one of torch's own"),
        (_foreign("torch.ops.aten.__class__.__init__"), "private to torch"),
        (_foreign("torch.ops.aten._convert_indices_from_coo_to_csr.default"), "which is private to torch: torch.expor"),
        (_foreign("torch.ops.aten._segment_reduce_backward.default"), "which is private to torch"),
        (_foreign("torch.ops.aten.max_pool2d_with_indices_backward.default"), "which is private to torch"),
        (_foreign("torch.ops.aten.upsample_bilinear2d.__reduce__"), "does not have"),
        (_foreign("torch.ops.quantized.linear.default"), "which is not one of torch's own"),
        (_foreign("_operator.attrgetter"), "which is not one of torch's own"),
        (_foreign("torch.ops.aten.no_such_operation.default"), "which torch .* does not have"),
        (lambda program: program["schema_version"].update(major=9), "was saved by torch "),
        (lambda program: program.pop("graph_module"), "can't be read as a file of torch.export.save"),
    ],
)
def test_nothing_but_torchs_own_operations_is_called(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        exported.load(edited(saved(tmp_path, TinyNet().eval()), change))


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("harmed", "w"))


def test_no_code_of_the_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.export.load evaluates symbolic sizes, and unpickles weights and example inputs."""
    monkeypatch.chdir(tmp_path)

    def symbolic(program: dict[str, Any]) -> None:
        sizes = program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = "__import__('pathlib').Path('harmed').touch()"
        program["guards_code"] = ["open('harmed', 'w')"]

    path = saved(tmp_path, TinyNet().eval())
    harmful = pickle.dumps(_Harmful())
    exported.load(edited(path, symbolic, **{"sample_inputs/model.pt": harmful}))
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("model_weights_config.json"))
        config = json.loads(archive.read(name))
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    pickled = {"model_weights_config.json": json.dumps(config).encode(), f"weights/{first['path_name']}": harmful}
    with pytest.raises(WeightsError, match="as an object that would run code when it is loaded"):
        exported.load(edited(path, lambda _: None, **pickled))
    assert not Path("harmed").exists()


def _rewritten(path: Path, config: Callable[[dict[str, Any]], None]) -> Path:
    """The file with another description of its weights."""
    with zipfile.ZipFile(path) as archive:
        content = json.loads(archive.read("net/data/weights/model_weights_config.json"))
    config(content["config"])
    return edited(path, lambda _: None, **{"model_weights_config.json": json.dumps(content).encode()})


@pytest.mark.parametrize("sizes", [[3 * 10**9], [-1], [2**40, 2**40]])
def test_a_weight_larger_than_its_bytes_is_refused(tmp_path: Path, sizes: list[int]) -> None:
    def stretched(config: dict[str, Any]) -> None:
        meta = next(iter(config.values()))["tensor_meta"]
        meta["sizes"] = [{"as_int": each} for each in sizes]
        meta["strides"] = [{"as_int": 0}] * len(sizes)

    with pytest.raises(WeightsError, match=r"holds 864 bytes for \S+, not enough for its sizes \["):
        exported.load(_rewritten(saved(tmp_path, TinyNet().eval()), stretched))


def test_the_batch_norm_of_decomposed_networks_does_not_read_beyond_its_parameters(tmp_path: Path) -> None:
    net = torchvision.models.resnet18(num_classes=3).eval()
    program = torch.export.export(net, (images(2),), dynamic_shapes=ANY).run_decompositions()
    torch.export.save(program, tmp_path / "net.pt2")
    with torch.no_grad():
        torch.testing.assert_close(exported.load(tmp_path / "net.pt2").net(images(3)), net(images(3)))

    def short(config: dict[str, Any]) -> None:
        config["bn1.running_mean"]["tensor_meta"]["sizes"] = [{"as_int": 1}]

    found = exported.load(_rewritten(tmp_path / "net.pt2", short)).net
    with pytest.raises(RuntimeError, match="running_mean should contain 64 elements not 1"):
        found(images(2))


@pytest.mark.parametrize("masked", [False, True])
def test_the_attention_of_decomposed_networks_is_checked(masked: bool) -> None:
    query, key, value = torch.randn(3, 2, 2, 16, 8).unbind()
    mask = torch.randn(16, 16) if masked else None
    private = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    found, _ = exported._attention(query, key, value, 0.0, False, attn_mask=mask, scale=0.5)
    torch.testing.assert_close(found, private(query, key, value, 0.0, False, attn_mask=mask, scale=0.5)[0])
    with pytest.raises(RuntimeError):
        exported._attention(query, key[:1, :1, :3], value)


def test_tied_weights_are_held_once(tmp_path: Path) -> None:
    net = _Twice().eval()
    net.output = nn.Linear(3, 3)
    net.get_submodule("run").bias = net.output.bias
    found = exported.load(saved(tmp_path, net)).net
    with torch.no_grad():
        torch.testing.assert_close(found(images(3)), net(images(3)))


@pytest.mark.parametrize("ending", ["models/model.json", "model_weights_config.json", "weight_0"])
def test_a_compressed_member_is_refused(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path, TinyNet().eval())
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "small.pt2", "w") as target:
        for name in source.namelist():
            method = zipfile.ZIP_DEFLATED if name.endswith(ending) else zipfile.ZIP_STORED
            target.writestr(name, source.read(name), method)
    with pytest.raises(WeightsError, match=f"has \\S*{ending} compressed, which torch.export.save does not do"):
        exported.load(tmp_path / "small.pt2")


def test_a_graph_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "_LARGEST_JSON", 1000)
    with pytest.raises(WeightsError, match=r"has models/model\.json of \d+ bytes, more than the 1000 that are read"):
        exported.load(saved(tmp_path, TinyNet().eval()))


def test_weights_and_damaged_files_are_not_taken_for_a_network(tmp_path: Path) -> None:
    torch.save(TinyNet().state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        WeightsError, match=r"^net\.pth holds weights and no network: name its class, pellucid compile "
    ):
        exported.load(tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="there is no weights file at"):
        exported.load(tmp_path / "gone.pt2")
    (tmp_path / "half.pt2").write_bytes(saved(tmp_path, TinyNet().eval()).read_bytes()[:9999])
    with pytest.raises(WeightsError, match="is damaged or is not a weights file"):
        exported.load(tmp_path / "half.pt2")
