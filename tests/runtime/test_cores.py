"""Counts the cores that the process may use, not those of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pellucid.runtime.cores import available

HOST = len(os.sched_getaffinity(0))


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert available(tmp_path) == HOST


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", HOST)])
def test_a_quota_of_cgroups_version_2_counts(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert available(tmp_path) == min(cores, HOST)


@pytest.mark.parametrize(("quota", "cores"), [("100000", 1), ("-1", HOST)])
def test_a_quota_of_cgroups_version_1_counts(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert available(tmp_path) == min(cores, HOST)
