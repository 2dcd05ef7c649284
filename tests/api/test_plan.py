"""Class names are found as given before anything is made of them."""

from __future__ import annotations

import pytest

from models.spec import ModelSpec, PreprocessSpec
from service.api.plan import class_index
from service.errors import UnknownName

LABELS = ("golden_retriever", "tiger cat", "Cardigan", "cardigan")
SPEC = ModelSpec("own", "Own", LABELS, PreprocessSpec((8, 8), 8, "bilinear", (0, 0, 0), (1, 1, 1)), "this test")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("golden_retriever", 0),
        ("tiger cat", 1),
        ("tiger_cat", 1),
        ("TIGER CAT", 1),
        ("Cardigan", 2),
        ("cardigan", 3),
        ("2", 2),
    ],
)
def test_a_class_is_found_by_its_label_or_index(name: str, index: int) -> None:
    assert class_index(name, SPEC) == index


@pytest.mark.parametrize("name", ["CARDIGAN", "retriever", "4", "-1"])
def test_what_names_no_one_class_is_refused(name: str) -> None:
    with pytest.raises(UnknownName):
        class_index(name, SPEC)
