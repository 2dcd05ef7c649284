"""What the dashboard draws and the alerts ask for is what the service shows: metrics, labels, and labels' values."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pellucid import errors
from service.telemetry.metrics import Metrics
from tests.support import REPOSITORY, explained, post, problem

DEPLOY = REPOSITORY / "deploy"
# What Prometheus adds to each series of a target, and the one series that it makes by itself.
OF_THE_TARGET = {"instance", "job"}
OF_PROMETHEUS = {"up": set[str]()}

Labels = dict[str, dict[str, set[str]]]


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "dashboards" / "pellucid.json").read_text("utf-8"))


def alerts() -> list[Any]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str, str]]:
    """Where it is asked, the expression, and the text that names the labels of its result."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            written = target["expr"].replace("$__rate_interval", "1m")
            legend = re.sub(r"{{\s*(\w+)\s*}}", r"{{ $labels.\1 }}", target["legendFormat"])
            yield panel["title"], written, legend
    for rule in alerts():
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())


QUERIES = list(queries())


@pytest.fixture(scope="module")
def shown(client: httpx.Client, cat: bytes) -> Labels:
    """name -> label -> its values, of a server that has answered and refused."""
    explained(client, "/v1/explain", cat)
    problem(post(client, "/v1/predict", b"no picture"), 415, "unsupported-media-type")
    found: Labels = defaultdict(lambda: defaultdict(set))
    with_atlas = Metrics("0")  # the server has none
    with_atlas.drift.labels("lite0", "blocks.15.gate").set(0.1)
    families = [
        *text_string_to_metric_families(client.get("/metrics").text),
        *(each for each in with_atlas.registry.collect() if each.name == "pellucid_gate_drift"),
    ]
    for family in families:
        for sample in family.samples:
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
            found[sample.name]  # also where it has no labels
    return found


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def note(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), note)
    assert found
    return found


def grouped(expression: str) -> list[tuple[str, list[str]]]:
    """Each aggregation with the labels that it keeps."""
    found: list[tuple[str, list[str]]] = []

    def note(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr):
            found.append((node.expr.prettify(), node.modifier.labels if node.modifier else []))

    promql_parser.walk(promql_parser.parse(expression), note)
    return found


def labels_of(shown: Labels, expression: str) -> set[str]:
    """The labels that all series have which the expression reads."""
    each = [OF_THE_TARGET | set(shown.get(one.name or "", ())) for one in selectors(expression)]
    return set.intersection(*each)


@pytest.mark.parametrize(("where", "expression", "text"), QUERIES, ids=[where for where, _, _ in QUERIES])
def test_every_query_reads_what_the_service_shows(shown: Labels, where: str, expression: str, text: str) -> None:
    for selector in selectors(expression):
        assert selector.name in {*shown, *OF_PROMETHEUS}
        labels = OF_THE_TARGET | set(shown[selector.name])
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels, f"{selector.name} has no label {matcher.name}"
            assert_known(matcher.name, matcher.value)
    for inner, kept in grouped(expression):
        assert set(kept) <= labels_of(shown, inner), inner
    kept_at_last = [set(kept) for _, kept in grouped(expression)] or [labels_of(shown, expression)]
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= set.intersection(*kept_at_last) | (
        {"le"} & labels_of(shown, expression)
    )


def assert_known(label: str, value: str) -> None:
    """What a matcher asks for can be: a kind of problem that there is, this job, a variable of the dashboard."""
    if value.startswith("$"):
        assert value[1:] in {variable["name"] for variable in dashboard()["templating"]["list"]}
    elif label == "reason":
        assert set(value.split("|")) <= slugs(errors.PellucidError)
    elif label == "job":
        (scraped,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
        assert value == scraped["job_name"]
    else:
        assert label in {"route", "status"}, f"nothing tells what values {label} takes"


def slugs(kind: type[errors.PellucidError]) -> set[str]:
    return {kind.slug}.union(*(slugs(child) for child in kind.__subclasses__()))


def test_the_routes_that_are_left_out_of_the_counts_are_routes(client: httpx.Client) -> None:
    paths = set(client.get("/openapi.json").json()["paths"])
    named = {
        path
        for _, expression, _ in QUERIES
        for selector in selectors(expression)
        for matcher in selector.matchers.matchers
        if matcher.name == "route"
        for path in matcher.value.split("|")
    }
    assert {"/livez", "/readyz", "/metrics"} <= named <= paths


def test_the_dashboards_variables_are_filled_from_what_the_service_shows(shown: Labels) -> None:
    for variable in dashboard()["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        assert label in OF_THE_TARGET | set(shown[metric])
        assert metric in shown


def test_the_dashboard_shows_what_an_operator_asks_first() -> None:
    read = {selector.name for _, expression, _ in QUERIES for selector in selectors(expression)}
    documented = re.findall(
        r"^\| `(pellucid_\w+)` \|", (REPOSITORY / "docs" / "reference" / "settings.md").read_text("utf-8"), re.MULTILINE
    )
    assert documented
    for metric in documented:
        assert any(name == metric or name.startswith(f"{metric}_") for name in read if name), f"nothing draws {metric}"


def test_the_dashboard_reads_the_data_source_that_is_provisioned() -> None:
    (source,) = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text("utf-8")
    )["datasources"]
    panels = dashboard()["panels"]
    asked = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", ())}
    assert asked == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_limit_of_memory_that_the_alert_knows_is_the_containers() -> None:
    (expression,) = (rule["expr"] for rule in alerts() if rule["alert"] == "PellucidMemoryHigh")
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))["services"]["pellucid"]
    deployment = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text("utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (gibibytes,) = re.findall(r"0\.85 \* (\d+) \* 1024 \* 1024 \* 1024$", expression)
    assert compose["deploy"]["resources"]["limits"]["memory"] == f"{gibibytes}G"
    assert container["resources"]["limits"]["memory"] == f"{gibibytes}Gi"
