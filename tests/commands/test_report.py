"""`pellucid report`: one page that needs nothing else, a table, and answers that are kept."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pellucid.client import AsyncClient
from pellucid.report.answers import Answers
from pellucid.schemas import Result
from tests.commands.invoke import pellucid
from tests.support import LIGHT, SAMPLES

IMAGE = {"filename": "cat.jpg", "format": "JPEG", "width": 1, "height": 1, "sha256": "0" * 64}
HOSTILE = '"><img src=x onerror=alert(1)>$folder.jpg'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The sample photographs, one under a hostile name, and a file that is called a photograph."""
    made = tmp_path / "<b>&'photographs"
    (made / "espresso").mkdir(parents=True)
    (made / HOSTILE).write_bytes((SAMPLES / "cat.jpg").read_bytes())
    (made / "espresso" / "=1+1.jpg").write_bytes((SAMPLES / "coffee.jpg").read_bytes())
    (made / "rocket.jpg").write_bytes((SAMPLES / "rocket.jpg").read_bytes())
    (made / "broken.png").write_text("no picture")
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of /v1/explain about pictures of the folder, without that for the provenance."""
    calls: list[Any] = []
    explain = AsyncClient.explain

    async def counted(self: AsyncClient, image: Any, **options: Any) -> Any:
        calls.append(options)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return await explain(self, image, **options)

    monkeypatch.setattr(AsyncClient, "explain", counted)
    return calls


def test_an_interrupted_report_goes_on_and_is_one_page_that_needs_nothing_else(
    folder: Path, tmp_path: Path, asked: list[Any]
) -> None:
    page = tmp_path / "new" / "report.html"
    command = ("report", folder, "--out", page, "--model", LIGHT["PELLUCID_MODEL"], "--concurrency", "1")
    interrupted = pellucid(*command)
    assert interrupted.exit_code == 130, interrupted.stderr
    assert not page.exists()
    asked.append("interrupted")

    done = pellucid(*command)
    assert done.exit_code == 1, done.stderr
    assert "3 explained" in done.stderr
    assert "1 failed" in done.stderr
    repeated = len(asked)
    text = page.read_text("utf-8")
    assert set(re.findall(r'(?:src|href|action)="([^"#:]*)', text)) == {"data", ""}
    assert not re.search(r"url\(|@import|<link|<iframe|https?://", text)
    assert "<img src=x" not in text
    assert "<b>&'" not in text
    assert "&lt;b&gt;&amp;&#x27;photographs" in text
    assert "broken.png" in text
    assert "Unsupported media type" in text
    rows = {row["picture"]: row for row in csv.DictReader(io.StringIO(page.with_suffix(".csv").read_text("utf-8")))}
    assert set(rows) == {HOSTILE, "espresso/=1+1.jpg", "rocket.jpg", "broken.png"}
    assert rows["espresso/=1+1.jpg"]["folder_label"] == "espresso"
    assert 0 < float(rows["espresso/=1+1.jpg"]["outside_middle"]) < 0.6
    assert "Unsupported media type" in rows["broken.png"]["error"]

    assert pellucid(*command).exit_code == 1
    assert len(asked) == repeated + 1  # the broken picture
    assert page.read_text("utf-8") == text
    assert pellucid(*command, "--target", "espresso").exit_code == 1  # another question
    assert len(asked) == repeated + 5


def test_an_answer_that_is_damaged_is_asked_again(tmp_path: Path) -> None:
    with closing(Answers(tmp_path / "report.cache")) as kept:
        kept.put("key", Result.model_validate({"image": IMAGE}), b"")
        assert kept.get("key")
        for damaged in (b"no zlib", None):
            with closing(sqlite3.connect(tmp_path / "report.cache", isolation_level=None)) as other:
                other.execute("UPDATE answers SET result = ?", (damaged,))
            assert kept.get("key") is None


def test_files_of_the_user_are_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    for suffix, said in ((".csv", "is no table of a report"), (".cache", "holds no answers")):
        file = tmp_path / f"out{suffix}"
        file.write_text("name,score\n" * 20)
        refused = pellucid("report", folder, "--out", tmp_path / "out.html", url="http://127.0.0.1:1")
        assert (refused.exit_code, said in " ".join(refused.stderr.split())) == (2, True), refused.stderr
        assert file.read_text() == "name,score\n" * 20
        file.unlink()
    (tmp_path / "out.cache").mkdir()  # stands for a full disk, and for a file that is locked
    refused = pellucid("report", folder, "--out", tmp_path / "out.html", url="http://127.0.0.1:1")
    assert "can't be written" in " ".join(refused.stderr.split())
    assert "remove" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "report.pdf"), "The suffix must be .html"),
        (("--out", "report.html", "--layer", "haed"), "Did you mean 'head'"),
        (("--out", "<b>&'photographs/rocket.jpg/report.html"), "can't be written"),
    ],
)
def test_wrong_options_end_it_at_once(
    server: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = pellucid("report", folder, *arguments, url=server)
    assert (refused.exit_code, said in " ".join(refused.stderr.split())) == (2, True), refused.stderr
