"""Pruning and cutting a graph, and its round trip through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.network.graph import INPUT, WEIGHT, Batch, Dtype, Graph, GraphError, Node, Ref

RELU, ADD, CAT = "aten.relu.default", "aten.add.Tensor", "aten.cat.default"


def of(**reads: str) -> list[Node]:
    """Operations by name, each with the names that it reads."""
    return [Node(name, ADD, tuple(map(Ref, text.split())), {}) for name, text in reads.items()]


# Two consecutive residual blocks, and the gradients with respect to their values.
GRAPH = Graph(
    [
        Node("pixels", INPUT, (), {}),
        Node("wanted", INPUT, (), {}),
        Node("kernel", WEIGHT, ("w",), {}),
        *of(stem="pixels kernel", left="stem", block="stem left", right="block", end="block right", logits="end"),
        *of(at_end="wanted end", at_right="at_end right", at_block="at_end at_right", at_left="at_block left"),
    ]
)
# Each layer reads all earlier layers.
DENSE = Graph(
    [
        Node("pixels", INPUT, (), {}),
        Node("one", RELU, (Ref("pixels"),), {}),
        Node("two", RELU, (Ref("one"),), {}),
        Node("three", CAT, ((Ref("one"), Ref("two")), 1), {}),
        Node("logits", CAT, ((Ref("one"), Ref("two"), Ref("three")), 1), {}),
    ]
)


def test_ancestors_and_dependents() -> None:
    assert GRAPH.ancestors(["left"]) == {"left", "stem", "pixels", "kernel"}
    assert GRAPH.ancestors(["end"], stop={"block"}) == {"end", "right", "block"}
    assert GRAPH.depending({"right"}) == {"right", "end", "logits", "at_end", "at_right", "at_block", "at_left"}
    assert GRAPH.of_wanted == {"wanted", "at_end", "at_right", "at_block", "at_left"}
    assert GRAPH.of_pixels == {*GRAPH.nodes} - {"wanted", "kernel"}
    assert Node("x", CAT, ((Ref("a"), (Ref("b"), 1)),), {"dim": Ref("c")}).refs == ("a", "b", "c")


@pytest.mark.parametrize(
    ("graph", "value", "outputs", "crossing"),
    [
        (GRAPH, "block", ["logits"], ["block"]),
        (GRAPH, "left", ["logits"], ["left", "stem"]),  # bypasses the branch
        (GRAPH, "right", ["logits"], ["right", "block"]),
        (GRAPH, "right", ["logits", "at_right"], ["right", "block"]),
        (GRAPH, "left", ["logits", "at_left"], ["left", "stem"]),
        (GRAPH, "pixels", ["logits"], ["pixels"]),
        (DENSE, "one", ["logits"], ["one"]),
        (DENSE, "two", ["logits"], ["two", "one"]),
        (DENSE, "three", ["logits"], ["three", "one", "two"]),
    ],
)
def test_a_cut_is_crossed_by_its_value_and_the_values_that_bypass_it(
    graph: Graph, value: str, outputs: list[str], crossing: list[str]
) -> None:
    found = graph.crossing(value, outputs)
    assert [*found] == crossing
    for output in outputs:  # and they need no other input
        assert graph.part((*found, "wanted"), (output,)).outputs == (output,)


def test_a_part_has_the_nodes_between_its_inputs_and_outputs() -> None:
    part = GRAPH.part(("left", "stem"), ("logits",))
    assert [node.name for node in part.nodes] == ["block", "right", "end", "logits"]
    assert (part.inputs, part.outputs) == (("left", "stem"), ("logits",))
    assert part.batches == {"pixels": "left", "wanted": "wanted"}
    assert [node.name for node in GRAPH.part(("pixels",), ("left",)).nodes] == ["kernel", "stem", "left"]
    assert GRAPH.part(("left",), ("left",)).nodes == ()


def test_a_part_that_needs_another_input_is_refused() -> None:
    with pytest.raises(GraphError, match="logits can't be computed from left without pixels"):
        GRAPH.part(("left",), ("logits",))
    with pytest.raises(GraphError, match="at_end can't be computed from pixels without wanted"):
        GRAPH.part(("pixels",), ("at_end",))


def test_nodes_out_of_order_or_with_one_name_are_refused() -> None:
    with pytest.raises(GraphError, match="the operation b reads a, which does not precede it"):
        Graph(of(b="a", a=""))
    with pytest.raises(GraphError, match="two operations are named a"):
        Graph([*of(a=""), *of(a="")])


NAMES = st.text(max_size=5)
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(1 - 2**63, 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.builds(Batch, st.sampled_from(["pixels", "wanted"]), st.integers(1, 2**31 - 1)),
    st.builds(Dtype, st.sampled_from(["float32", "float64", "int64", "int32", "bool"])),
)
ARGUMENTS = st.one_of(
    LEAVES, st.lists(st.one_of(LEAVES, st.lists(LEAVES, max_size=3).map(tuple)), max_size=3).map(tuple)
)


@given(st.lists(ARGUMENTS, max_size=4), st.dictionaries(NAMES, ARGUMENTS, max_size=3))
def test_operations_survive_a_round_trip_through_json(args: list[Any], kwargs: dict[str, Any]) -> None:
    nodes = [Node("x", ADD, tuple(args), {}), Node("y", ADD, (Ref("x"), (Ref("x"), *args)), kwargs)]
    data = json.loads(json.dumps(Graph(nodes).as_data(), allow_nan=False))
    again = Graph.of_data(data)
    assert [*again.nodes.values()] == nodes
    assert repr(again.nodes) == repr(Graph(nodes).nodes)  # 1 is not True, nor 1.0


def test_nan_survives_a_round_trip_through_json() -> None:
    data = Graph([Node("x", ADD, (float("nan"),), {})]).as_data()
    assert repr(Graph.of_data(data).nodes["x"].args) == "(nan,)"
