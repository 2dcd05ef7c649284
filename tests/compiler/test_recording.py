"""A recording holds operations on followed tensors, constants, and out-of-place forms of in-place operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.compiler.gradient.merge_recordings import Writer
from pellucid.compiler.gradient.recording import Recording, TracingError, Value, recording
from pellucid.network.graph import PIXELS_INPUT, Batch, Ref


def _recorded(function: Any, *inputs: Tensor) -> Recording:
    return recording(lambda *given: (function(*given),), inputs, (), {})


def _names(found: Recording) -> list[str]:
    return [step.name for step in found.steps]


def _written(function: Any) -> Writer:
    def of(count: int) -> Recording:
        return recording(
            lambda pixels, wanted: (function(pixels),), (torch.ones(count, 4), torch.ones(count, 2)), (), {}
        )

    return Writer(of(2), of(3), {}, 1)


def test_a_value_that_depends_on_no_followed_tensor_is_a_constant() -> None:
    def function(x: Tensor) -> Tensor:
        mask = torch.zeros(4)
        mask[1:3] = 1
        return x * mask.flip(0)

    found = _recorded(function, torch.ones(2, 4))
    assert _names(found) == ["aten.mul.Tensor"]
    assert found.steps[0].args[1].tolist() == [0, 1, 1, 0]


def test_a_constant_has_the_value_it_had_when_it_was_read() -> None:
    def function(x: Tensor) -> Tensor:
        mask = torch.ones(4)
        y = x + mask
        mask.zero_()
        return y

    assert _recorded(function, torch.ones(2, 4)).steps[0].args[1].tolist() == [1, 1, 1, 1]


def test_a_tensor_reads_as_the_last_value_written_to_it() -> None:
    def function(x: Tensor) -> Tensor:
        y = x + 1
        y.mul_(3)
        y[:, 1:].zero_()
        return y * 2

    found = _recorded(function, torch.ones(2, 4))
    assert _names(found) == [
        *("aten.add.Tensor", "aten.mul.Tensor", "aten.slice.Tensor", "aten.slice_scatter.default", "aten.mul.Tensor"),
    ]
    assert found.steps[-1].args[0] == found.steps[-2].results[0]


def test_writing_to_a_part_through_a_second_view_is_refused() -> None:
    with pytest.raises(TracingError, match="writes to a part"):
        _recorded(lambda x: (x + 1).unfold(1, 2, 2).zero_(), torch.ones(2, 4))


def test_reading_a_number_from_a_followed_tensor_is_refused() -> None:
    with pytest.raises(TracingError, match="depend on the pixels"):
        _recorded(lambda x: x * x.sum().item(), torch.ones(2, 4))


def test_a_rule_rewrites_an_operation_or_leaves_it() -> None:
    rules = {
        torch.ops.aten.relu.default: lambda x: x.clamp(min=0),
        torch.ops.aten.tanh.default: lambda x: NotImplemented,
    }
    found = recording(lambda x: (x.relu().tanh(),), (torch.ones(2, 4),), (), rules)
    assert _names(found) == ["aten.clamp.default", "aten.tanh.default"]
    assert isinstance(found.outputs[0], Value)


def test_a_size_that_depends_on_the_batch_is_a_multiple_of_it() -> None:
    writer = _written(lambda x: x.repeat_interleave(2, 0).reshape(2, -1))
    assert [node.args[1] for node in writer.nodes if node.op == "aten.view.default"][-1] == (2, -1)
    writer = _written(lambda x: x[:, None].expand(-1, 5, -1) + x.new_zeros(x.shape[0], 5, 4))
    (wide,) = (node for node in writer.nodes if node.args and "constant" in repr(node.args[0]) and node.op != "weight")
    assert wide.args[1] == (Batch(PIXELS_INPUT), -1, -1)


def test_the_same_operation_is_written_once() -> None:
    writer = _written(lambda x: x.tanh() * x.tanh())
    assert [node.op for node in writer.nodes] == ["input", "input", "aten.tanh.default", "aten.mul.Tensor"]
    assert writer.nodes[-1].args == (Ref(writer.nodes[-2].name),) * 2


def test_operations_that_depend_on_the_batch_size_are_refused() -> None:
    with pytest.raises(TracingError, match="different operations for two images and for three"):
        _written(lambda x: x.tanh() if len(x) == 2 else x.sigmoid())


def test_constants_that_depend_on_the_batch_size_are_refused() -> None:
    with pytest.raises(TracingError, match="different constants"):
        _written(lambda x: x * torch.full((4,), float(len(x))))
