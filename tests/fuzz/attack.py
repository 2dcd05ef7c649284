"""Sends what the fuzzers make to a live server, and says what must hold of each answer and of the process."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from tests.fuzz import hostile
from tests.fuzz.mutations import Mutant, mutants
from tests.fuzz.seeds import SEEDS
from tests.support import ROUTES, Server

DEADLINE_MS: Final = 10_000
# Every answer by then: the deadline, and what a busy machine needs to write and read it.
_PATIENCE_S: Final = DEADLINE_MS / 1000 + 20
# Full, too slow: honest answers, which nothing sent here should lead to one at a time.
_HONEST: Final = (503, 504)
_CHECKS: Final[list[Any]] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@dataclass
class Attack:
    """One caller with bad intentions. ``answers`` counts what it got, by kind and status."""

    server: Server
    answers: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Attack:
        self._client = httpx.Client(base_url=self.server.url, timeout=_PATIENCE_S)
        self._session = requests.Session()  # schemathesis speaks through it
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._session.close()

    def post(self, kind: str, route: str, **request: Any) -> httpx.Response:
        """The answer, which is no failure of the server's."""
        response = self._client.post(route, **request)
        self.note(kind, response.status_code)
        return response

    def note(self, kind: str, status: int) -> None:
        """Count an answer, which is no failure of the server's."""
        self.answers[f"{kind} {status}"] += 1
        assert status < 500 or status in _HONEST, f"{kind}: {status}"

    def picture(self, data: bytes, route: str = "/v1/predict", *, kind: str = "picture", beside: bool = False) -> None:
        """Send a file, alone or beside a good one, which must get its answer then."""
        query = {"timeout_ms": DEADLINE_MS}
        if not beside or not data:
            self.post(kind, route, content=data, params=query, headers={"Content-Type": "application/octet-stream"})
            return
        both = [("images", ("bad", data)), ("images", ("good", SEEDS["png"]))]
        response = self.post(f"{kind} beside a good one", route, files=both, params=query)
        assert response.status_code == 200, response.text
        bad, good = response.json()["results"]
        assert "error" not in good, good
        status = bad.get("error", {"status": 200})["status"]
        assert status < 500, bad
        self.note(kind, status)  # as many go beside a good one as hypothesis draws

    def mutants(self, examples: int, number: int) -> None:
        """Send pictures taken apart."""

        @_drawn(examples, number)
        @given(mutants, st.sampled_from(("/v1/predict",) * 5 + ROUTES), st.booleans())
        def send(mutant: Mutant, route: str, beside: bool) -> None:
            self.picture(mutant.data(), route, kind="mutant", beside=beside)

        send()

    def contract(self, examples: int, number: int) -> None:
        """Send what the API document allows and what it doesn't, and hold the answers against it."""
        schema = schemathesis.openapi.from_url(f"{self.server.url}/openapi.json", wait_for_schema=10)
        schema.config.generation.update(modes=list(schemathesis.GenerationMode))
        for operation in (found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)):

            @_drawn(examples, number)
            @given(operation.as_strategy())
            def send(case: schemathesis.Case[Any]) -> None:
                response = case.call(session=self._session, timeout=_PATIENCE_S)
                self.note("contract", response.status_code)
                case.validate_response(response, checks=_CHECKS)

            send()

    def hostile(self) -> None:
        """Send what was made to do harm."""
        for name, data in hostile.pictures().items():
            self.picture(data, "/v1/explain", kind=name)
        for name, request in hostile.requests():
            self.post(name, "/v1/predict", **request)
        for data in hostile.RAW:
            self._raw(data)

    def large(self) -> None:
        """Send the largest pictures that are taken."""
        for name, data in hostile.large_pictures().items():
            self.picture(data, kind=name)

    def _raw(self, data: bytes) -> None:
        """Send bytes; the server answers or hangs up."""
        with socket.create_connection((self.server.host, self.server.port), timeout=_PATIENCE_S) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                with connection.makefile("rb") as answers:
                    answer = answers.readline()
            except ConnectionError:
                answer = b""
            self.note("raw", int(answer.split()[1]) if answer else 0)


def _drawn(examples: int, number: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """So many examples of a hypothesis test, the same ones for the same number."""
    rules = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(number)(rules(test))
