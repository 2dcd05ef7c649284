"""POST /v1/predict: the most probable classes."""

from __future__ import annotations

import math

import httpx
import pytest

from pellucid.schemas import Prediction
from tests.support import envelope, explained, photograph, post, present, problem


def _predictions(client: httpx.Client, image: bytes, **options: int) -> list[Prediction]:
    predictions = explained(client, "/v1/predict", image, **options).predictions
    assert predictions is not None
    return predictions


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cat", {"Egyptian cat", "tiger cat", "tabby"}),
        ("coffee", {"espresso", "cup", "coffee mug"}),
        ("rocket", {"missile", "projectile"}),
    ],
)
def test_a_photograph_is_recognised_among_the_five_best(client: httpx.Client, name: str, labels: set[str]) -> None:
    predictions = _predictions(client, photograph(name))
    assert len(predictions) == 5
    assert labels <= {prediction.label for prediction in predictions}
    assert predictions[0].label in labels


@pytest.mark.parametrize("top_k", [1, 3, 1000])
def test_top_k_classes_come_best_first(client: httpx.Client, cat: bytes, top_k: int) -> None:
    predictions = _predictions(client, cat, top_k=top_k)
    logits = [present(prediction.logit) for prediction in predictions]
    assert len({prediction.index for prediction in predictions}) == top_k
    assert logits == sorted(logits, reverse=True)


def test_more_classes_than_there_are_gives_them_all(client: httpx.Client, cat: bytes) -> None:
    assert len(_predictions(client, cat, top_k=10_000)) == 1000


def test_probabilities_are_the_softmax_of_the_logits(client: httpx.Client, cat: bytes) -> None:
    predictions = _predictions(client, cat, top_k=1000)
    powers = [math.exp(present(prediction.logit)) for prediction in predictions]
    assert [prediction.probability for prediction in predictions] == pytest.approx(
        [power / sum(powers) for power in powers], rel=1e-3, abs=1e-6
    )


def test_an_index_and_its_label_are_those_of_the_model(client: httpx.Client, rocket: bytes) -> None:
    labels = client.get("/v1/models/lite0").json()["labels"]
    assert all(labels[prediction.index] == prediction.label for prediction in _predictions(client, rocket, top_k=50))


def test_a_request_names_the_network_that_answers(client: httpx.Client, cat: bytes) -> None:
    gated, plain = (post(client, "/v1/predict", cat, model=name) for name in ("lite0", "lite0-plain"))
    assert (envelope(gated).model, envelope(plain).model) == ("lite0", "lite0-plain")
    assert gated.json()["results"] != plain.json()["results"]
    assert envelope(post(client, "/v1/predict", cat)).model == "lite0"


def test_a_network_that_is_not_served_is_refused_with_those_that_are(client: httpx.Client, cat: bytes) -> None:
    found = problem(post(client, "/v1/predict", cat, model="lite1"), 422, "unknown-name")
    assert found.allowed == ["lite0", "lite0-plain"]
