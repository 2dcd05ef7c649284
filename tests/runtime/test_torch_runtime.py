"""The torch runtime runs only plain arithmetic, in any precision, with one copy of the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pellucid.network.file import NetworkFileError
from pellucid.network.graph import INPUT, PIXELS_INPUT, Graph, Node, Ref
from pellucid.runtime.torch_runtime import TorchRuntime, build, operation, pick_device
from tests.networks import compiled
from tests.runtime.test_runtimes import PICTURES, one_hot

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default",
        "aten.relu_.default",
        "aten.set_.source_Storage",
        "aten.resize_.default",
        "aten.empty.memory_format",
        "aten.new_empty.default",
        "aten.empty_like.default",
        "aten.rand.default",
        "aten.dropout.default",
        "aten.bernoulli.p",
        "aten.item.default",
        "aten._local_scalar_dense.default",
        "aten._print.default",
        "aten._cudnn_init_dropout_state.default",
        "aten._nested_from_padded.default",
        "aten.to_sparse.default",
        "aten._pin_memory.default",
        "aten.einsum.default",
        "aten.relu.out",
    ],
)
def test_an_operation_that_is_not_plain_arithmetic_is_refused(name: str) -> None:
    with pytest.raises(NetworkFileError, match=rf"^{name} is not an operation that a network may use$"):
        operation(name)


@pytest.mark.parametrize("name", ["aten.magic.default", "aten.relu.magic", "aten.__class__.mro", "aten.relu.__init__"])
def test_an_unknown_operation_is_refused(name: str) -> None:
    with pytest.raises(NetworkFileError, match=rf"torch .* has no operation {name}$"):
        operation(name)


def test_a_graph_with_a_random_operation_is_refused_before_it_runs() -> None:
    graph = Graph([Node("pixels", INPUT, (), {}), Node("x", "aten.bernoulli.default", (Ref("pixels"),), {})])
    with pytest.raises(NetworkFileError, match=r"aten\.bernoulli\.default is not an operation that a network may use"):
        build(graph.part((PIXELS_INPUT,), ("x",)), {}, CPU, None)


def test_bfloat16_values_and_gradients_equal_float32_up_to_rounding() -> None:
    found = compiled("tiny")
    value, gate = found.value("stem"), found.manifest.gate_values["gate"]
    outputs = [found.manifest.logits, value.node, value.gradient or "", gate.gradient or ""]
    wanted = np.concatenate((one_hot(1, 2), np.zeros((1, 5), np.float32)))
    runtimes = [TorchRuntime(found, CPU, bf16=bf16) for bf16 in (False, True)]
    exact, coarse = (runtime.run(PICTURES[:3], wanted, outputs, "shared")[0] for runtime in runtimes)
    assert runtimes[1].info.precision == "bf16"
    for name in outputs:
        assert coarse[name].dtype == np.float32
        np.testing.assert_allclose(coarse[name], exact[name], rtol=0, atol=0.05 * float(np.abs(exact[name]).max()))
        assert not np.array_equal(coarse[name], exact[name])
    # Logits are in float32, which distinguishes close classes.
    assert not np.array_equal(coarse[outputs[0]], torch.from_numpy(coarse[outputs[0]]).bfloat16().float().numpy())
    head = runtimes[1].behind(value)
    crossing = [coarse[value.node]]
    logits = head.logits(crossing, "shared")
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exact[found.manifest.logits], rtol=0, atol=0.05)
    assert np.isfinite(head.gradient(crossing, wanted, "shared")).all()


def test_all_sets_of_outputs_share_the_weights() -> None:
    found = compiled("tiny")
    runtime = TorchRuntime(found, CPU)
    for layer in found.spec.layers:
        value = found.value(layer.name)
        runtime.run(PICTURES[:1], one_hot(0), [found.manifest.logits, value.gradient or ""], "shared")
        head = runtime.behind(value)
        values, _ = runtime.run(PICTURES[:1], None, head.inputs, "shared")
        head.logits([values[name] for name in head.inputs], "shared")
    cached = sum(value.numel() for value in runtime._constants.values())
    assert cached < 4 * sum(
        weight.size for weight in found.weights.values()
    )  # some kernels are also cached in flipped form for a gradient


def test_a_missing_device_is_named() -> None:
    assert pick_device("auto").type in ("cpu", "cuda")
    assert pick_device("cpu") == CPU
    with pytest.raises(ValueError, match=r"there is no device cuda:99: \d CUDA devices were found"):
        pick_device("cuda:99")
