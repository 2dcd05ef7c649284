"""`pellucid compare` and `what-if`: the answers of their routes as files. Files of `explain` for other tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from typer.main import get_command

from pellucid.parts.compare import CompareOptions
from pellucid.parts.what_if import WhatIfOptions
from service.cli import main
from service.commands import files
from tests.commands.invoke import pellucid
from tests.support import SAMPLES

CAT, COFFEE = SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg"
WAIT = ("--timeout", "200")
MAPS = {"comparison-first.png", "comparison-second.png", "comparison-difference.png", "comparison-picture.png"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_options_are_those_of_the_routes() -> None:
    commands = {each.name: each for each in get_command(main).commands.values()}  # type: ignore[attr-defined]
    for name, options, settled in (
        ("compare", CompareOptions, {"timeout_ms", "provenance", "reference"}),
        ("what-if", WhatIfOptions, {"timeout_ms"}),
    ):
        assert {*options.model_fields} - {each.name for each in commands[name].params} == settled


def test_two_photographs_two_classes_or_two_networks_are_compared(server: str, tmp_path: Path) -> None:
    figure = tmp_path / "two.svg"
    done = pellucid("compare", CAT, COFFEE, "--out", tmp_path, "--figure", figure, "--json", *WAIT, url=server)
    assert done.exit_code == 0, done.stderr
    (told,) = json.loads(done.stdout)["pictures"]
    assert (told["source"], told["other"], told["folder"]) == (str(CAT), str(COFFEE), str(tmp_path / "cat-coffee"))
    assert names(tmp_path / "cat-coffee") == {*told["files"]} == MAPS | {"comparison.png", "comparison.json"}
    numbers = json.loads((tmp_path / "cat-coffee" / "comparison.json").read_text("utf-8"))
    assert (numbers["kind"], numbers["maps"]["first"]["mask"]["file"]) == ("pictures", "comparison-first.png")
    assert figure.read_text("utf-8").startswith("<svg")
    for asked, kind in (
        (("--target", "tabby", "--target", "Egyptian cat"), "classes"),
        (("--against-model", "lite0-plain"), "models"),
    ):
        done = pellucid("compare", CAT, COFFEE, "--out", tmp_path / kind, *asked, *WAIT, url=server)
        assert done.exit_code == 0, done.stderr
        assert names(tmp_path / kind) == {"cat", "coffee"}  # each photograph by itself
        assert json.loads((tmp_path / kind / "cat" / "comparison.json").read_text("utf-8"))["kind"] == kind


def test_another_network_is_loaded_here_without_a_server(tmp_path: Path) -> None:
    asked = ("--model", "lite0", "--against-model", "lite0-plain", "--out", tmp_path)
    done = pellucid("compare", CAT, *asked)
    assert done.exit_code == 0, done.stderr
    numbers = json.loads((tmp_path / "cat" / "comparison.json").read_text("utf-8"))
    assert [numbers[side]["model"] for side in ("first", "second")] == ["lite0", "lite0-plain"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("compare", CAT), "Name two photographs to compare, not 1"),
        (("compare", CAT, COFFEE, "--layer", "haed"), "Did you mean 'head'?"),
        (("what-if", CAT, "--layer", "head", "--mute", "99999"), "Unknown channel 99999"),
        (("explain", CAT, "--export", "coco", "--include", "predictions"), "--export needs --out, and grad_cam"),
    ],
)
def test_what_can_not_be_asked_is_refused_and_nothing_is_written(
    server: str, tmp_path: Path, asked: tuple[str | Path, ...], said: str
) -> None:
    done = pellucid(*asked, "--out", tmp_path / "out", *WAIT, url=server)
    assert (done.exit_code, said in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_channels_are_changed_and_the_answer_is_computed_again(server: str, tmp_path: Path) -> None:
    asked = (
        "--layer",
        "head",
        "--mute",
        "12,40",
        "--mute",
        "3",
        "--target",
        "tabby",
        "--target",
        "285",
        "--provenance",
    )
    done = pellucid("what-if", CAT, "--out", tmp_path, *asked, *WAIT, url=server)
    assert done.exit_code == 0, done.stderr
    assert "tabby, 12." in done.stderr
    maps = {f"what-if-{index}-{side}.png" for index in (281, 285) for side in ("first", "second", "difference")}
    assert names(tmp_path / "cat") == maps | {"what-if.png", "what-if.json"}
    numbers = json.loads((tmp_path / "cat" / "what-if.json").read_text("utf-8"))
    assert [each["channel"] for each in numbers["what_if"]["edit"]["channels"]] == [3, 12, 40]
    again = pellucid("reproduce", tmp_path / "cat" / "what-if.json", CAT, "--server", server)
    assert (again.exit_code, "Identical, to the bit." in again.stderr) == (0, True), again.stderr


def test_parts_with_their_provenance_are_computed_again(server: str, tmp_path: Path) -> None:
    asked = ("--include", "predictions,grad_cam", "--include", "feature_maps", "--layer", "blocks.10", "--provenance")
    done = pellucid("explain", CAT, "--out", tmp_path, "--layers", "stem", *asked, *WAIT, url=server)
    assert done.exit_code == 0, done.stderr
    parts = {"predictions.json", "explanation.json", "mask.png", "overlay.png", "features-stem.png"}
    assert names(tmp_path / "cat") == parts
    again = pellucid("reproduce", tmp_path / "cat" / "explanation.json", CAT, "--server", server)
    assert (again.exit_code, "Identical, to the bit." in again.stderr) == (0, True), again.stderr
    assert "feature_maps[stem].grid: identical" in again.stderr


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_maps_of_a_run_are_one_file_for_other_tools(server: str, tmp_path: Path) -> None:
    asked = ("--include", "grad_cam", "--layer", "blocks.10,head", "--provenance", *WAIT)
    for kind, file in (("coco", "coco.json"), ("coco-polygons", "coco.json"), ("fiftyone", "fiftyone.json")):
        done = pellucid("explain", CAT, COFFEE, "--out", tmp_path, "--export", kind, *asked, url=server)
        assert done.exit_code == 0, done.stderr
        found = json.loads((tmp_path / file).read_text("utf-8"))
        (origin,) = found["info"]["provenance"]
        assert origin["options"]["layer"] == ["blocks.10", "head"]
        if kind == "fiftyone":
            assert [sample["filepath"] for sample in found["samples"]] == [str(CAT), str(COFFEE)]
        else:
            coco = COCO(str(tmp_path / file))
            assert [image["file_name"] for image in coco.dataset["images"]] == [str(CAT), str(COFFEE)]
            assert [coco.annToMask(each).sum() for each in coco.dataset["annotations"]] == [
                each["area"] for each in coco.dataset["annotations"]
            ]
            assert len(coco.getAnnIds(catIds=coco.getCatIds(catNms=["espresso"]))) == 2


def test_no_two_pictures_meet_in_a_folder_and_no_two_maps_in_a_file(server: str, tmp_path: Path) -> None:
    given = [Path("a/cat.jpg"), Path("a/Cat.jpg"), Path("b/cat.png"), Path("cat-2.jpg")]
    folders = [str(folder).casefold() for _, folder in files.pictures(given, tmp_path)]
    assert len({*folders}) == len(given)
    out = tmp_path / "out"
    for source in (CAT, COFFEE, CAT):  # three runs, of pictures of one name
        (tmp_path / "photo.jpg").write_bytes(source.read_bytes())
        asked = ("--include", "predictions", "--out", out, *WAIT)
        assert pellucid("explain", tmp_path / "photo.jpg", *asked, url=server).exit_code == 0
    labels = {folder.name: json.loads((folder / "predictions.json").read_text("utf-8")) for folder in out.iterdir()}
    assert {name: found["predictions"][0]["label"] for name, found in labels.items()} == {
        "photo": "Egyptian cat",
        "photo-2": "espresso",
    }
    picture = {"media_type": "image/png", "data": ""}
    maps = [
        {"target": {"index": 1}, "layer": layer, "method": "m", "mask": picture} for layer in ("Conv", "conv", "a/b")
    ]
    written = files.write("explanation.json", {"grad_cam": maps}, {}, out / "photo")
    assert written == ["mask-Conv.png", "mask-conv-2.png", "mask-a_b.png", "explanation.json"]
