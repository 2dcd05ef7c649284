"""Errors in the OpenAPI document: an entry for each status that a route can return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pellucid import errors
from pellucid.errors import PellucidError

from .problem_json import PROBLEM, problem

# A reference: FastAPI would document a model as application/json.
_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}
_EXAMPLE_ID: Final = "b1f5c0de7a3e4c55"

NO_KEY: Final = errors.Unauthorized("Send a key as the header X-API-Key: KEY, or as Authorization: Bearer KEY.")
WRONG_KEY: Final = errors.WrongKey("The key that was sent is not known here.")
TOO_OFTEN: Final = errors.RateLimited(
    "One caller may send 60 requests each minute; the next will be accepted in 7 s.", retry_after_s=7
)
DRAINING: Final = errors.Draining("The service is starting up or shutting down.")
DOWN: Final = errors.EngineDown("The engine hangs.")
EXAMPLES: Final[tuple[PellucidError, ...]] = (
    errors.MalformedRequest("The body holds no image. Images go into file parts named 'images'."),
    NO_KEY,
    WRONG_KEY,
    errors.NotAcceptable("This route answers as application/json, not as 'text/html'.", allowed=["application/json"]),
    errors.ContentTooLarge("The picture has 20000 x 20000 pixels; at most 64 million are allowed for JPEG."),
    errors.UnsupportedMediaType(
        "The bytes are not an image of a supported type. Supported are JPEG, PNG, WEBP, BMP, GIF, TIFF, NPY.",
        allowed=["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"],
    ),
    errors.InvalidOption("Unknown option 'tmeout_ms'. Did you mean 'timeout_ms'? This route takes timeout_ms, model."),
    errors.UndecodableImage("The JPEG data are corrupt or truncated: image file is truncated (3 bytes not processed)"),
    errors.QueueFull("256 images are in flight, and 1 more would exceed the limit of 256.", retry_after_s=2),
    TOO_OFTEN,
    errors.TooLate(
        "40 images are in flight: the answer would take about 3.2 s, and its deadline is in 2.0 s.", retry_after_s=1.2
    ),
    errors.InferenceFailed("The network could not be run on this image."),
    DRAINING,
    DOWN,
    errors.OutOfMemory("There is not enough memory for this image at the moment."),
    errors.DeadlineExceeded("The queue was too long to answer by the deadline."),
)
NO_MODEL: Final = errors.UnknownModel("No model 'lite1' is served. Served are lite0.", allowed=["lite0"])

NO_ATLAS: Final = errors.NoAtlas(
    "lite0 has no atlas here. `pellucid atlas` builds one, and PELLUCID_ATLASES=FILE serves it."
)
BAD_ORDER: Final = errors.InvalidOption("order: target needs `target`, a class by label or index.")

_HEADERS: Final = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "How a key is sent.", "schema": {"type": "string"}},
}


def responses(
    of: Sequence[PellucidError],
    media_type: str = PROBLEM,
    schema: Mapping[str, Any] = _SCHEMA,
    form: Callable[[PellucidError], dict[str, Any]] = lambda error: problem(error, _EXAMPLE_ID),
) -> dict[int | str, dict[str, Any]]:
    """The replies to these errors by status, in the protocol's ``form``."""
    documented: dict[int | str, dict[str, Any]] = {}
    for error in of:
        kind = type(error)
        entry = documented.setdefault(
            kind.status, {"description": "", "content": {media_type: {"schema": schema, "examples": {}}}}
        )
        entry["description"] = f"{entry['description']} {(kind.__doc__ or '').splitlines()[0]}".strip()
        entry["content"][media_type]["examples"][kind.slug] = {"summary": kind.title, "value": form(error)}
        for name, stated in _HEADERS.items():
            if name in error.headers:
                entry.setdefault("headers", {})[name] = stated
    return documented


# For routes whose options name parts of the network: their 422 has one more case.
UNKNOWN_LAYER: Final = errors.UnknownName.among("layer", "haed", ["stem", "blocks.0", "head"])

POST_PROBLEMS: Final = responses(EXAMPLES)
POST_PROBLEMS_WITH_NAMES: Final = responses((*EXAMPLES, UNKNOWN_LAYER))
_ANY_OTHER: Final = {"description": "Any other error.", "content": {"application/problem+json": {"schema": _SCHEMA}}}

MODELS_PROBLEMS: Final = responses((NO_KEY, WRONG_KEY, TOO_OFTEN))
MODEL_PROBLEMS: Final = {
    **responses((NO_KEY, WRONG_KEY, TOO_OFTEN, NO_MODEL)),
    "default": _ANY_OTHER,  # without it FastAPI adds a 422 of its own
}
_UNCHANGED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "The client already has this reply: `If-None-Match` has its ETag, or is `*`."}
}
_OF_CHANNELS: Final = (NO_KEY, WRONG_KEY, TOO_OFTEN, NO_MODEL, NO_ATLAS, BAD_ORDER, UNKNOWN_LAYER)
CHANNEL_PROBLEMS: Final = {**_UNCHANGED, **responses(_OF_CHANNELS)}
_NOT_A_FIGURE: Final = errors.NotAcceptable(
    "This route answers as application/json, image/png, image/webp, not as 'text/html'."
)
CHANNEL_FIGURE_PROBLEMS: Final = {**_UNCHANGED, **responses((*_OF_CHANNELS, _NOT_A_FIGURE))}
READY_PROBLEMS: Final = responses((DRAINING, DOWN))
LIVE_PROBLEMS: Final = responses((DOWN,))
