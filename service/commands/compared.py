"""Compares two results for one picture, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pellucid.schemas import Picture

# The fields that name an entry among others.
_NAMES: Final = ("layer", "side", "method")


@dataclass(frozen=True, slots=True)
class Difference:
    """One part of a result: ``largest`` is the largest difference of its numbers, or of its picture's levels,
    None if they are identical to the last bit. ``note`` describes a difference that is not a number.
    """

    part: str
    kind: str
    largest: float | None = None
    note: str = ""

    @property
    def identical(self) -> bool:
        """Whether both are equal to the last bit."""
        return self.largest is None and not self.note

    def words(self) -> str:
        """The difference, for people."""
        if self.identical:
            return "identical"
        if self.note:
            return self.note
        return f"differs by {self.largest:g}" + (" levels of 255" if self.kind == "picture" else "")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The comparison of each part of two results in JSON, without ``image`` and ``frame``."""
    found: list[Difference] = []
    for part in dict.fromkeys((*then, *now)):
        if part not in ("image", "frame"):
            found += _compared(part, then.get(part), now.get(part))
    return found


def _compared(part: str, then: Any, now: Any) -> Iterator[Difference]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        if "media_type" in then and "media_type" in now:
            yield _pictures(part, then, now)
            return
        plain = [
            key for key in dict.fromkeys((*then, *now)) if not _nested(then.get(key)) and not _nested(now.get(key))
        ]
        if plain:
            yield _values(part, {key: then.get(key) for key in plain}, {key: now.get(key) for key in plain})
        for key in dict.fromkeys((*then, *now)):
            if key not in plain:
                yield from _compared(f"{part}.{key}", then.get(key), now.get(key))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now) and any(map(_named, then)):
        for number, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from _compared(f"{part}[{_name(one) or number}]", one, other)
    else:
        yield _values(part, then, now)


def _nested(value: Any) -> bool:
    """Whether a value is compared on its own: a picture, a part with parts, or a list of these."""
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(_named, value)))


def _named(entry: Any) -> bool:
    return isinstance(entry, Mapping) and bool(_name(entry))


def _name(entry: Mapping[str, Any]) -> str:
    target = entry.get("target")
    label = [str(target.get("label"))] if isinstance(target, Mapping) else []
    return ", ".join([*label, *(str(entry[name]) for name in _NAMES if entry.get(name) is not None)])


def _pictures(part: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Difference:
    if then == now:
        return Difference(part, "picture")
    one, other = (
        np.asarray(Picture.model_validate(dict(each)).to_pil().convert("RGB")).astype(int) for each in (then, now)
    )
    if one.shape != other.shape:
        return Difference(part, "picture", note=f"{_size(one)} then, {_size(other)} now")
    if (largest := float(np.abs(one - other).max())) == 0:
        return Difference(part, "picture", note="the same pixels in other bytes")
    return Difference(part, "picture", largest)


def _size(pixels: np.typing.NDArray[np.int_]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} pixels"


def _values(part: str, then: Any, now: Any) -> Difference:
    if then == now:
        return Difference(part, "numbers")
    one, other = list(_leaves(then)), list(_leaves(now))
    if [place for place, _ in one] != [place for place, _ in other]:
        return Difference(part, "numbers", note="have different forms")
    largest = 0.0
    for (place, left), (_, right) in zip(one, other, strict=True):
        if left == right:
            continue
        if not (isinstance(left, (int, float)) and isinstance(right, (int, float))) or "index" in place:
            return Difference(part, "numbers", note=f"{left!r} then, {right!r} now")
        largest = max(largest, abs(left - right))
    return Difference(part, "numbers", largest)


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, (Mapping, list)):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _leaves(inner, (*place, str(key)))
    else:
        yield place, value
