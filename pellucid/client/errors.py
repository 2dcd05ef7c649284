"""What the service says instead of an answer."""

from __future__ import annotations

from typing import Self

import httpx
from pydantic import ValidationError

from pellucid.schemas import Problem


class ApiError(Exception):
    """An answer that is an error. ``problem`` is the service's own, or made up for what stands before it.

    ``retry_after_s``: seconds to wait before the same may be asked again, where the answer says so.
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
        """The kind of error in short, ``unknown-name`` for instance; empty for what isn't the service's."""
        kind, found, slug = self.problem.type.rpartition("urn:pellucid:problem:")
        return slug if found and not kind else ""

    @property
    def title(self) -> str:
        """The kind of error, in words."""
        return self.problem.title

    @property
    def detail(self) -> str:
        """What was wrong with this request, and what is allowed."""
        return self.problem.detail

    @property
    def request_id(self) -> str:
        """The request's id, by which the service's log knows it."""
        return self.problem.request_id

    @property
    def allowed(self) -> list[str] | None:
        """All that is allowed in place of what was sent, where a list of it helps."""
        return self.problem.allowed

    @classmethod
    def of(cls, response: httpx.Response) -> Self:
        """The error that a response holds, whoever sent it: a proxy's page has no more than its status.

        A response that should be an answer and is none is an error too.
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
