"""`pellucid models`, `layers`, `bench` and `--version`: for people and for scripts."""

from __future__ import annotations

import json
import os
from importlib.metadata import version

import httpx
import pytest
import typer

from pellucid.schemas import ModelDetail
from service.commands import start
from service.config import Settings
from tests.commands.invoke import pellucid


def test_the_version_is_said() -> None:
    result = pellucid("--version")
    assert (result.exit_code, result.stdout) == (0, f"pellucid {version('pellucid')}\n")


def test_the_served_networks_are_listed(server: str, client: httpx.Client) -> None:
    served = client.get("/v1/models").json()["models"]
    assert json.loads(pellucid("models", "--json", url=server).stdout) == served
    table = pellucid("models", url=server).stdout
    assert "lite0 (default)" in table
    assert all(model["title"] in table for model in served)


@pytest.mark.parametrize("name", ["lite0", "lite0-plain"])
def test_layers_and_gates_are_listed(server: str, client: httpx.Client, name: str) -> None:
    detail = ModelDetail.model_validate_json(client.get(f"/v1/models/{name}").content)
    result = pellucid("layers", name, url=server)
    assert result.exit_code == 0
    rows = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert {layer.name for layer in detail.layers} | {gate.layer for gate in detail.gates} <= rows
    told = json.loads(pellucid("layers", name, "--json", url=server).stdout)
    assert [layer["name"] for layer in told["layers"]] == [layer.name for layer in detail.layers]
    assert told["default_layer"]["name"] == "head"


def test_without_a_name_the_default_network_is_meant(server: str) -> None:
    assert json.loads(pellucid("layers", "--json", url=server).stdout)["name"] == "lite0"


def test_an_unknown_network_names_those_there_are(server: str) -> None:
    result = pellucid("layers", "resnet50", url=server)
    assert result.exit_code == 2
    assert "Allowed: lite0, lite0-plain" in result.stderr


def test_the_probe_counts_answers_and_their_times(server: str) -> None:
    chosen = ("--route", "predict", "--route", "grad-cam", "--seconds", "0.2", "--concurrency", "2", "--timeout", "200")
    rows = json.loads(pellucid("bench", *chosen, "--json", url=server).stdout)
    assert [row["route"] for row in rows] == ["/v1/predict", "/v1/grad-cam"]
    for row in rows:
        assert row["answers"] >= 2  # of each caller one
        assert row["per_second"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["refused"] == {}
    assert "/v1/predict" in pellucid("bench", *chosen[:2], *chosen[4:], url=server).stdout


def test_the_probe_takes_no_other_routes(server: str) -> None:
    result = pellucid("bench", "--route", "predcit", url=server)
    assert result.exit_code == 2
    assert "not one of predict, attention, feature-maps" in result.stderr


@pytest.mark.parametrize(
    ("setting", "wrong", "named"),
    [
        ("CORS_ORIGINS", "https://shop.example,app.example", "'app.example' is not an origin. Use a scheme"),
        ("CORS_ORIGINS", "https://app.example/", "without a path or a slash at the end"),
        ("CORS_ORIGINS", "https://*.example", "or * for all"),
        ("RATE_LIMIT", "abc", "'abc' is no rate: a number of at least 1, a slash, and second, minute, hour or day"),
        ("RATE_LIMIT", "0/minute", "as 60/minute"),
        ("RATE_LIMIT", "60/minute;5/second", "as 60/minute"),
        ("API_KEYS_FILE", "/no/such/keys", "/no/such/keys can't be read: No such file or directory"),
        ("API_KEYS_FILE", os.devnull, "/dev/null has no key, so everybody would have access"),
        ("API_KEYS", "tooshort", "API key 1 is neither sha256: and 64 hexadecimal digits nor a key of at least 20"),
    ],
)
def test_who_may_call_is_checked_before_anything_is_loaded(
    setting: str, wrong: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"PELLUCID_{setting}", wrong)
    with pytest.raises(typer.Exit) as ended:
        start.settings()
    said = capsys.readouterr().err
    assert ended.value.exit_code == 2
    assert said.startswith(f"PELLUCID_{setting}: ")
    assert named in said
    assert "tooshort" not in said


def test_an_origin_is_written_as_browsers_send_it() -> None:
    chosen = Settings.model_validate({"cors_origins": "https://App.example:8443, http://[::1]:3000,*"})
    assert chosen.cors_origins == ("https://app.example:8443", "http://[::1]:3000", "*")


def test_a_variable_of_the_client_is_no_setting_that_is_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(start.URL_VARIABLE, "http://127.0.0.1:8000")
    monkeypatch.setenv(start.KEY_VARIABLE, "key")
    assert start.settings() == Settings()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("PELLUCID_MODLE", "lite0")
    start.settings()
    assert "PELLUCID_MODLE is not a setting, and is ignored. Is PELLUCID_MODEL meant?" in capsys.readouterr().err


def test_a_setting_that_was_removed_is_ignored_in_one_line_that_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PELLUCID_CACHE_MIB", "64")
    assert start.settings() == Settings()
    said = capsys.readouterr().err
    assert said == "PELLUCID_CACHE_MIB is not a setting, and is ignored. Replies are no longer kept.\n"
