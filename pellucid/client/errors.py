"""Errors of the service as an exception."""

from __future__ import annotations

from typing import Self

import httpx
from pydantic import ValidationError

from pellucid.schemas import Problem


class ApiError(Exception):
    """A reply that is an error. ``problem`` is the service's, or made from the status if a proxy answered.

    ``retry_after_s``: the header Retry-After, in seconds; None if there is none.
    """

    def __init__(self, problem: Problem, retry_after_s: float | None = None) -> None:
        super().__init__(f"{problem.title}. {problem.detail} (status {problem.status}, request {problem.request_id})")
        self.problem = problem
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def kind(self) -> str:
        """The kind of error, for example ``unknown-name``. Empty if the reply is not the service's."""
        kind, found, slug = self.problem.type.rpartition("urn:pellucid:problem:")
        return slug if found and not kind else ""

    @property
    def title(self) -> str:
        """The kind of error, as a phrase."""
        return self.problem.title

    @property
    def detail(self) -> str:
        """What is wrong with this request, and what is allowed."""
        return self.problem.detail

    @property
    def request_id(self) -> str:
        """The request's id, as in the service's log."""
        return self.problem.request_id

    @property
    def allowed(self) -> list[str] | None:
        """All allowed values, for errors about a name; None for others."""
        return self.problem.allowed

    @classmethod
    def of(cls, response: httpx.Response) -> Self:
        """The error in a response of the service, or of a proxy, whose page has no more than its status.

        A success whose body is not a reply is an error as well.
        """
        try:
            problem = Problem.model_validate_json(response.content, extra="ignore")
        except ValidationError:
            problem = Problem(
                type="about:blank",
                title="Not an answer of this service" if response.is_success else response.reason_phrase,
                status=response.status_code,
                detail=f"{response.url.host} answered with {response.headers.get('content-type', 'no content type')}.",
                request_id=response.headers.get("x-request-id", "unknown"),
            )
        waits = response.headers.get("retry-after", "")
        return cls(problem, float(waits) if waits.isdigit() else None)
