"""Predicts the seconds of a batch: a + b·n for n images, fitted while serving."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from pellucid.network.spec import PIXELS
from pellucid.types import MapSpec, MethodSpec, Plan

# Methods that need so little that anything else in a plan would hide their cost.
_CHEAP: Final = ("activation", "gradient", "attention")
# A lane of another size, as ``Engine.lane`` names it.
_SIZED: Final = re.compile(r"(.*)@\d+x\d+ x(\d+\.\d+)")


class CostModel:
    """Least-squares fit of seconds against batch size. Each new batch multiplies the weight of older ones by ``decay``.

    Thread-safe.
    """

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        self._lock = threading.Lock()
        # Sums over the batches: 1, n, seconds, n², n·seconds.
        self._sums: tuple[float, ...] = (0.0,) * 5

    def observe(self, size: float, seconds: float) -> None:
        """Record that a batch of ``size`` images took ``seconds``."""
        terms = (1.0, size, seconds, size * size, size * seconds)
        with self._lock:
            self._sums = tuple(self._decay * old + new for old, new in zip(self._sums, terms, strict=True))

    def predict(self, size: float) -> float:
        """The seconds of a batch of ``size``. 0 before the first batch, so that nothing is refused without data."""
        weight, n, s, nn, ns = self._sums
        if weight == 0:
            return 0.0
        variance = nn * weight - n**2
        if variance < 1e-9 * nn * weight:  # only one batch size so far: assume proportionality
            return s / n * size
        slope = max(0.0, (ns * weight - n * s) / variance)
        start = max(0.0, (s - slope * n) / weight)
        return start + slope * size


class LaneCosts:
    """A CostModel for each of the ``kept`` lanes that ran most recently. Thread-safe.

    Lanes that differ in the size of the pixels share one: an image of twice the pixels counts as two.
    """

    def __init__(self, kept: int = 256) -> None:
        self._kept = kept
        self._models: OrderedDict[str, CostModel] = OrderedDict()
        self._lock = threading.Lock()

    def observe(self, lane: str, size: int, seconds: float) -> None:
        """Record that a batch of ``size`` images of this lane took ``seconds``."""
        outputs, pixels = _parsed(lane)
        with self._lock:
            model = self._models.setdefault(outputs, CostModel())
            self._models.move_to_end(outputs)
            model.observe(size * pixels, seconds)
            if len(self._models) > self._kept:
                self._models.popitem(last=False)

    def predict(self, lane: str, size: int) -> float:
        """The seconds of one batch. 0 for an unknown lane."""
        outputs, pixels = _parsed(lane)
        with self._lock:
            model = self._models.get(outputs)
            return model.predict(size * pixels) if model else 0.0

    def seconds_for(self, images: Mapping[str, int], max_batch: int) -> float:
        """The seconds of all batches for ``images`` (lane -> number of images), if batches are as full as possible."""
        total = 0.0
        for lane, count in images.items():
            most = most_of(lane, max_batch)
            full, rest = divmod(count, most)
            total += full * self.predict(lane, most) + (self.predict(lane, rest) if rest else 0.0)
        return total


class MethodTimes:
    """The least seconds in which this process made one map of an image alone, by method, and a prediction.

    ``layer`` is the network's default layer. The least is taken because other work on the machine only adds to it.
    Images of the network's own size count.
    """

    def __init__(self, methods: Sequence[MethodSpec], layer: str) -> None:
        self._methods = methods
        self._layer = layer
        self._maps = {
            method.name: method.stands_for or MapSpec(method.name, (PIXELS if method.at_pixels else layer,))
            for method in methods
        }
        self._least: dict[tuple[MapSpec, ...], float] = {}

    def plans(self) -> list[Plan]:
        """A prediction, and one map by each method that needs one gradient at most."""
        cheap = [method.name for method in self._methods if method.needs in _CHEAP and method.at_layers]
        return [Plan(), *(Plan(heat_maps=(self._maps[name],)) for name in cheap if self._layer)]

    def observe(self, plan: Plan, seconds: float) -> None:
        """Record that an image of this plan took ``seconds`` in a batch of its own. Plans of more work are left out."""
        if plan.size is None and self._is_plain(plan):  # larger images cost less for each pixel
            self._least[plan.heat_maps] = min(seconds, self._least.get(plan.heat_maps, seconds))

    def seconds(self, method: str = "") -> float | None:
        """The seconds of one map, or those of a prediction, which each map needs too. None before the first."""
        if not method:
            return min(self._least.values(), default=None)
        return self._least.get((self._maps[method],)) if method in self._maps else None

    def _is_plain(self, plan: Plan) -> bool:
        """Whether a plan shows the cost of one map, or of a prediction."""
        if not plan.heat_maps:
            return plan == Plan(top_k=plan.top_k)
        needs = {method.needs for method in self._methods if (self._maps[method.name],) == plan.heat_maps}
        beside = () if needs <= {*_CHEAP} else ("gates", "taps", "layer")  # they vanish beside so many passes
        kept = {name: getattr(plan, name) for name in ("top_k", "targets", *beside)}
        return bool(needs) and len(plan.targets) < 2 and plan == replace(Plan(heat_maps=plan.heat_maps), **kept)


def cost(lane: str) -> float:
    """The cost of one image of a lane: its pixels, by those of the network's own size."""
    return _parsed(lane)[1]


def most_of(lane: str, limit: int) -> int:
    """The images of a lane that have at most the pixels of ``limit`` images of the network's own size. At least 1."""
    return max(1, min(limit, int(limit / cost(lane))))


def _parsed(lane: str) -> tuple[str, float]:
    """The lane without its size, and the cost of its images."""
    found = _SIZED.fullmatch(lane)
    return (found[1], float(found[2])) if found else (lane, 1.0)
