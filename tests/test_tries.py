"""What people have ends in an answer or in one sentence, and docs/reference/what-can-be-served.md says which."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tries import PAGE, TRIES, Try, folder, row, run

ALL = [tried for tries in TRIES.values() for tried in tries]
LINES = PAGE.read_text("utf-8").splitlines()


@pytest.fixture(scope="module", autouse=True)
def scratch() -> Iterator[None]:
    with folder():
        yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tried", ALL, ids=lambda tried: tried.what)
def test_a_try_ends_in_what_its_row_says(tried: Try) -> None:
    served, answer = run(tried)
    assert served == tried.served, answer
    assert row(tried, served, answer) in LINES


def test_the_page_has_a_row_for_each_try_and_no_other() -> None:
    expected = []
    for section, tries in TRIES.items():
        starts = (row(tried, True, "").removesuffix(" |") for tried in tries)
        expected += [f"## {section}", "| what you have ", *starts]
    written = [line for line in LINES if line.startswith(("## ", "| "))]
    assert len(written) == len(expected)
    for line, start in zip(written, expected, strict=True):
        assert line.startswith(start)
