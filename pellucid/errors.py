"""The tree of errors. Each class has the status, the slug and the title of its problem reply (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import ClassVar, Final, Self

# Up to this many allowed names are listed in the sentence. ``allowed`` always lists all of them.
_FEW: Final = 8


class PellucidError(Exception):
    """An error that is reported to the client.

    ``detail`` says what was wrong and what is allowed. ``allowed`` goes into the reply as a list, for programs.
    ``headers`` are added to the response.
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
        """A copy of this error whose ``detail`` begins with ``subject``."""
        detail = f"{subject}: {self.detail}"
        error = type(self).__new__(type(self), detail)
        error.__dict__.update(self.__dict__, detail=detail)
        return error


class MalformedRequest(PellucidError):
    """The body is not valid for its Content-Type, or has no image."""

    status, slug, title = 400, "malformed-request", "The request can't be read"


class Unauthorized(PellucidError):
    """No key was sent."""

    status, slug, title = 401, "unauthorized", "A key is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="pellucid"'})


class WrongKey(Unauthorized):
    """The key is unknown."""

    slug, title = "wrong-key", "The key is wrong"


class NotFound(PellucidError):
    """No such route."""

    status, slug, title = 404, "not-found", "Not found"


class MethodNotAllowed(PellucidError):
    """The route does not support the request's method."""

    status, slug, title = 405, "method-not-allowed", "The route does not support this method"


class NoAtlas(PellucidError):
    """The network has no atlas.

    Leave out ``atlas``, or have the operator serve an atlas.
    """

    status, slug, title = 404, "no-atlas", "The network has no atlas"


class UnknownModel(PellucidError):
    """The path (in gRPC, the message) names a network or a version that is not served."""

    status, slug, title = 404, "unknown-model", "No such model"


class NotAcceptable(PellucidError):
    """The reply is not available in any media type of the Accept header."""

    status, slug, title = 406, "not-acceptable", "The reply has no acceptable format"


class HeadTimeout(PellucidError):
    """The request line and headers did not arrive in time."""

    status, slug, title = 408, "head-timeout", "The request arrived too slowly"


class HeadTooLarge(PellucidError):
    """The request line and headers exceed the limit of bytes, or there are too many headers."""

    status, slug, title = 431, "head-too-large", "The headers are too large"


class ContentTooLarge(PellucidError):
    """The request exceeds the limit of bytes, pixels or images."""

    status, slug, title = 413, "content-too-large", "Too large"


class UnsupportedMediaType(PellucidError):
    """The type of the body, or of a picture in it, is not supported."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class UndecodableImage(PellucidError):
    """The bytes begin as a picture of a supported type but can't be decoded."""

    status, slug, title = 422, "undecodable-image", "The image can't be decoded"


class InvalidOption(PellucidError):
    """An option has an unknown name or an invalid value."""

    status, slug, title = 422, "invalid-option", "An option is not valid"


class TooCostly(InvalidOption):
    """At the speed that the service measures while it runs the request, it can't be done by the deadline.

    Request less, or set a longer ``timeout_ms``.
    """

    slug, title = "too-costly", "This takes longer than the deadline allows"


class Unexplainable(PellucidError):
    """The network predicts, but has no layer for the requested explanation.

    Choose another layer or method: ``detail`` says what the network lacks.
    """

    status, slug, title = 422, "unexplainable", "The network can't be explained in this way"


class UnknownName(InvalidOption):
    """The network has no class, layer, gate, channel or method of this name, or an option names no served network."""

    slug, title = "unknown-name", "Unknown name"

    @classmethod
    def among(cls, kind: str, name: str, allowed: Sequence[str], hint: str = "") -> UnknownName:
        """The error for an unknown ``name`` of this ``kind``, with suggestions from the ``allowed`` names.

        It suggests names that contain ``name`` as a word, then names with a similar spelling. ``hint`` is appended to
        the sentence about the allowed names.
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
    """The images or the bytes in flight have reached their limit."""

    status, slug, title = 429, "queue-full", "Too many requests in flight"

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


class RateLimited(PellucidError):
    """The client exceeds its rate limit."""

    status, slug, title = 429, "rate-limited", "Too many requests"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


class TooLate(QueueFull):
    """The work in flight would take longer than the deadline allows.

    Send the request again after ``Retry-After`` seconds, or set a longer ``timeout_ms``.
    """

    slug, title = "too-late", "The queue is too long to answer by the deadline"


class InferenceFailed(PellucidError):
    """The network could not be run on this image."""

    slug, title = "inference-failed", "The network failed on this image"


class Unavailable(PellucidError):
    """The request can't be served at the moment. The client may retry it after ``Retry-After`` seconds."""

    status = 503
    retry_after_s: ClassVar[int] = 1

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": str(self.retry_after_s)})


class Draining(Unavailable):
    """The service is starting up or shutting down."""

    slug, title = "not-ready", "The service accepts no requests at the moment"


class EngineDown(Unavailable):
    """The engine hangs or has ended. ``/livez`` fails as well, so that an orchestrator restarts the service."""

    slug, title = "engine-down", "The network does not answer"
    retry_after_s = 10


class OutOfMemory(Unavailable):
    """There is not enough memory for this image at the moment, even in a batch of its own."""

    slug, title = "out-of-memory", "The network ran out of memory"
    retry_after_s = 5


class DeadlineExceeded(PellucidError):
    """The result was not ready by the deadline.

    Request less, or set a longer ``timeout_ms``.
    """

    status, slug, title = 504, "deadline-exceeded", "The deadline passed"
