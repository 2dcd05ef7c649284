"""Symbolic tracing with known shapes: torch.fx, where every symbol also carries its value for 2 and for 3 images.

Plain torch.fx fails when a network reads a shape: TensorFlow's SAME padding, attention windows, a gate that tests
whether its map is 1x1. This tracer also runs every operation on noise, so a shape is a plain number and leaves no node
in the graph. A number that differs between the two runs depends on the batch size. It stays a symbol: a multiple of one
node, the batch size. The graph is valid for one input size and any batch size.

torch's fake tensors know shapes without arithmetic, but they load torch's compiler, which takes a second and keeps
150 MiB.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.fx.proxy import Attribute
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.compiler.trace.gates import Gated
from pellucid.compiler.trace.in_place import overwritten, setitem

BATCHES = (2, 3)
# Operations that return the same numbers but stop the gradient.
_SAME = ("detach", "detach_", "requires_grad_", torch.detach)
# Methods that read numbers without passing torch's dispatcher, so _Shapes does not see them.
_OF_PIXELS = {"numpy", "tolist"}


@dataclass(frozen=True)
class Trace:
    """``pixels`` is the input node and ``batch`` the node of its batch size. ``qualnames`` gives each node's operation
    within its module. ``returned`` maps a composite module's path to the node that it returned and the module's class.

    A node's ``meta["shape"]`` is its value's shape for two images. It is missing if the value is not a floating-point
    tensor with one row per image. ``meta["number"]`` marks a number that follows from the batch size alone.
    """

    module: fx.GraphModule
    pixels: fx.Node
    batch: fx.Node
    qualnames: dict[fx.Node, str]
    returned: dict[str, tuple[fx.Node, str]]

    def moved(self, old: fx.Node, new: fx.Node) -> None:
        """Give the names of ``old`` to ``new``, which holds the same value."""
        if old in self.qualnames:
            self.qualnames[new] = self.qualnames.pop(old)
        for path, (node, kind) in self.returned.items():
            if node is old:
                self.returned[path] = new, kind


def trace(net: nn.Module, shape: tuple[int, int, int]) -> Trace:
    """The graph of ``net`` for pixels ``[B, *shape]``.

    Raises whatever the network's code raises when it meets a symbol.
    """
    tracer = _Tracer(net, shape)
    try:
        graph = tracer.trace(net)
    finally:
        net.eval()  # makes timm's networks drop the symbols of this trace that they cached
    (pixels,) = (node for node in graph.nodes if node.op == "placeholder")
    return Trace(fx.GraphModule(net, graph), pixels, tracer.batch, tracer.qualnames, tracer.returned)


def check_same(net: nn.Module, served: fx.GraphModule, shape: tuple[int, int, int], count: int) -> None:
    """Compare the network with the ``served`` graph on ``count`` seeded images and on one.

    Raises ValueError if the logits differ. That finds what tracing misses: writes through a view
    (``a, b = y.chunk(2, 1); a.mul_(3)``), ``z += 1`` on an alias, dropout that stays on in eval mode. It also finds
    networks whose answer depends on the other images in the batch (batch norm without running statistics).
    """
    parameter = any_parameter(net)
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))  # unlike the traced noise
    images += torch.linspace(-1, 2, count)[:, None, None, None]  # from dark to bright
    images = images.to(parameter.device, parameter.dtype)
    first = images[:1]
    with torch.no_grad():
        # Compare runs of equal batch size: another size may use another kernel, which rounds differently.
        expected, alone = net(images.clone()), net(first.clone())
        _compare(served(images.clone()), expected, "from the same images: take out what is random, such as dropout")
        _compare(served(first.clone()), alone.reshape(1, *expected.shape[1:]), "from one image")
        beside = "for an image beside other images: use no statistics of the batch, such as those of a norm in training"
        _compare(served(torch.cat((first, -images[1:])))[:1], expected[:1], beside)


def any_parameter(net: nn.Module) -> torch.Tensor:
    """A parameter, for the dtype and device of the pixels; an empty default tensor if the network has none."""
    return next(net.parameters(), torch.empty(0))


def _compare(found: torch.Tensor, expected: torch.Tensor, when: str) -> None:
    atol = 1e-3 * float(expected.abs().max()) + 1e-6
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=atol, equal_nan=True):
        raise ValueError(f"it computes other logits {when}")


class Operation(nn.Module):
    """A function of tensors, some of which are its ``own``, by position. Its value has the module's name, no other."""

    def __init__(self, function: Callable[..., Any], own: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._function = function
        self._own = {position: f"operand{position}" for position in own}
        for position, value in own.items():
            if value.is_floating_point():
                self.register_parameter(f"operand{position}", nn.Parameter(value))
            else:
                self.register_buffer(f"operand{position}", value)

    def forward(self, *values: Any) -> Any:
        given = iter(values)
        count = len(values) + len(self._own)
        return self._function(
            *(getattr(self, self._own[at]) if at in self._own else next(given) for at in range(count))
        )


class _Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations whose result is a number, or a tensor of a size, that depends on the pixels.

    The trace runs on noise, so such a result would say nothing about real images.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: to skip torch's compiler, torch would first load it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_masks = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        of_pixels = torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
        if by_masks or (of_pixels and func is not torch.ops.aten.index.Tensor):
            raise TypeError(
                f"a value that depends on the pixels ({func}) can't be traced: compute with tensors instead"
            )
        return func(*args, **(kwargs or {}))


class _Known(fx.Proxy):
    """A symbol with its values for each of ``BATCHES``. The values are freed with the symbol."""

    known: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            return self
        if callable(getattr(self.known[0], name)):
            return Attribute(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __setitem__(self, index: Any, part: Any) -> None:
        changed = self.tracer.create_proxy("call_function", setitem, (self, index, part), {})
        assert isinstance(changed, _Known)
        self.known = changed.known  # later reads see the new values, as in the network


class _Tracer(fx.Tracer):
    """Also records the module of each operation and the value that each module returned, so that ``layer3`` names the
    output of layer3.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.qualnames: dict[fx.Node, str] = {}
        self.returned: dict[str, tuple[fx.Node, str]] = {}
        parameter = any_parameter(net)
        noise = torch.randn(max(BATCHES), *shape, generator=torch.Generator().manual_seed(0))
        noise = noise.to(parameter.device, parameter.dtype)
        self._inputs = tuple(noise[:count].clone() for count in BATCHES)
        self._symbols: WeakValueDictionary[fx.Node, _Known] = WeakValueDictionary()
        self._numbers: dict[fx.Node, tuple[Any, ...]] = {}
        self._running = False
        self._modules = {path for path, _ in net.named_modules()}
        self._runs: Counter[str] = Counter()
        self._names: set[str] = set()
        self._overwritten: dict[fx.Node, fx.Node] = {}
        self.batch: fx.Node

    def create_args_for_root(self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None) -> Any:
        """The pixels are the only input; further arguments of ``forward`` keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._running:
            return forward(*args, **kwargs)
        value = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m)
        if isinstance(m, Operation):
            if isinstance(value, fx.Proxy):
                self.qualnames[value.node] = path
            return value
        # A leaf's value has its name already. A gated layer returns its gate's value, which has a name too.
        if isinstance(value, fx.Proxy) and not isinstance(m, Gated) and not self.is_leaf_module(m, path):
            self.returned[self._numbered(path)] = self._current(value.node), type(m).__name__
        return value

    def _current(self, node: fx.Node) -> fx.Node:
        """The node of the last operation that overwrote ``node`` in place, or ``node`` itself."""
        while node in self._overwritten:
            node = self._overwritten[node]
        return node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _qualname(self, node: fx.Node) -> str:
        """The path of the module whose code runs; for a function or method, followed by its name."""
        path = self.scope.module_path
        if node.op == "call_module":
            return self._numbered(path)
        operation = re.sub(r"_\d+$", "", node.name)
        return self._numbered(f"{path}.{operation}".strip("."), is_module=False)

    def _numbered(self, path: str, is_module: bool = True) -> str:
        """``path``, with a number from its second run on.

        A module's plain path is reserved for the value that the module returns on its first run.
        """
        run, name = self._runs[path], path
        while name in self._names or (name in self._modules and not (is_module and name == path)):
            run += 1
            name = f"{path}_{run}"
        self._runs[path] = run
        self._names.add(name)
        return name

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Raise TypeError: the trace would follow the branch that noise takes."""
        raise TypeError(
            "it branches on a value that depends on the pixels: compute both sides and select with torch.where"
        )

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        assert isinstance(obj, _Known)
        lengths = {len(value) for value in obj.known}
        if len(lengths) != 1:
            raise TypeError("a loop over the images of a batch can't be traced")
        return iter([operator.getitem(obj, i) for i in range(lengths.pop())])

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> Any:
        """A symbol for the operation's value, or the value itself if it depends on the input size alone."""
        operation = None if kind == "call_module" else target  # a module may have the name of an operation
        if operation in _SAME:
            return args[0]
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **named)
        assert isinstance(proxy, _Known)
        node = proxy.node
        self.qualnames[node] = self._qualname(node)
        if kind == "placeholder":
            self._learn(proxy, self._inputs)
            self.batch = self.create_node("call_method", "size", (node, 0), {}, "batch")
            self.batch.meta["number"] = True
            self._numbers[self.batch] = BATCHES
            return proxy
        if operation in ("squeeze", torch.squeeze) and len(node.args) == 1:
            # For one image a plain squeeze would also remove the batch axis.
            shapes = [value.shape for value in args[0].known]
            node.args = (
                *node.args,
                tuple(axis for axis, sides in enumerate(zip(*shapes, strict=True)) if {*sides} == {1}),
            )
        if (operation if isinstance(operation, str) else getattr(operation, "__name__", "")) in _OF_PIXELS:
            raise TypeError(f"a value that depends on the pixels ({target}) can't be traced")
        values = tuple(self._run(node, i) for i in range(len(BATCHES)))
        self._learn(proxy, values)
        before = overwritten(node, self.root)
        if before is not None:
            self._overwritten[self._current(before)] = node
        return proxy if _holds_tensors(values[0]) else self._settled(values)

    def _learn(self, proxy: _Known, values: tuple[Any, ...]) -> None:
        proxy.known = values
        self._symbols[proxy.node] = proxy
        _note_shape(proxy.node, values)

    def _run(self, node: fx.Node, i: int) -> Any:
        self._running = True  # torch.fx has replaced nn.Module's __call__ and __getattr__ during the trace
        try:
            with torch.no_grad(), _Shapes():  # type: ignore[no-untyped-call]
                return self._execute(node, i)
        finally:
            self._running = False

    def _execute(self, node: fx.Node, i: int) -> Any:
        def value(source: fx.Node) -> Any:
            if source in self._numbers:
                return self._numbers[source][i]
            if source in self._symbols:
                return self._symbols[source].known[i]
            return _attribute(self.root, str(source.target))  # a buffer or a constant, for which torch.fx made a node

        if node.op == "get_attr":
            return _attribute(self.root, str(node.target))
        args, kwargs = map_arg((node.args, node.kwargs), value)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function's target is a function

    def _settled(self, values: tuple[Any, ...]) -> Any:
        """A value that is not a tensor: unchanged if both runs agree, else as a multiple of the batch size."""
        two, three = values
        if isinstance(two, (tuple, list)):
            return tuple(map(self._settled, zip(two, three, strict=True)))
        if two == three:
            return two
        if not isinstance(two, int) or two * 3 != three * 2 or two % 2:
            raise TypeError(f"a value that is {two} for 2 images and {three} for 3 can't be traced")
        node = self.batch
        if two != BATCHES[0]:
            node = self.create_node("call_function", _times, (self.batch, two // 2), {})
            node.meta["number"] = True
            self._numbers[node] = values
        number = _Known(node, self)
        number.known = values
        return number


def _times(batch: int, count: int) -> int:
    return batch * count


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    return isinstance(value, torch.Tensor) or (isinstance(value, (tuple, list)) and any(map(_holds_tensors, value)))


def _note_shape(node: fx.Node, values: tuple[Any, ...]) -> None:
    numbers = [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
    shapes = [tuple(value.shape) for value in numbers]
    if shapes and all(shape[:1] == (count,) for shape, count in zip(shapes, BATCHES, strict=True)):
        node.meta["shape"] = shapes[0]
