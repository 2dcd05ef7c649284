"""``pellucid reproduce``: compute a reply again and compare it to the bit."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from pydantic import ValidationError
from rich.markup import escape

from pellucid.schemas import Failure, Picture, Provenance, Reply, Result

from . import files
from .session import ApiKey, AsJson, Timeout, console, explained_errors, print_json, refuse, session
from .start import URL_VARIABLE

Origin = tuple[str, Any, Any]  # what, then, now
# The fields that name an entry among others.
_NAMES: Final = ("layer", "side", "method")


def reproduce(
    reply: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="A JSON reply to a request with provenance=true, or the explanation.json of --provenance.",
        ),
    ],
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Its photographs.")],
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            "--url",
            envvar=URL_VARIABLE,
            help="Server that computes the reply. Without it, the network is loaded into this process, on the reply's "
            "engine, device, precision and threads.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Network to load, if its name is not enough: file:PATH. Default: the reply's.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The picture that the reply compares with.")
    ] = None,
    region_mask: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The mask of the region that the reply explains.")
    ] = None,
    timeout: Timeout = 60,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Compute a reply again, and compare: its picture, weights and versions, then every number and every byte.

    Exit codes: 0, all is identical; 1, an answer, the weights or a photograph differs; 2, it could not be computed.
    """
    then, origin = _read(reply)
    pairs = _paired(then, images)
    strangers = [image for image, result in pairs if result is None]
    if strangers:
        known = [result.image.sha256 for result in _results(then)]
        for image in strangers:
            said = f"[red]{escape(str(image))} is another picture:[/] its sha256 is {_sha256(image)},"
            console.print(said, soft_wrap=True)
        if as_json:
            print_json({"identical": False, "pictures": known, "strangers": [*map(str, strangers)]})
        refuse(f"the reply is of {', '.join(known)}. Nothing was computed.", code=1)

    pictures = _pictures(origin, {"reference": reference, "region_mask": region_mask})

    async def run() -> list[_Again]:
        engine = origin.engine
        settings = {"engine": engine.name, **engine.model_dump(include={"device", "precision", "threads"})}
        chosen = None if server else model or origin.network.name
        async with session(server, api_key, model=chosen, timeout_s=timeout, settings=settings) as client:
            options = {**origin.options, **pictures, "provenance": True}
            if not server:
                options["model"] = None  # only one is loaded, whatever its name
            return [
                _Again(image, result, await client.reply(origin.route, image, **options))
                for image, result in pairs
                if result is not None
            ]

    with explained_errors(server):
        done = asyncio.run(run())
    identical = all(again.identical for again in done)
    same_weights = all(
        again.reply.provenance and _digests(again.reply.provenance) == _digests(origin) for again in done
    )
    if as_json:
        compared = [again.as_json(origin) for again in done]
        print_json({"identical": identical, "same_weights": same_weights, "pictures": compared})
    else:
        for again in done:
            for line in again.lines(origin):
                console.print(line, soft_wrap=True)
        console.print("[green]Identical, to the bit.[/]" if identical else "[red]Not identical.[/]")
        if not same_weights:
            console.print("[red]The reply names other weights[/] than those that were run.")
    if not (identical and same_weights):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Again:
    """One picture's result in the reply, and the new reply."""

    image: Path
    then: Result
    reply: Reply

    @property
    def now(self) -> Result:
        (found,) = self.reply.results
        assert isinstance(found, Result)
        return found

    @property
    def parts(self) -> list[_Difference]:
        exclude = {"image", "frame"}
        then, now = (each.model_dump(exclude=exclude, exclude_unset=True) for each in (self.then, self.now))
        parts = dict.fromkeys((*then, *now))
        return [found for part in parts for found in _compared(part, then.get(part), now.get(part))]

    @property
    def identical(self) -> bool:
        return all(part.identical for part in self.parts)

    def origins(self, origin: Provenance) -> Iterator[Origin]:
        """The weights, input, engine and versions of both."""
        assert self.reply.provenance is not None
        then, now = origin.model_dump(), self.reply.provenance.model_dump()
        for name, key in (("weights sha256", "weights_sha256"), ("parameters sha256", "parameters_sha256")):
            yield name, then["network"][key], now["network"][key]
        yield "preprocessing", then["preprocess"], now["preprocess"]
        if self.then.frame and self.now.frame:
            yield "network's input sha256", self.then.frame.pixels_sha256, self.now.frame.pixels_sha256
        for key in then["engine"]:
            yield f"engine's {key}", then["engine"][key], now["engine"].get(key)
        for name in dict.fromkeys((*then["versions"], *now["versions"])):
            yield f"version of {name}", then["versions"].get(name), now["versions"].get(name)

    def lines(self, origin: Provenance) -> Iterator[str]:
        yield f"[bold]{escape(str(self.image))}[/]: the reply's picture, sha256 {self.then.image.sha256}"
        origins = [*self.origins(origin)]
        others = [each for each in origins if each[1] != each[2]]
        for what, then, now in others:
            yield f"  [yellow]{what}[/]: {escape(str(then))} then, {escape(str(now))} now"
        same = [what for what, then, now in origins if then == now]
        yield f"  the same: {', '.join(same)}"
        for part in self.parts:
            colour = "green" if part.identical else "red"
            yield f"  {escape(part.part)}: [{colour}]{escape(part.words())}[/]"

    def as_json(self, origin: Provenance) -> dict[str, Any]:
        return {
            "source": str(self.image),
            "sha256": self.then.image.sha256,
            "identical": self.identical,
            "origin": [
                {"what": what, "then": then, "now": now, "same": then == now}
                for what, then, now in self.origins(origin)
            ],
            "parts": [
                {"part": part.part, "identical": part.identical, "largest": part.largest, "note": part.note or None}
                for part in self.parts
            ],
        }


def _digests(origin: Provenance) -> tuple[str | None, str | None]:
    return origin.network.weights_sha256, origin.network.parameters_sha256


def _read(path: Path) -> tuple[Reply, Provenance]:
    try:
        reply = Reply.model_validate_json(files.reply(path), extra="ignore")
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            refuse(
                f"[red]{escape(str(path))} is no JSON.[/] Only JSON replies can be computed again, not pictures or "
                ".npz files. Repeat the request with Accept: application/json."
            )
        refuse(f"[red]{escape(str(path))} is no reply of a route under /v1:[/] {error.error_count()} fields differ.")
    if reply.provenance is None:
        refuse(f"[red]{escape(str(path))} does not say what computed it:[/] ask with provenance=true, or --provenance.")
    if not any(_results(reply)):
        refuse(f"[red]{escape(str(path))} explains no picture.[/]")
    return reply, reply.provenance


def _pictures(origin: Provenance, given: Mapping[str, Path | None]) -> dict[str, Path]:
    """The options of the reply that are pictures, whose digests it has. Ends the program without the same files."""
    needed = origin.pictures or {}
    for name, path in given.items():
        option, digest = f"--{name.replace('_', '-')}", needed.get(name)
        if digest and not path:
            refuse(f"[red]The reply needs {option} FILE:[/] it has only the sha256 of that picture, {digest}.")
        if path and not digest:
            refuse(f"[red]{option} does not belong to this reply:[/] its request had none.")
        if path and (own := _sha256(path)) != digest:
            refuse(
                f"[red]{escape(str(path))} is another picture:[/] its sha256 is {own}, the reply's {option} has "
                f"{digest}. Nothing was computed.",
                code=1,
            )
    return {name: path for name, path in given.items() if path}


def _results(reply: Reply) -> list[Result]:
    return [result for result in reply.results if not isinstance(result, Failure)]


def _paired(reply: Reply, images: Sequence[Path]) -> list[tuple[Path, Result | None]]:
    """Each photograph with its result in the reply, matched by sha256, or None."""
    by_digest = {result.image.sha256: result for result in _results(reply)}
    return [(image, by_digest.get(_sha256(image))) for image in images]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Difference:
    """One part of a result: ``largest`` is the largest difference of its numbers, or of its picture's levels,
    None if they are identical to the last bit. ``note`` describes a difference that is not a number.
    """

    part: str
    largest: float | None = None
    note: str = ""
    unit: str = ""

    @property
    def identical(self) -> bool:
        return self.largest is None and not self.note

    def words(self) -> str:
        if self.identical:
            return "identical"
        return self.note or f"differs by {self.largest:g}{self.unit}"


def _compared(part: str, then: Any, now: Any) -> Iterator[_Difference]:
    """The comparison of two values in JSON: of a part with parts, each of these, and what is left of it at once."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        if "media_type" in then and "media_type" in now:
            yield _of_pictures(part, then, now)
            return
        keys = [*dict.fromkeys((*then, *now))]
        plain = [key for key in keys if not _nested(then.get(key)) and not _nested(now.get(key))]
        if plain:
            yield _values(part, {key: then.get(key) for key in plain}, {key: now.get(key) for key in plain})
        for key in keys:
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


def _of_pictures(part: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> _Difference:
    if then == now:
        return _Difference(part)
    one, other = (
        np.asarray(Picture.model_validate(dict(each)).to_pil().convert("RGB")).astype(int) for each in (then, now)
    )
    if one.shape != other.shape:
        sizes = (f"{each.shape[1]} x {each.shape[0]} pixels" for each in (one, other))
        return _Difference(part, note="{} then, {} now".format(*sizes))
    if (largest := float(np.abs(one - other).max())) == 0:
        return _Difference(part, note="the same pixels in other bytes")
    return _Difference(part, largest, unit=" levels of 255")


def _values(part: str, then: Any, now: Any) -> _Difference:
    if then == now:
        return _Difference(part)
    one, other = list(_leaves(then)), list(_leaves(now))
    if [place for place, _ in one] != [place for place, _ in other]:
        return _Difference(part, note="have different forms")
    largest = 0.0
    for (place, left), (_, right) in zip(one, other, strict=True):
        if left == right:
            continue
        if not (isinstance(left, (int, float)) and isinstance(right, (int, float))) or "index" in place:
            return _Difference(part, note=f"{left!r} then, {right!r} now")
        largest = max(largest, abs(left - right))
    return _Difference(part, largest)


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, (Mapping, list)):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _leaves(inner, (*place, str(key)))
    else:
        yield place, value
