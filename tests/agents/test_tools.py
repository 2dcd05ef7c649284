"""Tools for agents, by the client of the package: over standard input and output, over HTTP, and in memory."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import socket
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent
from PIL import Image
from pydantic import SecretStr

from pellucid.client import AsyncClient
from pellucid.errors import TooCostly
from pellucid.parts.trust import sentence
from pellucid.render import compose
from pellucid.schemas import ImageInfo, RawMap
from pellucid.trust.measures import Measured
from service.agents.tools import server as tools
from service.agents.words import Where, where
from service.commands.mcp import mcp, served
from service.config import Settings
from service.http.openapi import examples
from service.http.problem_json import problem
from tests.support import REPOSITORY, SAMPLES, compiled, encoded, photograph

CAT = str(SAMPLES / "cat.jpg")
KEY = "k" * 40
SKILL = REPOSITORY / "docs" / "skills" / "pellucid" / "SKILL.md"


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


class Agent:
    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self.portal, self.client = portal, client

    def call(self, tool: str, **arguments: Any) -> CallToolResult:
        found: CallToolResult = self.portal.call(self.client.call_tool, tool, arguments)
        return found

    def refused(self, tool: str, **arguments: Any) -> str:
        found = self.call(tool, **arguments)
        (said,) = found.content
        assert found.is_error
        assert isinstance(said, TextContent)
        return said.text


@pytest.fixture(scope="module")
def agent(portal: BlockingPortal) -> Iterator[Agent]:
    """An agent that has started `pellucid mcp` for a compiled network, without a server."""
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "service", "mcp", "--model", str(compiled("lite0-plain"))],
        cwd=REPOSITORY,
        env={"PELLUCID_THREADS": "1", "PELLUCID_PRECISION": "fp32"},
    )
    with portal.wrap_async_context_manager(Client(command)) as client:
        yield Agent(portal, client)


@pytest.fixture(scope="module")
def remote(portal: BlockingPortal) -> Iterator[Agent]:
    """An agent of a service that does not answer, as over HTTP: it may name no files."""
    service = AsyncClient("http://127.0.0.1:1", retries=0)
    with portal.wrap_async_context_manager(Client(tools(service))) as client:
        yield Agent(portal, client)


def test_files_of_the_machine_are_read_if_they_can_be_pictures(portal: BlockingPortal, tmp_path: Path) -> None:
    picture, huge, fifo = tmp_path / "a b.jpg", tmp_path / "huge.jpg", tmp_path / "fifo"
    picture.write_bytes(photograph("cat"))
    with huge.open("wb") as file:
        file.truncate(2**31)
    os.mkfifo(fifo)
    url = picture.as_uri()
    white = b64encode(encoded(np.full((200, 200), 255, np.uint8))).decode()  # longer than a file's name can be
    assert len(white) > 255
    server = tools(AsyncClient("http://127.0.0.1:1", retries=0), file_bytes=2**20)
    with portal.wrap_async_context_manager(Client(server)) as client:
        agent = Agent(portal, client)
        for good in (str(picture), url, url.replace("file://", "file://localhost"), white):
            assert "service does not answer" in agent.refused("predict", image=good)
        assert "has 2048.0 MiB, and at most 1 MiB are allowed" in agent.refused("predict", image=str(huge))
        for bad in (str(fifo), "/dev/zero", "/proc/self/environ", "~nosuch/x.jpg", url.replace("//", "//elsewhere")):
            assert "can't be read as a picture" in agent.refused("predict", image=bad)


def test_a_server_too_slow_for_the_trust_test_still_explains(portal: BlockingPortal) -> None:
    def answered(request: httpx.Request) -> httpx.Response:
        if request.headers["accept"] == "image/png":
            return httpx.Response(200, content=photograph("cat"))
        if request.url.params.get("trust") == "true":
            error = TooCostly("trust: 200 passes would take about 41200 ms more, and the deadline is in 9000 ms.")
            return httpx.Response(422, json=problem(error, "id"))
        return httpx.Response(200, json=examples()["/v1/explain"]["reply"])

    service = AsyncClient("http://service", transport=httpx.MockTransport(answered))
    with portal.wrap_async_context_manager(Client(tools(service, file_bytes=2**20))) as client:
        agent = Agent(portal, client)
        explained = agent.call("explain", image=CAT).structured_content
        assert explained is not None
        assert explained["sentence"].endswith("was not tested: that would take about 41 s, longer than allowed.")
        assert explained["trust"] == "not tested"
        assert "less than or equal to 20" in agent.refused("explain", image=CAT, top_k=21)


def test_the_cat_is_explained_without_a_server_by_a_figure_and_a_sentence(agent: Agent) -> None:
    found = agent.call("explain", image=CAT, view="centre")
    text, figure = found.content
    assert isinstance(text, TextContent)
    assert isinstance(figure, ImageContent)
    explained = found.structured_content
    assert explained is not None
    assert json.loads(text.text) == explained
    assert len(text.text) < 2000
    with Image.open(io.BytesIO(b64decode(figure.data))) as picture:
        assert (picture.format, figure.mime_type, max(picture.size)) == ("JPEG", "image/jpeg", 1000)
    first, place = explained["predictions"][0], explained["where"]
    assert explained["target"] == first
    assert "cat" in first["label"]
    sentence = explained["sentence"]
    second = explained["predictions"][1]
    assert sentence.startswith(
        f"lite0-plain gives {first['label']!r} {first['score']}, ahead of {second['label']!r} {second['score']}"
        "; by grad"
    )
    assert f"lies in {place['words']} (80% or more of its maximum" in sentence
    assert f"{place['share']:.0%} of the 263 x 262 pixels that it saw of the picture's 451 x 300" in sentence
    said = {"follows": "The network follows", "unclear": "It is unclear", "contradicts": "The network contradicts"}
    assert said[explained["trust"]] in sentence
    (advantage,) = re.findall(r"advantage ([+-][\d.]+) of probability", sentence)
    assert float(advantage) == pytest.approx(explained["advantage"], abs=0.001)


def test_a_wrong_name_is_refused_with_help(agent: Agent) -> None:
    assert "Did you mean 'tabby'" in agent.refused("explain", image=CAT, target="tabbyy", trust=False)
    assert "Arguments: image, target, against" in agent.refused("explain", image=CAT, label="tabby")
    assert "'two.jpg' can't be read" in agent.refused("compare", image=CAT, other="two.jpg")
    assert "two `target`" in agent.refused("compare", image=CAT)


def test_classes_are_compared_and_channels_edited(agent: Agent) -> None:
    image = f"data:image/jpeg;base64,{b64encode(photograph('cat')).decode()}"
    compared = agent.call("compare", image=image, target=["tabby", 287])
    found = compared.structured_content
    assert found is not None
    assert (found["first"]["target"]["label"], found["second"]["target"]["index"]) == ("tabby", 287)
    assert compared.content[1].type == "image"
    changed = agent.call("what_if", image=image, mute=[254], target="tabby").structured_content
    assert changed is not None
    assert changed["change"] != 0
    names = agent.call("models", find="tabby").structured_content
    assert names is not None
    assert (names["model"], names["found"]) == ("lite0-plain", ["tabby"])


def test_files_of_the_machine_are_not_read_for_an_agent_over_http(portal: BlockingPortal, remote: Agent) -> None:
    assert "can't be read as a picture" in remote.refused("predict", image=CAT)
    image = b64encode(photograph("cat")).decode()
    assert "does not answer" in remote.refused("predict", image=image)
    for tool in portal.call(remote.client.list_tools).tools:
        assert "path" not in json.dumps(tool.input_schema)
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint


def test_http_needs_a_key_of_the_service_and_has_its_limits(portal: BlockingPortal) -> None:
    app = tools(AsyncClient("http://127.0.0.1:1")).streamable_http_app(json_response=True, stateless_http=True)
    settings = Settings(api_keys=SecretStr(KEY), head_timeout_s=1)
    server = served(app, settings, host="127.0.0.1", port=0)
    running = portal.start_task_soon(server.serve)
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    late = socket.create_connection(("127.0.0.1", port), timeout=60)
    late.sendall(b"POST /mcp HTTP/1.1\r\nHost:")

    async def listed(**headers: str) -> int:
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)) as client,
        ):
            return len((await client.list_tools()).tools)

    try:
        assert portal.call(lambda: listed(authorization=f"Bearer {KEY}")) == 5
        response = httpx.post(f"http://127.0.0.1:{port}/mcp", json={})
        with late:
            assert late.recv(65536).startswith(b"HTTP/1.1 408")
    finally:
        server.should_exit = True
        running.result()
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("bright", "words", "share"),
    [
        ([(0, 10, 0, 10)], "the upper left", 1 / 9),
        ([(20, 30, 0, 8), (12, 18, 12, 17)], "the lower left and the centre", 11 / 90),
        ([(0, 30, 0, 20)], "no one place", 2 / 3),
    ],
)
def test_a_place_is_named_by_thirds_of_the_picture(
    bright: list[tuple[int, int, int, int]], words: str, share: float
) -> None:
    heat = np.zeros((30, 30), np.float32)
    image = ImageInfo(filename=None, format="PNG", width=300, height=300, sha256="")

    def place(box: list[int], reach: float = 0) -> Where | None:
        raw = RawMap(shape=[30, 30], values=heat.tolist(), min=0, max=1, all_negative=False)
        return where(raw, box, image, reach)

    assert place([0, 0, 300, 300]) is None
    for top, bottom, left, right in bright:
        heat[top:bottom, left:right] = 1
    assert place([0, 0, 300, 300], reach=5) is None  # a figure on this scale shows nothing
    found = place([0, 0, 300, 300])
    assert found is not None
    assert found.words == words
    assert found.share == pytest.approx(share, rel=0.1)
    assert found.share == pytest.approx(compose.strong(heat, (300, 300)).mean(), rel=0.02)  # a figure's line
    half = place([0, 0, 100, 100])  # the network saw a corner of the picture
    assert half is not None
    assert half.words in ("the upper left", "no one place")


def test_the_guide_quotes_the_sentence_of_today() -> None:
    guide = (REPOSITORY / "docs" / "how-to" / "agents.md").read_text("utf-8")
    quote = " ".join(re.findall(r"^> (.*)", guide, re.MULTILINE))
    advantage, p, beaten, spot = re.findall(r"advantage (\S+) of.* p = ([\d.]+); it beats (\d) .*\((\S+)\)\.", quote)[0]
    numbers = float(advantage), 0.0, float(p), float(spot), int(beaten)
    found = Measured("probability", "follows", *numbers, (), None, None, (), 8, 0.0, 0)
    assert sentence(found, "Egyptian cat") in quote


def test_the_pages_for_agents_name_what_there_is(portal: BlockingPortal, remote: Agent) -> None:
    """tests/test_docs.py runs their commands and follows their links."""
    guide, skill = (REPOSITORY / "docs" / "how-to" / "agents.md").read_text("utf-8"), SKILL.read_text("utf-8")
    listed = {tool.name: tool.input_schema["properties"] for tool in portal.call(remote.client.list_tools).tools}
    assert re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE) == [*listed]
    named = set(re.findall(r"`(\w+)`", skill)) - {"follows", "unclear", "contradicts"}
    assert named == {"explain", "compare", "what_if", "models", "image", "target", "against", "rank"}
    assert named <= set(listed).union(*listed.values())
    options = {f"--{name}" for name in inspect.signature(mcp).parameters}
    for block in re.findall(r"```json\n(.*?)```", guide, re.DOTALL):
        command, *arguments = json.loads(block)["mcpServers"]["pellucid"].get("args", ["mcp"])
        assert command == "mcp"
        assert {each for each in arguments if each.startswith("--")} <= options
    head = skill.split("---")[1]
    assert f"name: {SKILL.parent.name}\n" in head
    assert "description: " in head
