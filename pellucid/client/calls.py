"""The requests of both clients, and how they parse the replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from pellucid.client.errors import ApiError
from pellucid.client.images import OPTIONS, ImageSource, bright, read
from pellucid.schemas import Failure, Reply, Result

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
PictureRoute = Literal["attention", "feature-maps", "grad-cam"]
USER_AGENT: Final = "pellucid-client"
# The client waits this much longer than `timeout_ms`, so that the service's own error for a timeout arrives.
_GRACE_S: Final = 1


def address(url: str) -> str:
    """The URL of a service. Raises ValueError without a scheme."""
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"the url must begin with http:// or https://, such as http://127.0.0.1:8000, not {url!r}")
    return url


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be sent several times."""

    method: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[tuple[str, bytes], ...] = ()
    accept: str = "application/json"

    def arguments(self, remaining_s: float) -> dict[str, Any]:
        """Arguments for ``httpx.request``. ``timeout_ms`` is the remaining time, unless the caller chose another."""
        options = {name: value for name, value in self.options.items() if value is not None and name not in OPTIONS}
        if self.images:
            options.setdefault("timeout_ms", max(1, int(remaining_s * 1000)))
        return {
            "method": self.method,
            "url": self.path,
            "params": options,
            "files": [("images", image) for image in self.images] + self._file_options or None,
            "headers": {"Accept": self.accept},
            "timeout": remaining_s + _GRACE_S,
        }

    @property
    def files(self) -> list[bytes]:
        """The files of the images."""
        return [data for _, data in self.images]

    @property
    def _file_options(self) -> list[tuple[str, tuple[str, bytes]]]:
        given = {name: self.options.get(name) for name in OPTIONS}
        return [(name, read(bright(name, value))) for name, value in given.items() if value is not None]


def post(
    route: str, images: Iterable[ImageSource], options: Mapping[str, Any], accept: str = "application/json"
) -> Call:
    """A POST of images. Raises what ``images.read`` does."""
    return Call("POST", f"/v1/{route}", options, tuple(map(read, images)), accept)


def pair(image: ImageSource, other: ImageSource | None) -> tuple[ImageSource, ...]:
    """One image, or two to compare."""
    return (image,) if other is None else (image, other)


def require_one(route: str, other: ImageSource | None) -> None:
    """Raise ValueError if there is a second image, for another route than ``compare``."""
    if other is not None and route != "compare":
        raise ValueError(f"Two images are for route='compare', not {route!r}.")


def require_open(http: httpx.Client | httpx.AsyncClient) -> None:
    """Raise ValueError if a client is closed."""
    if http.is_closed:
        raise ValueError("the client is closed: draw figures before its `with` ends")


def get_model(name: str) -> Call:
    """A GET of a network's layers, gates, labels and methods."""
    return Call("GET", f"/v1/models/{quote(name, safe=':')}")


def headers(api_key: str | None) -> dict[str, str]:
    """The headers of every request."""
    return {"User-Agent": USER_AGENT} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def checked(response: httpx.Response) -> httpx.Response:
    """The response, if its status is a success. Raises ApiError."""
    if not response.is_success:
        raise ApiError.of(response)
    return response


def parsed(response: httpx.Response, schema: type[M]) -> M:
    """The reply as ``schema``. Fields that a newer service adds are ignored. Raises ApiError if it does not match."""
    try:
        return schema.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        raise ApiError.of(response) from error


def result(response: httpx.Response) -> Result:
    """The result of the one image that was sent. Raises ApiError."""
    (found,) = parsed(response, Reply).results
    if isinstance(found, Failure):
        raise ApiError(found.error)
    return found


def present(part: T | None) -> T:
    """A part that every reply of its route has."""
    assert part is not None
    return part
