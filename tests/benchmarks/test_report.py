"""The tables say what the raw figures say, misses included."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from benchmarks import commits, plot, report, targets, timings
from benchmarks.servers import SPECS


def cell(server: str, rate: float, callers: int = 16, **other: Any) -> dict[str, Any]:
    usual = {"p50_ms": 10.0, "p99_ms": 20.0, "core_ms": 4.0, "answers": 100, "refused": 0, "errors": 0, "unanswered": 0}
    return {"route": "predict", "callers": callers, "server": server, "rate": rate, **usual, **other}


def service(*cells: dict[str, Any]) -> dict[str, Any]:
    ceiling = [{"rate": rate, "plain": rate / 2, "decode": 0.001, "infer": 0.002} for rate in (190.0, 200.0, 500.0)]
    classes = {"pellucid": [1, 2, 3], "fastapi": [1, 2, 4]}
    return {"engine": "an engine", "top_classes": classes, "ceiling": ceiling, "cells": list(cells), "generator": []}


def rows(markdown: str) -> list[list[str]]:
    """The cells of a table's rows, its header and rule left out."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[text.strip() for text in line.strip("|").split("|")] for line in lines[2:]]


def test_ratios_are_of_medians_over_rounds() -> None:
    figures = service(*(cell("pellucid", rate) for rate in (90.0, 100.0, 170.0)), cell("fastapi", 20.0))
    ours, theirs = rows(report.comparison(figures))
    assert ours[3:7] == ["100.0", "0.50", "1.00", "-"]
    assert theirs[3:7] == ["20.0", "0.10", "0.20", "5.0"]


def test_the_readme_says_rates_and_their_ratio() -> None:
    cells = [cell(server, rate) for server, rate in (("pellucid", 100.0), ("litserve", 40.0))]
    maps = [each | {"route": "grad-cam", "rate": each["rate"] / 2} for each in cells]
    said = report.in_words(service(*cells, *maps))
    assert "| 20, 2.5 times fewer | 40, 2.5 times fewer |" in said


@pytest.mark.parametrize(("rate", "said"), [(0.0, "none"), (97.0, "97, as many"), (200.0, "200, 2.0 times more")])
def test_the_readme_says_when_a_rival_is_as_fast_or_faster(rate: float, said: str) -> None:
    assert f"| none | {said} |" in report.in_words(service(cell("pellucid", 100.0), cell("mosec", rate)))


def test_how_often_a_rival_sees_the_same_is_said() -> None:
    said = report.comparison(service(cell("pellucid", 100.0)))
    assert "of 3 photographs: FastAPI, torch, pytorch-grad-cam in 2." in said


def test_refusals_errors_and_callers_without_an_answer_are_shown() -> None:
    figures = service(cell("pellucid", 100, refused=3, errors=1), cell("pellucid", 100, refused=4, unanswered=9))
    ((*_, p50, p99, _, refused, errors),) = rows(report.comparison(figures))
    assert (p50, p99, refused, errors) == ("10*", "20*", "7", "1")


def test_a_server_that_answers_nobody_has_no_latency() -> None:
    nothing = cell("litserve", 0.0, answers=0, p50_ms=float("nan"), p99_ms=float("nan"), unanswered=16)
    ours, theirs = rows(report.comparison(service(cell("pellucid", 100.0), nothing)))
    assert ours[6] == "-"
    assert theirs[3:10] == ["0.0", "0.00", "0.00", "-", "-", "-", "-"]


@pytest.mark.parametrize(("rate", "said"), [(181.0, "met"), (179.0, "**missed**")])
def test_a_missed_target_is_called_missed(rate: float, said: str) -> None:
    figures = service(cell("pellucid", rate), cell("mosec", 90.0))
    verdicts = {(row[0], row[1]): row[3] for row in rows(targets.targets({"service": figures}))}
    assert verdicts["predict, 16 callers", "≥ 0.9 of the ceiling"] == said
    assert verdicts["predict, 16 callers", "≥ 2.0 × mosec, OpenVINO"] == said
    assert verdicts["processor time of a prediction, 16 callers", "≤ 5.0 core-ms"] == "met"


def test_the_history_keeps_medians_by_cell() -> None:
    kept = report.summary(service(*(cell("pellucid", rate, p99_ms=float("nan")) for rate in (90.0, 100.0, 170.0))))
    assert kept["predict 16 pellucid"]["rate"] == 100.0
    assert "p99_ms" not in kept["predict 16 pellucid"]
    assert kept["ceiling"]["rate"] == 200.0


def test_commits_differ_only_beyond_the_noise_of_rounds() -> None:
    """Two equal commits are told apart in at most one run of twenty; one that is a tenth slower is."""
    random = np.random.default_rng(0)

    def run(ratio: float, noise: float) -> list[bool]:
        keys = [(route, callers) for route in ("predict", "grad-cam", "explain") for callers in (1, 16)]
        cells = [
            {"route": route, "callers": callers, "req/s": pair, "core-ms": pair}
            for route, callers in keys
            for pair in np.exp(random.normal((0.0, np.log(ratio)), noise, (8, 2))).tolist()
        ]
        return [not low <= 1 <= high for *_, low, high in commits.differences(cells)]

    assert sum(any(run(1.0, 0.02)) for _ in range(100)) <= 12  # of 5 expected
    assert all(run(0.9, 0.02))


def test_the_commit_that_is_loaded_first_is_started_first(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Mock()
    monkeypatch.setattr(commits, "Server", started)
    monkeypatch.setattr(commits, "ROUTES", ())
    both = [SPECS["pellucid"], SPECS["fastapi"]]
    for first in (0, 1):
        assert [*commits._round(both, [], 0.0, first)] == []
    assert [each.args[0] for each in started.call_args_list] == [*both, *both[::-1]]


def test_a_crowd_may_be_refused_but_not_failed() -> None:
    best = cell("pellucid", 170.0, callers=64)
    for crowd, said in (
        (cell("pellucid", 160.0, 512, refused=50), "met"),
        (cell("pellucid", 160.0, 512, errors=1), "**missed**"),
    ):
        verdicts = {row[0]: row[3] for row in rows(targets.targets({"service": service(best, crowd)}))}
        assert verdicts["predict, 512 callers"] == said


def test_only_what_lies_between_the_marks_is_written_anew() -> None:
    page = "before\n<!-- cost: written by `make bench` -->\nold\n<!-- end -->\nafter\n<!-- end -->"
    filled = report.fill(page, "cost", "new")
    assert filled == "before\n<!-- cost: written by `make bench` -->\n\nnew\n\n<!-- end -->\nafter\n<!-- end -->"
    assert report.fill(filled, "cost", "new") == filled
    with pytest.raises(ValueError, match="no marks for start"):
        report.fill(page, "start", "new")


def test_every_server_has_a_title_and_a_colour() -> None:
    assert set(SPECS) == set(report.TITLES) == set(plot.COLOURS)


def test_the_engines_time_is_its_two_stages() -> None:
    timing = 'decode;dur=1.00, queue;dur=9.00, infer;desc="batch of 1";dur=4.25, explain;dur=2.25, render;dur=3.00'
    assert timings.engine_seconds(timing) == pytest.approx(0.0065)
    assert timings.engine_seconds('decode;dur=1.00, infer;desc="batch of 1";dur=4.00') == pytest.approx(0.004)


@pytest.mark.parametrize(("multiple", "said"), [(1.0, "met"), (20.0, "**missed**")])
def test_what_explains_is_beside_what_predicts(multiple: float, said: str) -> None:
    """A request's times are medians; methods that share a gradient are beside one of them."""
    asked = timings.requests(["grad-cam", "layercam"])
    taken = {name: 0.004 * (multiple if "blocks.9" in name else 1) for name in asked}
    served = [{"request": name, "engine": [0.0, s, 9.0], "whole": [2 * s]} for name, s in taken.items()]
    plans = [{"plan": name, "batch": 1, "seconds": [0.004]} for name in ("predict", "grad-cam, 5 classes, head")]
    figures = {"engine": "an engine", "cells": plans, "served": served}
    verdicts = {row[0].partition(": ")[2]: row[2:] for row in rows(targets.targets({"cost": figures}))}
    assert verdicts["grad-cam, 1 class, blocks.9"] == [f"{multiple:.2f}", said]
    assert verdicts["all methods of one gradient, blocks.4"] == ["1.00", "met"]
    shown = [row for row in rows(report.cost(figures)) if row[0] == "grad-cam, 1 class, blocks.9"]
    assert shown == [["grad-cam, 1 class, blocks.9", f"{4 * multiple:.2f}", f"{multiple:.2f}", f"{8 * multiple:.2f}"]]


@pytest.mark.parametrize(("ready_s", "mib", "said"), [(1.9, 400.0, "met"), (2.1, 600.0, "**missed**")])
def test_a_start_and_its_memory_are_of_the_warm_cache(ready_s: float, mib: float, said: str) -> None:
    warm = {"cache": "warm", "ready_s": ready_s, "ready_mib": mib, "load_mib": mib + 10}
    cold = {"cache": "cold", "ready_s": 99.0, "ready_mib": 9e9, "load_mib": 9e9}
    found = rows(targets.targets({"start": {"starts": [cold, warm]}}))
    assert [row[3] for row in found] == [said] * 3
