"""Out of memory: how it is detected, and how it limits later batches."""

from __future__ import annotations

import pytest

from service.dispatch.batcher import BatchCap
from service.dispatch.worker import is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("Exception from src/inference: std::bad_alloc"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("poisoned"), False),
    ],
)
def test_out_of_memory_is_distinguished_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_batch_limit_recovers_step_by_step_after_memory_ran_out() -> None:
    clock = [0.0]
    cap = BatchCap(8, rest_s=60, clock=lambda: clock[0])
    cap.lower(8)
    cap.lower(4)
    assert cap.current() == 2
    for seconds, most in ((59, 2), (60, 4), (61, 4), (120, 8), (180, 8)):
        clock[0] = seconds
        assert cap.current() == most
