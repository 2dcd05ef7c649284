"""Whatever is sent, the service answers it by a reason, within its deadline, and goes on as before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz import hostile
from tests.fuzz.attack import Attack
from tests.fuzz.seeds import SEEDS
from tests.load.level import level
from tests.support import ROUTES, Server

# Above what was held before: caches fill, and allocators keep a little.
_MEMORY_BOUND_MIB = 150


@pytest.fixture
def attack(process: Server) -> Iterator[Attack]:
    """An attack that leaves the process as it was."""
    with Attack(process) as attack:
        for route in ROUTES * 2:  # all that is built once
            attack.picture(SEEDS["png"], route)
            attack.picture(SEEDS["png"], route, beside=True)
        before = level(process)
        yield attack
    assert process.process.poll() is None
    after = level(process)
    assert after.memory_mib < before.memory_mib + _MEMORY_BOUND_MIB, (before, after)


def test_pictures_taken_apart_are_refused_or_served(attack: Attack) -> None:
    attack.mutants(examples=150, number=0)
    served, refused = (sum(n for name, n in attack.answers.items() if name.endswith(end)) for end in ("200", "422"))
    assert served > 10  # neither are all broken past recognition,
    assert refused > 10  # nor are all still whole


def test_pictures_and_requests_made_to_do_harm_do_none(attack: Attack) -> None:
    attack.hostile()


def test_the_memory_of_large_pictures_is_given_back(attack: Attack, process: Server) -> None:
    before = level(process)
    for _ in range(3):
        attack.picture(hostile.png(4500, 4000), kind="large")
    assert attack.answers["large 200"] == 3
    assert level(process).memory_mib < before.memory_mib + 60  # one of them has 69 MiB


def test_answers_are_as_the_api_document_says(attack: Attack) -> None:
    attack.contract(examples=5, number=0)
