"""`pellucid report`: one page that needs nothing else, a table, and answers that are kept."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from pellucid.client import AsyncClient
from tests.commands.invoke import pellucid
from tests.support import LIGHT, SAMPLES

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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "report.pdf"), "The suffix is .html"),
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
