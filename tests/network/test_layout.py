"""Every layout is converted to a map and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.network.layout import Axes, Layout

SIDES = {"B": 3, "C": 4, "H": 2, "W": 5, "P": 6}


def value(layout: Layout, images: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    sides = {**SIDES, "B": images, "H": layout.height, "W": layout.width}
    sides["N"] = layout.extra + layout.height * layout.width
    return np.random.default_rng(0).standard_normal([sides[axis] for axis in layout.axes])


LAYOUTS = [Layout("BCHW", 2, 5), Layout("BHWC", 2, 5), Layout("BPCHW", 2, 5), Layout("BNC", 2, 5), Layout("BCN", 2, 5)]


@given(
    st.sampled_from(["BCHW", "BHWC", "BPCHW", "BNC", "BCN"]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)
)
def test_a_value_survives_the_conversion_to_a_map_and_back(axes: Axes, height: int, width: int, images: int) -> None:
    layout = Layout(axes, height, width)
    whole = value(layout, images)
    maps = layout.to_map(whole)
    assert maps.shape == (images, layout.channels(whole.shape), height, width)
    assert np.shares_memory(maps, whole)
    np.testing.assert_array_equal(layout.from_map(maps, whole[:1]), whole)


@pytest.mark.parametrize("extra", [1, 5])
def test_extra_tokens_are_left_out_of_the_map_and_restored(extra: int) -> None:
    layout = Layout("BNC", 2, 5, extra)
    whole = value(layout)
    maps = layout.to_map(whole)
    assert maps.shape == (3, 4, 2, 5)
    back = layout.from_map(maps, whole[1:2])  # with the second image's extra tokens
    np.testing.assert_array_equal(back[:, extra:], whole[:, extra:])
    np.testing.assert_array_equal(back[:, :extra], np.repeat(whole[1:2, :extra], 3, 0))
    np.testing.assert_array_equal(layout.from_map(maps[1:2], whole[1:2]), whole[1:2])


def test_a_position_keeps_its_place() -> None:
    for layout in LAYOUTS:
        whole = value(layout)
        at = {"B": 1, "C": 2, "H": 1, "W": 3, "P": 4, "N": 1 * 5 + 3}
        channel = at["P"] * SIDES["C"] + at["C"] if "P" in layout.axes else at["C"]
        assert layout.to_map(whole)[1, channel, 1, 3] == whole[tuple(at[axis] for axis in layout.axes)]
