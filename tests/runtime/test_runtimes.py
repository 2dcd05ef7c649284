"""Both runtimes compute the same as the network and autograd, also when passes run in parallel."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import PIXELS
from pellucid.runtime.base import Runtime, parts_behind, shuffled_weights
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from pellucid.runtime.torch_runtime import TorchRuntime
from pellucid.types import Array, Floats, Pixels
from tests.networks import PREPROCESS, SIZE, compiled, in_memory, network

Make = Callable[..., Runtime]
NAMES = ["tiny", "tokens", "paths"]
PICTURES: Pixels = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), np.uint8)
CORES: Any = ("shared", "whole", "exact")


def by_torch(net: CompiledNetwork, threads: int = 1) -> Runtime:
    return TorchRuntime(net, torch.device("cpu"), threads=threads)


def by_openvino(net: CompiledNetwork, threads: int = 1) -> Runtime:
    return OpenVINORuntime(net, bf16=False, threads=threads)


@pytest.fixture(params=[by_torch, by_openvino])
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


def one_hot(*targets: int, classes: int = 5) -> Floats:
    return np.eye(classes, dtype=np.float32)[[*targets]]


def close(one: Any, other: Any, within: float = 1e-4) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=within * float(np.abs(other).max()))


def normalised(count: int, dtype: torch.dtype) -> Tensor:
    mean, std = (torch.tensor(each, dtype=dtype) for each in (PREPROCESS.mean, PREPROCESS.std))
    return ((torch.from_numpy(PICTURES[:count]).to(dtype) / 255 - mean) / std).permute(0, 3, 1, 2)


def differentiated(net: nn.Module, layer: str, pixels: Tensor, wanted: Tensor) -> tuple[Array, Array]:
    """What a module returns, and the gradient by it, of torch's autograd."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()  # the network may overwrite it

    handle = net.get_submodule(layer).register_forward_hook(keep)
    (gradient,) = torch.autograd.grad((net(pixels) * wanted).sum(), kept[0])
    handle.remove()
    return kept[0].detach().numpy(), gradient.numpy()


def assert_as_autograd(name: str, make: Make, dtype: torch.dtype, within: float) -> None:
    net, found = network(name, dtype), compiled(name, dtype)
    runtime, pixels, wanted = make(found), normalised(5, dtype), one_hot(3, 0, 1, 1, 4)
    with torch.no_grad():
        logits = net(pixels).numpy()
    layers = [layer.name for layer in found.spec.layers if layer.name in dict(net.named_modules())]
    assert len(layers) >= 3
    values = {layer: found.value(layer) for layer in layers}
    outputs = [found.manifest.logits, *(each.node for each in values.values())]
    outputs += [each.gradient for each in values.values() if each.gradient is not None]
    computed, _ = runtime.run(PICTURES, wanted, outputs, "shared")
    close(computed[found.manifest.logits], logits, within)
    for layer, value in values.items():
        activation, gradient = differentiated(net, layer, pixels, torch.from_numpy(wanted))
        close(computed[value.node], activation, within)
        assert value.gradient is not None
        close(computed[value.gradient], gradient, within)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_of_every_layer_equal_autograds(name: str, make: Make) -> None:
    assert_as_autograd(name, make, torch.float32, 1e-4)


@pytest.mark.parametrize("name", [*NAMES, "tiny-relu"])
def test_torch_computes_in_the_networks_own_precision(name: str) -> None:
    assert_as_autograd(name, by_torch, torch.float64, 1e-9)


def test_the_gates_gradients_equal_autograds(make: Make) -> None:
    found, net = compiled("tiny"), network("tiny")
    (gate,) = found.manifest.gate_values.values()
    assert gate.gradient is not None
    computed, _ = make(found).run(PICTURES, one_hot(3, 0, 1, 1, 4), [gate.node, gate.gradient], "shared")
    wanted = torch.from_numpy(one_hot(3, 0, 1, 1, 4))
    before, _ = differentiated(net, "activation", normalised(5, torch.float32), wanted)
    after, gradient = differentiated(net, "gate", normalised(5, torch.float32), wanted)
    close(before * computed[gate.node].reshape(5, -1, 1, 1), after)
    close(computed[gate.gradient].reshape(5, -1), (gradient * before).sum((2, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_depends_on_other_images_cores_or_memory_order(name: str, make: Make) -> None:
    found = compiled(name)
    value = found.value(found.spec.layers[0].name)
    outputs = [found.manifest.logits, value.node, value.gradient or ""]
    runtime, wanted = make(found, 2), one_hot(3, 0, 1, 1, 4)
    together, _ = runtime.run(PICTURES, wanted, outputs, "shared")
    kept = {name: array.copy() for name, array in together.items()}
    assert {*kept} == {*outputs}
    for i in range(5):
        for cores in CORES:
            alone, _ = runtime.run(np.asfortranarray(PICTURES[i : i + 1]), wanted[i : i + 1], outputs, cores)
            for output in outputs:
                close(alone[output], kept[output][i : i + 1])


@pytest.mark.parametrize("name", NAMES)
def test_several_classes_in_one_pass_equal_one_pass_per_class(name: str, make: Make) -> None:
    found = compiled(name)
    assert found.manifest.broadcasts
    runtime = make(found)
    for layer in found.spec.layers:
        gradient = found.value(layer.name).gradient
        assert gradient is not None
        rows, _ = runtime.run(PICTURES[:1], one_hot(2, 0, 4), [gradient], "shared")
        rows = {gradient: rows[gradient].copy()}
        for number, target in enumerate((2, 0, 4)):
            single, _ = runtime.run(PICTURES[:1], one_hot(target), [gradient], "shared")
            close(rows[gradient][number], single[gradient][0])


def test_a_row_of_zeros_means_the_top_class_of_its_image(make: Make) -> None:
    found = compiled("tiny")
    gradient = found.value("stem").gradient or ""
    runtime = make(found)
    by_default, _ = runtime.run(PICTURES, one_hot(3, 0, 1, 1, 4) * 0, [found.manifest.logits, gradient], "shared")
    top, default = by_default[found.manifest.logits].argmax(1), by_default[gradient].copy()
    close(default, runtime.run(PICTURES, one_hot(*top), [gradient], "shared")[0][gradient])


class Channels(nn.Module):
    """The logit of class k is the mean of colour ``order[k]``, or 0."""

    order = (2, 0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.same, self.classifier = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 3, bias=False)
        nn.init.dirac_(self.same.weight)
        self.classifier.weight.data = torch.eye(3)[[*self.order]]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.same(x).mean((2, 3)))
        return logits


def test_of_equal_logits_the_first_class_is_the_top_class(make: Make) -> None:
    found = in_memory(Channels(), replace(PREPROCESS, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
    gradient = found.value("same").gradient or ""
    grey: Pixels = np.full((1, *SIZE, 3), 200, np.uint8)
    logits, zeros = found.manifest.logits, np.zeros((1, 3), np.float32)
    computed, _ = make(found).run(grey, zeros, [logits, gradient], "shared")
    assert len({*computed[logits][0].tolist()}) == 1
    assert (computed[gradient][0].reshape(3, -1).any(1) == [False, False, True]).all()


def test_the_pixels_are_the_normalised_image(make: Make) -> None:
    found = compiled("tiny")
    computed, _ = make(found).run(PICTURES, None, [PIXELS, found.manifest.logits], "shared")
    close(computed[PIXELS], normalised(5, torch.float32).numpy(), 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_computes_the_same_as_the_whole_network(name: str, make: Make) -> None:
    """For heads behind the pixels and every other layer, with bypasses, tokens and several maps per position."""
    found = compiled(name)
    runtime, wanted, logits = make(found), one_hot(3, 0, 1, 1, 4), found.manifest.logits
    crossed = []
    for layer in [PIXELS, *(layer.name for layer in found.spec.layers[::2])]:
        value = found.value(layer)
        assert value.gradient is not None
        head = runtime.behind(value)
        assert head.inputs[0] == value.node
        whole, _ = runtime.run(PICTURES, wanted, [logits, *head.inputs, value.gradient], "shared")
        crossing = [whole[each].copy() for each in head.inputs]
        expected, gradient = whole[logits].copy(), whole[value.gradient].copy()
        close(head.logits(crossing, "shared"), expected)
        close(head.gradient(crossing, wanted, "whole"), gradient)
        kept = head.logits(crossing, "shared")
        before = kept.copy()
        head.logits([each[:2] * 0 for each in crossing], "shared")
        np.testing.assert_array_equal(kept, before)  # the array belongs to the caller
        crossed.append(len(head.inputs))
    assert max(crossed) > 1


def test_the_draw_decides_the_order_of_a_shuffled_heads_parameters() -> None:
    found = compiled("tiny", torch.float64)
    _, logits, gradient = parts_behind(found, found.value("block"))
    assert gradient is not None
    shuffled = shuffled_weights(found, logits, 7)
    names = {name for name, weight in shuffled.items() if weight is not found.weights[name]}
    assert {name.split(".")[0] for name in names} == {"gate", "head", "classifier"}
    for name in names:
        assert not np.array_equal(shuffled[name], found.weights[name])
        np.testing.assert_array_equal(np.sort(shuffled[name], None), np.sort(found.weights[name], None))
        np.testing.assert_array_equal(shuffled[name], shuffled_weights(found, logits, 7)[name])
        assert not np.array_equal(shuffled[name], shuffled_weights(found, logits, 8)[name])
    of_all = shuffled_weights(found, found.graph.part((PIXELS,), (found.manifest.logits,)), 7)
    kept = {name for name in found.manifest.buffers if name in of_all}
    assert any(name.endswith("running_var") for name in kept)
    assert all(of_all[name] is found.weights[name] for name in kept)


def test_a_shuffled_head_equals_the_network_with_these_weights(make: Make) -> None:
    found = compiled("tiny")
    value, wanted = found.value("block"), one_hot(3, 0)
    runtime = make(found)
    head = runtime.behind(value)
    values, _ = runtime.run(PICTURES[:2], None, head.inputs, "shared")
    crossing = [values[each].copy() for each in head.inputs]
    _, logits, _ = parts_behind(found, value)
    net = copy.deepcopy(network("tiny"))
    drawn = {name: torch.from_numpy(weight) for name, weight in shuffled_weights(found, logits, 7).items()}
    net.load_state_dict({name: drawn.get(name, weight) for name, weight in net.state_dict().items()})
    other = make(in_memory(net)).behind(value)
    shuffled = head.shuffled(7)
    close(shuffled.logits(crossing, "shared"), other.logits(crossing, "shared"))
    close(shuffled.gradient(crossing, wanted, "shared"), other.gradient(crossing, wanted, "shared"))
    assert np.abs(shuffled.logits(crossing, "shared") - head.logits(crossing, "shared")).max() > 1e-3


@pytest.mark.parametrize("threads", [1, 2])
def test_parallel_passes_do_not_overwrite_each_others_answers(threads: int, make: Make) -> None:
    found = compiled("tiny")
    runtime = make(found, threads)
    assert runtime.slots == threads
    value = found.value("stem")
    outputs = [found.manifest.logits, value.node, value.gradient or ""]

    def run(i: int) -> dict[str, Array]:
        return runtime.run(PICTURES[i : i + 1], one_hot(i), outputs, "shared")[0]

    alone = [{name: array.copy() for name, array in run(i).items()} for i in range(5)]
    together = threading.Barrier(threads + 1)

    def caller(seed: int) -> None:
        together.wait(60)
        for i in np.random.default_rng(seed).integers(0, 5, 20).tolist():
            for name, array in run(i).items():
                close(array, alone[i][name], 1e-5)

    with ThreadPoolExecutor(threads + 1) as callers:  # one more than the slots, so that one pass is queued
        for done in [callers.submit(caller, seed) for seed in range(threads + 1)]:
            done.result(60)


def test_an_exact_pass_has_the_same_bits_for_any_number_of_threads(make: Make) -> None:
    found = compiled("tiny")
    outputs = [found.manifest.logits, found.value("stem").gradient or ""]
    answers = set()
    for threads in (1, 2, 3):
        runtime = make(found, threads)
        for _ in range(2):
            computed, _ = runtime.run(PICTURES[:1], one_hot(3), outputs, "exact")
            answers.add(b"".join(computed[name].tobytes() for name in outputs))
    assert len(answers) == 1


def test_prepared_outputs_are_ready(make: Make) -> None:
    found = compiled("tiny")
    runtime = make(found)
    runtime.prepare([found.manifest.logits], "shared", keep=True)
    assert runtime.ready([found.manifest.logits], "shared")
    assert runtime.ready([found.manifest.logits, PIXELS], "shared")  # the pixels need no model
    info = runtime.info
    assert (info.precision, info.device, info.threads) == ("fp32", "cpu", 1)
    assert info.engine in info.description.lower()
    assert info.processor
