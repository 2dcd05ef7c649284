"""One tree of errors. Each class carries what RFC 9457 asks for: a status, a slug that names the kind, and a title."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import ClassVar, Final, Self

# As many names as fit into a sentence; more stand in `allowed` alone.
_FEW: Final = 8


class PellucidError(Exception):
    """An error that a caller is told about. ``detail`` says what was wrong and what is allowed.

    ``allowed`` goes into the reply as a list of its own, for programs; ``headers`` go with the response.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something failed inside the service"

    def __init__(
        self, detail: str, *, allowed: Sequence[str] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.allowed = allowed
        self.headers = headers or {}

    def about(self, subject: str) -> Self:
        """A new error of this kind whose ``detail`` begins with the ``subject``. The error itself stays as it is."""
        detail = f"{subject}: {self.detail}"
        error = type(self).__new__(type(self), detail)
        error.__dict__.update(self.__dict__, detail=detail)
        return error


class MalformedRequest(PellucidError):
    """The body can't be read as what its Content-Type says, or holds no image."""

    status, slug, title = 400, "malformed-request", "The request can't be read"


class Unauthorized(PellucidError):
    """No key was sent."""

    status, slug, title = 401, "unauthorized", "A key is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="pellucid"'})


class WrongKey(Unauthorized):
    """The key that was sent is not known."""

    slug, title = "wrong-key", "The key is wrong"


class NotFound(PellucidError):
    """No such route."""

    status, slug, title = 404, "not-found", "There is nothing here"


class MethodNotAllowed(PellucidError):
    """The route takes another method."""

    status, slug, title = 405, "method-not-allowed", "The route takes another method"


class UnknownModel(PellucidError):
    """No model of this name is served."""

    status, slug, title = 404, "unknown-model", "No such model"


class NotAcceptable(PellucidError):
    """The reply can't be given as what the Accept header asks for."""

    status, slug, title = 406, "not-acceptable", "The reply has no such form"


class HeadTimeout(PellucidError):
    """The request's line and headers did not come in time."""

    status, slug, title = 408, "head-timeout", "The request came too slowly"


class HeadTooLarge(PellucidError):
    """The request's line and headers are larger, or more, than this service takes."""

    status, slug, title = 431, "head-too-large", "The headers are too large"


class ContentTooLarge(PellucidError):
    """More bytes, pixels or images than this service takes."""

    status, slug, title = 413, "content-too-large", "Too large"


class UnsupportedMediaType(PellucidError):
    """The body, or a picture in it, is of a type that is not served."""

    status, slug, title = 415, "unsupported-media-type", "Not a type that is served"


class UndecodableImage(PellucidError):
    """The bytes begin as a picture of a served type but can't be decoded."""

    status, slug, title = 422, "undecodable-image", "The image can't be decoded"


class InvalidOption(PellucidError):
    """An option has an unknown name or a value outside its range."""

    status, slug, title = 422, "invalid-option", "An option is not valid"


class TooCostly(InvalidOption):
    """What is asked for takes longer than the deadline allows, whatever else is in flight."""

    slug, title = "too-costly", "This takes longer than the deadline allows"


class Unexplainable(PellucidError):
    """The network predicts, but offers no layer for what was asked."""

    status, slug, title = 422, "unexplainable", "The network can't be explained in this way"


class UnknownName(InvalidOption):
    """A class, layer or channel that the network does not have."""

    slug, title = "unknown-name", "The network has nothing of that name"

    @classmethod
    def among(cls, kind: str, name: str, allowed: Sequence[str], hint: str = "") -> UnknownName:
        """The error for ``name``, naming its closest neighbours; all that is allowed goes into ``allowed``.

        Neighbours are what has the name as one of its words, then what is spelled alike.
        """
        if not allowed:
            return cls(f"Unknown {kind} {name!r}: this network has none.", allowed=allowed)
        by_folded = {entry.casefold(): entry for entry in allowed}
        folded = name.casefold()
        worded = [entry for key, entry in by_folded.items() if folded in key.split()]
        alike = [by_folded[key] for key in get_close_matches(folded, by_folded, n=3, cutoff=0.6)]
        close = list(dict.fromkeys([*worded, *alike]))[:4]
        guess = f" Did you mean {' or '.join(repr(entry) for entry in close)}?" if close else ""
        known = f"Allowed are {', '.join(allowed)}" if len(allowed) <= _FEW else f"There are {len(allowed)}"
        return cls(f"Unknown {kind} {name!r}.{guess} {known}{hint}.", allowed=allowed)


class QueueFull(PellucidError):
    """As many images, or as many bytes, are in flight as the service takes."""

    status, slug, title = 429, "queue-full", "Too much in flight"

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


class RateLimited(PellucidError):
    """The caller asks more often than the operator allows."""

    status, slug, title = 429, "rate-limited", "Too many requests"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


class TooLate(QueueFull):
    """What waits already would take longer than the deadline allows."""

    slug, title = "too-late", "Too much waits to answer by the deadline"


class InferenceFailed(PellucidError):
    """The network could not be run on this image."""

    slug, title = "inference-failed", "The network failed on this image"


class Unavailable(PellucidError):
    """Not now; the same request may be answered after ``Retry-After`` seconds."""

    status = 503
    retry_after_s: ClassVar[int] = 1

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": str(self.retry_after_s)})


class Draining(Unavailable):
    """The service is starting up or shutting down."""

    slug, title = "not-ready", "The service takes no work at the moment"


class EngineDown(Unavailable):
    """What runs the network hangs or has ended; whoever watches ``/livez`` restarts the service."""

    slug, title = "engine-down", "The network does not answer"
    retry_after_s = 10


class OutOfMemory(Unavailable):
    """There is not enough memory for this image at the moment."""

    slug, title = "out-of-memory", "The network ran out of memory"
    retry_after_s = 5


class DeadlineExceeded(PellucidError):
    """The answer would have come, or came, after the deadline."""

    status, slug, title = 504, "deadline-exceeded", "The deadline passed"
