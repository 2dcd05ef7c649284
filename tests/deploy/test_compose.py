"""The Dockerfile and docker-compose.yml are well-formed, agree with one another, and give the service no rights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from service.config import Settings
from tests.support import REPOSITORY

WRITTEN: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text("utf-8")
SERVICES: dict[str, Any] = WRITTEN["services"]
OURS = ("pellucid", "pellucid-gpu")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, REPOSITORY / "Dockerfile"], text=True, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_is_one() -> None:
    assert PyCompose.from_json(json.dumps(WRITTEN)).service_names() == list(SERVICES)


def test_a_wrong_compose_file_would_be_told() -> None:
    wrong = {**SERVICES, "prometheus": {**SERVICES["prometheus"], "readonly": True}}
    with pytest.raises(ValueError, match="readonly"):
        PyCompose.from_json(json.dumps({**WRITTEN, "services": wrong}))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_bounded_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert "healthcheck" in service or (name in OURS and "HEALTHCHECK" in DOCKERFILE)


@pytest.mark.parametrize("name", OURS)
def test_the_services_are_built_of_targets_that_there_are_on_the_port_that_they_expose(name: str) -> None:
    service = SERVICES[name]
    assert service.get("tmpfs", []) == (["/tmp"] if name == "pellucid-gpu" else [])  # torch needs it
    assert f" AS {service['build']['target']}\n" in DOCKERFILE
    port = str(Settings.model_fields["port"].default)
    assert service["ports"][0].endswith(f":{port}")
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f"PELLUCID_PORT={port} " in DOCKERFILE


@pytest.mark.parametrize("name", OURS)
def test_compose_waits_as_long_as_the_service_takes_to_stop(name: str) -> None:
    fields = Settings.model_fields
    takes = fields["drain_delay_s"].default + fields["grace_s"].default + 5
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > takes


def test_the_gpu_is_asked_for_by_its_profile_alone() -> None:
    (device,) = SERVICES["pellucid-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert [name for name, service in SERVICES.items() if service.get("profiles") == ["gpu"]] == ["pellucid-gpu"]


def test_prometheus_finds_both_services_by_their_names() -> None:
    (scraped,) = yaml.safe_load((REPOSITORY / "deploy" / "prometheus" / "prometheus.yml").read_text("utf-8"))[
        "scrape_configs"
    ]
    (found,) = scraped["dns_sd_configs"]
    assert tuple(found["names"]) == OURS
    assert found["port"] == Settings.model_fields["port"].default


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_is_mounted_is_there(name: str) -> None:
    sources = [volume.split(":")[0] for volume in SERVICES[name]["volumes"]]
    for source in sources:
        assert (REPOSITORY / source).is_dir() if source.startswith("./") else source in WRITTEN["volumes"]


def test_every_setting_that_the_image_and_compose_name_is_one() -> None:
    known = {f"PELLUCID_{field.upper()}" for field in Settings.model_fields}
    written = DOCKERFILE + (REPOSITORY / "docker-compose.yml").read_text("utf-8")
    assert set(re.findall(r"PELLUCID_[A-Z_]+", written)) <= known
