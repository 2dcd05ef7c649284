"""`pellucid explain`: all files of every picture, a word on each that fails, and an exit code that says so."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from pellucid.client import ApiError, AsyncClient
from pellucid.parts.explain import ExplainOptions
from pellucid.schemas import Problem, Reply, Result
from service.cli import main
from service.commands import files
from tests.commands.invoke import pellucid
from tests.support import REPOSITORY, SAMPLES, decoded, explained, post

FILES = {
    "predictions.json",
    "explanation.json",
    "overlay.png",
    "mask.png",
    "attention.png",
    "features-stem.png",
    "features-blocks.4.png",
    "features-head.png",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs, one of them in a folder of its own, and a file that is called a photograph."""
    made = tmp_path / "photographs"
    (made / "morning").mkdir(parents=True)
    (made / "cat.jpg").write_bytes((SAMPLES / "cat.jpg").read_bytes())
    (made / "morning" / "coffee.JPG").write_bytes((SAMPLES / "coffee.jpg").read_bytes())
    (made / "broken.png").write_text("no picture")
    (made / "notes.txt").write_text("no picture either")
    return made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_explained_but_for_its_broken_picture(server: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = pellucid("explain", folder, "--out", out, "--timeout", "200", url=server)
    assert result.exit_code == 1
    assert names(out) == {"cat", "morning"}
    assert names(out / "cat") == FILES
    assert names(out / "morning" / "coffee") == FILES
    said = " ".join(result.stderr.split())  # lines are broken where the terminal ends
    assert "broken.png: Unsupported media type." in said
    assert "2 explained" in said
    assert "1 failed" in said


def test_a_picture_that_was_too_late_is_tried_once_more_alone(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked, late = AsyncClient.reply, [0], Problem(type="", title="Late", status=504, detail="", request_id="")

    async def busy(client: AsyncClient, *image: Any, **options: Any) -> Reply:
        asked[0] += 1
        try:
            await asyncio.sleep(0.05)
            if asked[0] > 1:
                raise ApiError(late)
            return await ask(client, *image, **options)
        finally:
            asked[0] -= 1

    monkeypatch.setattr(AsyncClient, "reply", busy)
    photographs = (SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg")
    result = pellucid("explain", *photographs, "--include", "predictions", "--out", tmp_path, url=server)
    assert "2 explained" in result.stderr
    assert "Late" not in result.stderr


def test_every_option_of_the_route_is_one_of_the_command(server: str, tmp_path: Path) -> None:
    (command,) = (each for each in get_command(main).commands.values() if each.name == "explain")  # type: ignore[attr-defined]
    taken = {parameter.name for parameter in command.params}
    assert {*ExplainOptions.model_fields} - taken == {"timeout_ms", "overlay"}
    chosen = ("--layers", "stem", "--channels", "3,1", "--max-side", "64", "--signed", "--top-k", "2", "--alpha", "0.2")
    out = ("--out", tmp_path, "--timeout", "200")
    assert pellucid("explain", SAMPLES / "cat.jpg", *chosen, *out, url=server).exit_code == 0
    numbers = json.loads((tmp_path / "cat" / "explanation.json").read_text())
    assert numbers["feature_maps"][0]["channels"] == [3, 1]
    assert max(numbers["grad_cam"][0]["mask"][side] for side in ("width", "height")) == 64
    assert len(numbers["predictions"]) == 2


def test_what_is_written_is_what_the_api_answers(server: str, client: httpx.Client, cat: bytes, tmp_path: Path) -> None:
    photograph = SAMPLES / "cat.jpg"
    assert pellucid("explain", photograph, "--out", tmp_path, "--timeout", "200", url=server).exit_code == 0
    answer = explained(client, "/v1/explain", cat, overlay=True, labels=True, min_side=400, view="whole")
    assert answer.grad_cam
    assert answer.feature_maps
    written = tmp_path / "cat"
    numbers = json.loads((written / "explanation.json").read_text())
    assert answer.predictions is not None
    labels = [prediction.label for prediction in answer.predictions]
    assert [prediction["label"] for prediction in numbers["predictions"]] == labels
    assert [p["label"] for p in json.loads((written / "predictions.json").read_text())["predictions"]] == labels
    assert numbers["grad_cam"][0]["box"] == [0, 0, 451, 300]  # the whole picture, unless told otherwise
    assert numbers["grad_cam"][0]["raw"]["max"] == pytest.approx(answer.grad_cam[0].raw.max, rel=1e-3)
    for name, picture in (
        (numbers["grad_cam"][0]["mask"]["file"], answer.grad_cam[0].mask),
        (numbers["feature_maps"][0]["grid"]["file"], answer.feature_maps[0].grid),
    ):
        shown = np.asarray(Image.open(written / name).convert("RGB")).astype(int)
        other = decoded(picture).astype(int)
        assert np.abs(shown - (other if other.ndim == 3 else other[..., None])).max() <= 12


def test_grids_have_labels_and_small_pictures_are_enlarged_unless_told_otherwise(server: str, tmp_path: Path) -> None:
    out = ("--out", tmp_path, "--timeout", "200", "--layers", "stem", "--view", "centre")
    sizes = []
    for chosen in ((), ("--no-labels", "--min-side", "0")):
        assert pellucid("explain", SAMPLES / "cat.jpg", *out, *chosen, url=server).exit_code == 0
        numbers = json.loads((tmp_path / "cat" / "explanation.json").read_text())
        maps, cam = numbers["feature_maps"][0], numbers["grad_cam"][0]
        sizes.append((maps["tiles"]["top"] > 0, maps["tiles"]["width"], cam["mask"]["width"], cam["overlay"]["width"]))
    assert sizes == [(True, 224, 400, 451), (False, 112, 263, 451)]


def test_a_picture_that_no_tiles_cover_is_explained_at_its_centre(server: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 2000, 3), np.uint8)
    for name, width in (("long", 200), ("endless", 2000)):
        Image.fromarray(noise[:, :width]).save(tmp_path / f"{name}.png")
    result = pellucid("explain", tmp_path, "--out", tmp_path / "out", "--timeout", "200", url=server)
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert said.count("or choose view=squash or view=centre. Its centre is explained.") == 1
    boxes = [
        json.loads((tmp_path / "out" / name / "explanation.json").read_text())["grad_cam"][0]["box"]
        for name in ("long", "endless")
    ]
    assert boxes == [[0, 0, 200, 40], [982, 2, 1018, 38]]
    file = tmp_path / "endless.svg"
    result = pellucid("explain", tmp_path / "endless.png", "--figure", file, "--timeout", "200", url=server)
    assert (result.exit_code, "Its centre is explained." in " ".join(result.stderr.split())) == (0, True)
    assert "the network saw the frame, at 224 " in file.read_text("utf-8")


def test_a_figure_is_one_file_of_one_photograph(server: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "cat.svg"
    asked = ("--timeout", "200", "--target", "tabby", "--theme", "dark")
    assert pellucid("explain", SAMPLES / "cat.jpg", "--figure", file, *asked, url=server).exit_code == 0
    assert "tabby, " in file.read_text("utf-8")
    for places, said in (
        ((), "--out"),
        (("--figure", tmp_path / "cat.pdf"), ".svg"),
        (("--figure", file, folder), "one photograph"),
    ):
        refused = pellucid("explain", SAMPLES / "cat.jpg", *places, url=server)
        assert (refused.exit_code, said in refused.stderr) == (2, True)


def test_several_classes_have_a_picture_each(server: str, tmp_path: Path) -> None:
    chosen = ("--target", "tabby", "--target", "espresso", "--layers", "stem", "--layer", "blocks.10")
    out = ("--out", tmp_path, "--timeout", "200")
    assert pellucid("explain", SAMPLES / "cat.jpg", *out, *chosen, url=server).exit_code == 0
    found = names(tmp_path / "cat")
    assert {"mask-281.png", "overlay-281.png", "mask-967.png", "overlay-967.png", "features-stem.png"} <= found
    assert "mask.png" not in found


def test_every_map_has_a_file_of_its_own(server: str, tmp_path: Path) -> None:
    chosen = ("--target", "tabby", "--target", "espresso", "--layer", "blocks.10,head", "--method", "grad-cam,hirescam")
    out = ("--out", tmp_path, "--timeout", "200")
    result = pellucid("explain", SAMPLES / "cat.jpg", *out, *chosen, "--layers", "stem", url=server)
    assert result.exit_code == 0, result.stderr
    maps = json.loads((tmp_path / "cat" / "explanation.json").read_text())["grad_cam"]
    assert len(maps) == 8
    assert maps[0]["mask"]["file"] == "mask-281-blocks.10-grad-cam.png"
    for kind in ("mask", "overlay"):
        named = {each[kind]["file"] for each in maps}
        assert len(named) == 8
        assert {path.name for path in (tmp_path / "cat").glob(f"{kind}*")} == named
    for each in maps:  # the file shows the map that names it: its brightest place is the map's
        heat = np.asarray(each["raw"]["values"])
        with Image.open(tmp_path / "cat" / each["mask"]["file"]) as mask:
            shown = np.asarray(mask.resize(heat.shape[::-1], Image.Resampling.BOX), float)
        assert np.corrcoef(shown.ravel(), heat.clip(0).ravel())[0, 1] > 0.8


def test_maps_of_the_pixels_are_written_beside_the_plot_of_the_default_layer(server: str, tmp_path: Path) -> None:
    chosen = ("--layer", "pixels", "--method", "smoothgrad", "--out", tmp_path, "--timeout", "200")
    result = pellucid("explain", SAMPLES / "cat.jpg", *chosen, url=server)
    assert result.exit_code == 0, result.stderr
    assert {"mask.png", "attention.png"} <= names(tmp_path / "cat")


@pytest.mark.parametrize(
    ("layer", "method", "example"),
    [("blocks.10,head", "grad-cam", "mask-blocks.10.png"), ("head", "grad-cam,hirescam", "mask-hirescam.png")],
)
def test_a_maps_file_is_named_by_what_tells_it_from_the_others(
    client: httpx.Client, cat: bytes, tmp_path: Path, layer: str, method: str, example: str
) -> None:
    asked = {"layer": layer, "method": method, "include": "predictions,grad_cam"}
    (result,) = Reply.model_validate_json(post(client, "/v1/explain", cat, **asked).content).results
    assert isinstance(result, Result)
    written = files.write("explanation.json", files.numbers(result), {}, tmp_path / "cat")
    assert len(set(written)) == len(written)
    assert example in written


def test_names_that_differ_only_in_what_a_file_can_not_be_called_do_not_meet(
    client: httpx.Client, cat: bytes, tmp_path: Path
) -> None:
    answer: dict[str, Any] = post(client, "/v1/explain", cat, layer="blocks.10,head", layers="stem,head").json()
    part = answer["results"][0]
    for entries in (part["grad_cam"], part["feature_maps"]):
        for entry, name in zip(entries, ("a b", "a/b"), strict=True):
            entry["layer"] = name
    (result,) = Reply.model_validate(answer).results
    assert isinstance(result, Result)
    written = files.write("explanation.json", files.numbers(result), {}, tmp_path / "cat")
    assert {"mask-a_b.png", "mask-a_b-2.png", "features-a_b.png", "features-a_b-2.png"} <= set(written)


def test_a_script_gets_json(server: str, folder: Path, tmp_path: Path) -> None:
    result = pellucid("explain", folder, "--out", tmp_path / "out", "--timeout", "200", "--json", url=server)
    report = json.loads(result.stdout)
    assert (report["explained"], report["failed"]) == (2, 1)
    pictures = {Path(picture["source"]).name: picture for picture in report["pictures"]}
    assert pictures["cat.jpg"]["best"]["label"] == "Egyptian cat"
    assert set(pictures["cat.jpg"]["files"]) == FILES
    assert pictures["broken.png"]["error"]["type"] == "urn:pellucid:problem:unsupported-media-type"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--layer", "haed"), ("Did you mean 'head'? There are 225.",)),
        (("--target", "tabbyy"), ("Unknown class 'tabbyy'.",)),
        (("--model", "resnet"), ("Allowed: lite0, lite0-plain",)),
        (("--colormap", "rainbow"), ("colormap: Should be one of",)),
    ],
)
def test_what_would_fail_with_every_picture_ends_it_at_once(
    server: str, folder: Path, tmp_path: Path, wrong: tuple[str, str], words: tuple[str, ...]
) -> None:
    result = pellucid("explain", folder, "--out", tmp_path / "out", "--timeout", "200", *wrong, url=server)
    assert result.exit_code == 2
    assert all(said in result.stderr for said in words), result.stderr
    assert not (tmp_path / "out").exists()


def test_where_no_server_is_it_says_what_to_do(tmp_path: Path) -> None:
    result = pellucid("explain", SAMPLES / "cat.jpg", "--out", tmp_path, url="http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "No answer from http://127.0.0.1:1" in result.stderr
    assert "`pellucid serve` starts one" in result.stderr


@pytest.mark.parametrize("arguments", [("nowhere.jpg", "--out", "out"), ("--out", "out"), (SAMPLES / "cat.jpg",)])
def test_a_call_that_is_not_complete_is_explained(arguments: tuple[str | Path, ...]) -> None:
    assert pellucid("explain", *arguments).exit_code == 2


def test_a_folder_without_pictures_is_no_success(tmp_path: Path) -> None:
    result = pellucid("explain", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "There is no picture" in result.stderr


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    given = [Path("a.jpg"), Path("a.png"), Path("b/a.jpg")]
    assert [folder.name for _, folder in files.pictures(given, tmp_path)] == ["a", "a-2", "a-3"]


def test_a_folder_below_the_place_of_the_files_is_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for out in (None, Path()):
        assert len(files.pictures([Path(folder.name)], out)) == 3


def test_what_it_wrote_itself_is_not_explained_again(folder: Path) -> None:
    (folder / "out" / "cat").mkdir(parents=True)
    (folder / "out" / "cat" / "mask.png").write_text("")
    assert [source.name for source, _ in files.pictures([folder], folder / "out")] == [
        "broken.png",
        "cat.jpg",
        "coffee.JPG",
    ]


def test_no_file_but_those_of_the_earlier_answer_is_removed_or_overwritten(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"a cat")
    own = {"mask_01.png", "overlay.png", "features-x.png", "attention_notes.png", "mask.png"}
    (tmp_path / "cat").mkdir()
    for name in own:
        (tmp_path / "cat" / name).write_text("the user's")
    ((_, folder),) = files.pictures([tmp_path / "cat.jpg"], tmp_path)
    assert folder.name == "cat-2"  # a folder with files of the user is not for answers

    picture = {"media_type": "image/png", "data": ""}
    numbers = {"image": {"sha256": hashlib.sha256(b"a cat").hexdigest()}, "attention": {}, "predictions": []}
    maps = [{"target": {"index": 1}, "layer": layer, "method": "m", "mask": picture} for layer in ("a", "b")]
    beside = {"attention.png": b"", "predictions.json": b""}
    files.write("explanation.json", numbers | {"grad_cam": maps}, beside, folder)
    for name in own:
        (folder / name).write_text("the user's")
    assert files.pictures([tmp_path / "cat.jpg"], tmp_path) == [(tmp_path / "cat.jpg", folder)]
    files.write("explanation.json", numbers | {"grad_cam": maps[:1]}, {}, folder)
    assert names(folder) == own | {"explanation.json", "mask-2.png"}
    for place in ("cat", "cat-2"):
        assert {(tmp_path / place / name).read_text() for name in own} == {"the user's"}


def test_a_layers_name_leads_to_no_other_folder(client: httpx.Client, cat: bytes, tmp_path: Path) -> None:
    response = client.post("/v1/explain", params={"layers": "head", "overlay": True}, files={"images": cat})
    answer: dict[str, Any] = response.json()
    answer["results"][0]["feature_maps"][0]["layer"] = "../../head"
    (result,) = Reply.model_validate(answer).results
    written = files.write("explanation.json", files.numbers(result), {}, tmp_path / "cat")
    assert "features-.._.._head.png" in written
    assert {path.name for path in tmp_path.iterdir()} == {"cat"}


def test_without_a_server_the_network_is_loaded_here(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "explain", str(folder), "--out", str(tmp_path / "out")]
    command += ["--timeout", "200"]
    alone = os.environ | {"PELLUCID_THREADS": "1"}
    ended = subprocess.run(command, cwd=REPOSITORY, env=alone, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 1, ended.stderr
    assert names(tmp_path / "out" / "cat") == FILES
    assert names(tmp_path / "out" / "morning" / "coffee") == FILES
    assert "broken.png: Unsupported media type." in ended.stderr


def test_a_folder_holds_the_files_of_one_run(server: str, tmp_path: Path) -> None:
    command = ("explain", SAMPLES / "cat.jpg", "--out", tmp_path, "--timeout", "200")
    pellucid(*command, "--layers", "stem", url=server)
    (tmp_path / "cat" / "notes.txt").touch()
    pellucid(*command, "--layers", "head", url=server)
    left = {file.name for file in (tmp_path / "cat").iterdir()}
    assert "features-head.png" in left
    assert "features-stem.png" not in left
    assert "notes.txt" in left


def test_a_figure_has_its_folder_made_and_a_place_that_cannot_be_written_is_refused_at_once(
    server: str, tmp_path: Path
) -> None:
    photograph, figure = SAMPLES / "cat.jpg", tmp_path / "new" / "folder" / "cat.svg"
    assert pellucid("explain", photograph, "--figure", figure, "--timeout", "200", url=server).exit_code == 0
    assert figure.read_text().startswith("<svg")
    for place in (("--figure", figure / "cat.svg"), ("--out", figure / "folder")):  # below a file
        refused = pellucid("explain", photograph, *place, url="http://127.0.0.1:1")
        assert refused.exit_code == 2
        assert f"{place[0]}: " in refused.stderr
        assert "can't be written" in refused.stderr
