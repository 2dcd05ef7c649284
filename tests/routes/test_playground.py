"""The playground's files: all the service's own, under a policy that lets nothing else in."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from pellucid.errors import PellucidError
from pellucid.explain.methods import METHODS
from pellucid.parts.channels import ChannelOptions
from pellucid.parts.explain import ExplainOptions
from pellucid.parts.feature_maps import GRID_COLOURS
from pellucid.parts.grad_cam import COLOURS, SIGNED_COLOURS
from pellucid.parts.what_if import WhatIfOptions
from tests.support import REPOSITORY, decoded_bytes, post, problem

FOLDER = REPOSITORY / "service" / "web" / "playground"
FILES = sorted(path.name for path in FOLDER.iterdir())
TYPES = {"js": "javascript", "css": "text/css", "json": "application/json", "svg": "image/svg+xml", "html": "text/html"}


def strings(language: str) -> dict[str, str]:
    texts: dict[str, str] = json.loads((FOLDER / f"strings.{language}.json").read_text("utf-8"))
    return texts


def error_kinds(root: type[PellucidError] = PellucidError) -> list[type[PellucidError]]:
    return [root, *(kind for below in root.__subclasses__() for kind in error_kinds(below))]


def test_the_root_is_the_playground(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert 'href="docs"' in page.text


@pytest.mark.parametrize("path", ["/", "/assets/playground/main.js", "/assets/samples/cat.jpg"])
def test_the_policy_lets_in_the_services_own_alone(client: httpx.Client, path: str) -> None:
    policy = client.get(path).headers["content-security-policy"]
    rules = {name: sources for name, *sources in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == rules["script-src"] == rules["style-src"] == ["'self'"]
    assert set(rules["img-src"]) <= {"'self'", "data:", "blob:"}


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_as_what_it_is_and_names_no_other_host(client: httpx.Client, name: str) -> None:
    reply = client.get(f"/assets/playground/{name}")
    assert reply.status_code == 200
    assert TYPES[name.rpartition(".")[2]] in reply.headers["content-type"]
    assert set(re.findall(r"https?://([\w.]+)", reply.text)) <= {"www.w3.org"}  # SVG's namespace, which nobody fetches


def test_a_file_that_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/assets/playground/main.js")
    assert client.get("/assets/playground/main.js", headers={"If-None-Match": first.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("path", ["playground/nothing.js", "playground/..%2f..%2fapp.py", "samples/%2e%2e/"])
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    problem(client.get(f"/assets/{path}"), 404, "not-found")


def test_every_text_exists_in_every_language_and_is_used() -> None:
    english, chinese = strings("en"), strings("zh")
    # Of errors and methods the service says the English words itself.
    slugs = {kind.slug for kind in error_kinds()}
    own = {f"{part}.{slug}" for slug in slugs for part in ("error", "detail")}
    own |= {f"about.{name}.{part}" for name in [*METHODS, "best"] for part in ("title", "formula")}
    own |= {f"detail.{part}" for part in ("option", "value", "guess", "allowed", "many")}
    assert chinese.keys() - english.keys() == own
    assert english.keys() <= chinese.keys()
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese[key])), key
    code = "".join((FOLDER / name).read_text("utf-8") for name in FILES if name.endswith((".js", ".html")))
    named = set(re.findall(r'data-t(?:-label)?="([^"]+)"', code)) | set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)*)"', code))
    made = {match.replace("`", "") for match in re.findall(r"t(?:Of)?\(`([\w.]+\.)\$\{", code)}  # t(`view.${view}`)
    of_kinds = re.findall(r'"([\w.]+)"', "".join(re.findall(r"\btOf\(([^,]*),", code)))  # tOf("done", kind)
    made |= {f"{key}." for key in of_kinds}
    for key in english:
        assert key in named or any(key.startswith(prefix) for prefix in made), f"{key} is used nowhere"
    asked = {*re.findall(r'data-t(?:-label)?="([^"]+)"', code), *re.findall(r'\bt\("([^"]+)"', code), *of_kinds}
    assert asked <= english.keys()


def test_the_page_uses_the_names_and_defaults_of_the_options() -> None:
    code = {name: (FOLDER / name).read_text("utf-8") for name in FILES if name.endswith(".js")}
    asking = "".join(text for name, text in code.items() if name != "state.js")  # which has the page's own address
    named = {name for fields in re.findall(r"URLSearchParams\(\{(.*?)\}\)", asking, re.DOTALL) for name in keys(fields)}
    named |= set(re.findall(r'query\.(?:set|append)\("(\w+)"', asking))
    for listed in re.findall(r"for \(const name of \[([^\]]*)\]\) *\{?\s*(?:for|if) \([^;]*?(?:query|asked)\.", asking):
        named |= set(re.findall(r'"(\w+)"', listed))
    assert {"model", "layer", "target", "against", "scale", "trust", "include"} <= named
    assert named <= {*ExplainOptions.model_fields, *WhatIfOptions.model_fields, *ChannelOptions.model_fields}
    assert re.findall(r'state\.top_k \|\| "(\d+)"', asking) == [str(ExplainOptions.model_fields["top_k"].default)]
    assert f'signed ? "{SIGNED_COLOURS}" : "{COLOURS}"' in code["pictures.js"]
    assert f'state.colormap || "{GRID_COLOURS}"' in code["maps.js"]


def keys(fields: str) -> list[str]:
    """The names in a JavaScript object's text, as `model: detail.name, rank`."""
    return re.findall(r"(?:^|,)\s*(\w+)\s*(?=[:,]|$)", re.sub(r"\([^)]*\)", "", fields))


def test_bars_have_the_colours_of_the_plot(client: httpx.Client, cat: bytes) -> None:
    """In light; orange is above 1 or for the class, blue below or against it."""
    styles = client.get("/assets/playground/base.css").text
    picture = post(client, "/v1/attention", cat, accept="image/png").content
    plot = decoded_bytes(picture, "image/png")
    for name in ("for", "against"):
        (shown,) = re.findall(rf"--{name}: light-dark\(#(\w{{6}}),", styles)
        assert (plot == [*bytes.fromhex(shown)]).all(2).any()
