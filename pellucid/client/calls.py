"""What both clients send, and how they read the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from pellucid.client.errors import ApiError
from pellucid.client.images import ImageSource, read
from pellucid.schemas import (
    Attention,
    CompareReply,
    Comparison,
    Failure,
    FeatureMap,
    GradCam,
    Prediction,
    Reply,
    Result,
    WhatIf,
)

M = TypeVar("M", bound=BaseModel)
PictureRoute = Literal["attention", "feature-maps", "grad-cam"]
USER_AGENT: Final = "pellucid-client"
# Longer than the service is told, so that its own word for being late arrives.
_GRACE_S: Final = 1


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be sent several times."""

    method: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[tuple[str, bytes], ...] = ()
    accept: str = "application/json"

    def arguments(self, remaining_s: float) -> dict[str, Any]:
        """Those of httpx: the service is told how long the answer is waited for, unless the caller said so."""
        options = {name: value for name, value in self.options.items() if value is not None}
        if self.images:
            options.setdefault("timeout_ms", max(1, int(remaining_s * 1000)))
        return {
            "method": self.method,
            "url": self.path,
            "params": options,
            "files": [("images", image) for image in self.images] or None,
            "headers": {"Accept": self.accept},
            "timeout": remaining_s + _GRACE_S,
        }


def post(route: str, image: ImageSource, options: Mapping[str, Any], accept: str = "application/json") -> Call:
    """A POST of one image. Raises what ``images.read`` does."""
    return Call("POST", f"/v1/{route}", options, (read(image),), accept)


def compare(image: ImageSource, other: ImageSource | None, options: Mapping[str, Any]) -> Call:
    """A POST of one image or two that are compared. Raises what ``images.read`` does."""
    images = (image,) if other is None else (image, other)
    return Call("POST", "/v1/compare", options, tuple(map(read, images)))


def get_model(name: str) -> Call:
    """A GET of what a network has."""
    return Call("GET", f"/v1/models/{quote(name, safe=':')}")


def headers(api_key: str | None) -> dict[str, str]:
    """Headers of every request."""
    return {"User-Agent": USER_AGENT} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def checked(response: httpx.Response) -> httpx.Response:
    """The response, if it is an answer. Raises ApiError."""
    if not response.is_success:
        raise ApiError.of(response)
    return response


def parsed(response: httpx.Response, schema: type[M]) -> M:
    """The answer as its type. What a newer service adds is left out. Raises ApiError if it is something else."""
    try:
        return schema.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        raise ApiError.of(response) from error


def result(response: httpx.Response) -> Result:
    """What was found in the one image that was sent."""
    (found,) = parsed(response, Reply).results
    if isinstance(found, Failure):
        raise ApiError(found.error)
    return found


def predictions(response: httpx.Response) -> list[Prediction]:
    """The part that /v1/predict fills."""
    return result(response).predictions or []


def attention(response: httpx.Response) -> Attention:
    """The part that /v1/attention fills."""
    found = result(response).attention
    assert found is not None
    return found


def feature_maps(response: httpx.Response) -> list[FeatureMap]:
    """The part that /v1/feature-maps fills."""
    return result(response).feature_maps or []


def grad_cam(response: httpx.Response) -> list[GradCam]:
    """The part that /v1/grad-cam fills."""
    return result(response).grad_cam or []


def what_if(response: httpx.Response) -> WhatIf:
    """The part that /v1/what-if fills."""
    found = result(response).what_if
    assert found is not None
    return found


def comparison(response: httpx.Response) -> Comparison:
    """What /v1/compare found."""
    return parsed(response, CompareReply).compare
