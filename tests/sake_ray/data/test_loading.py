"""Good files load as they are; a broken rule stops the load with file, line and field, or is skipped and listed.

What would go unseen otherwise: gold that does not parse scored as "no entities", boxes off by an image size, a post
left out without a word.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sake_ray.data.images import load_image
from sake_ray.data.loading import load_split
from sake_ray.data.problems import DataError
from sake_ray.types import Box, Difficulty, Entity

POST: dict[str, Any] = {
    "tokens": ["RT", "@", "a", "_", ":", "Ann", "Lee", "in", "Oslo"],
    "img_id": "17_06_7.png",
    "image_size": [40, 30],
    "gt_entities": [
        {"start": 5, "end": 6, "entity_type": "PER", "phrase": "Ann Lee", "region_box": [0, 0, 10, 30]},
        {"start": 8, "end": 8, "entity_type": "LOC", "phrase": "Oslo", "region_box": []},
        {"start": 5, "end": 6, "entity_type": "PER", "phrase": "Ann Lee", "region_box": [20, 1, 40, 30]},
    ],
}


def _other(name: str) -> dict[str, Any]:
    return {**copy.deepcopy(POST), "img_id": name}


def _write(folder: Path, rows: list[Any], name: str = "train.jsonl") -> Path:
    text = json.dumps(rows, indent=1) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    (folder / name).write_text(text)
    return folder


def _draw(folder: Path, *names: str, size: tuple[int, int] = (40, 30)) -> None:
    (folder / "images").mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", size).save(folder / "images" / name)


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_a_post_becomes_an_example_with_one_entity_a_span(tmp_path: Path, name: str) -> None:
    _draw(_write(tmp_path, [POST], name), "17_06_7.png")
    result = load_split(tmp_path, "train")
    (example,) = result.examples
    assert (example.id, example.text) == ("17_06_7", "RT @ a _ : Ann Lee in Oslo")
    assert example.entities == (
        Entity("Ann Lee", "PER", (Box(0, 0, 10, 30), Box(20, 1, 40, 30))),
        Entity("Oslo", "LOC"),
    )
    assert (example.image.width, example.image.height, example.image.standin) == (40, 30, None)
    assert result.counts["kept"] == 1
    assert load_image(example.image).size == (40, 30)


def _break(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    post = _other("17_06_8.png")
    change(post)
    return post


def _set(row: int, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda post: post["gt_entities"][row].update(fields)


BROKEN = {
    "a box outside the image": (_set(0, region_box=[0, 0, 41, 30]), "gt_entities[0].region_box", "outside"),
    "a box with a negative corner": (_set(0, region_box=[-1, 0, 5, 5]), "gt_entities[0].region_box", "outside"),
    "a box without area": (_set(0, region_box=[5, 0, 5, 9]), "gt_entities[0].region_box", "no area"),
    "a box of text": (_set(0, region_box=["0", 0, 5, 5]), "gt_entities[0].region_box", "whole pixels"),
    "a box that is null": (_set(0, region_box=None), "gt_entities[0].region_box", "whole pixels"),
    "a phrase the span does not give": (_set(0, phrase="Ann  Lee"), "gt_entities[0].phrase", "read 'Ann Lee'"),
    "a span past the end": (_set(1, end=9), "gt_entities[1].start", "no span of 9 tokens"),
    "a type of the other task": (_set(1, entity_type="city"), "gt_entities[1].entity_type", "data.task=fmnerg"),
    "no type": (lambda post: post["gt_entities"][0].pop("entity_type"), "gt_entities[0].entity_type", "missing"),
    "a repeated row": (_set(2, region_box=[0, 0, 10, 30]), "gt_entities[2]", "repeats"),
    "visible and not visible": (_set(2, region_box=[]), "gt_entities[2]", "without"),
    "a span with two types": (_set(2, entity_type="ORG"), "gt_entities[2]", "both PER and ORG"),
    "an unknown difficulty": (_set(0, difficulty="hard"), "gt_entities[0].difficulty", "ambiguous"),
    "seen that is no flag": (_set(0, seen="yes"), "gt_entities[0].seen", "true or false"),
    "gold that is no list": (lambda post: post.update(gt_entities="[]"), "gt_entities", "not a list"),
    "no gold": (lambda post: post.pop("gt_entities"), "gt_entities", "missing"),
    "a token with a blank": (lambda post: post["tokens"].append("a b"), "tokens[9]", "without blanks"),
    "half a surrogate pair": (lambda post: post["tokens"].append("\ud83d"), "tokens[9]", "surrogate"),
    "no tokens": (lambda post: post.update(tokens=[]), "tokens", "1 to"),
    "an id that climbs": (lambda post: post.update(img_id="../secret.png"), "img_id", "plain file name"),
    "an absolute id": (lambda post: post.update(img_id="/etc/passwd"), "img_id", "plain file name"),
    "an image size of nothing": (lambda post: post.update(image_size=[0, 30]), "image_size", "no image size"),
    "another image size": (lambda post: post.update(image_size=[40, 31]), "image_size", "40 x 30"),
    "an id that was there": (lambda post: post.update(img_id="17_06_7.png"), "img_id", "line 1 already"),
    "a picture that is missing": (lambda post: post.update(img_id="17_06_9.png"), "img_id", "data.images=standin"),
}


@pytest.mark.parametrize(("change", "field", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_stops_the_load_or_is_skipped_and_listed(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], field: str, says: str
) -> None:
    _draw(_write(tmp_path, [POST, _break(change), _other("O_1.png")]), "17_06_7.png", "17_06_8.png", "O_1.png")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path, "train")
    assert f"train.jsonl:2: {field}: " in str(caught.value)
    assert says in str(caught.value)

    result = load_split(tmp_path, "train", on_bad="skip")
    assert [example.id for example in result.examples] == ["17_06_7", "O_1"]
    assert [(problem.line, problem.field) for problem in result.problems] == [(2, field)]
    assert (result.counts["kept"], result.counts["skipped"], result.counts["posts"]) == (2, 1, 3)


@pytest.mark.parametrize(("form", "says"), [("JPEG", "truncated"), ("PNG", "truncated|broken")])
def test_a_picture_cut_off_behind_its_header_is_found_at_load(tmp_path: Path, form: str, says: str) -> None:
    """Found in the middle of a run instead, it would stop the run, and stop it again whenever that is resumed."""
    _draw(_write(tmp_path, [POST, _other("O_1.png"), _other("O_2.png")]), "17_06_7.png", "O_2.png")
    data = io.BytesIO()
    Image.effect_noise((40, 30), 80).save(data, form)
    (tmp_path / "images" / "O_1.png").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    with pytest.raises(DataError, match=rf"train\.jsonl:2: img_id: .*O_1\.png: .*({says})"):
        load_split(tmp_path, "train")
    result = load_split(tmp_path, "train", on_bad="skip")
    assert [example.id for example in result.examples] == ["17_06_7", "O_2"]
    assert [(problem.line, problem.field) for problem in result.problems] == [(2, "img_id")]


def test_pictures_no_model_can_be_shown_are_found_at_load(tmp_path: Path) -> None:
    thin = {**POST, "img_id": "O_1.png", "image_size": [20, 3000], "gt_entities": []}
    _draw(_write(tmp_path, [POST, thin]), "17_06_7.png")
    Image.new("L", (20, 3000)).save(tmp_path / "images" / "O_1.png")
    with pytest.raises(DataError, match=r"train\.jsonl:2: img_id: .*20 x 3000 .*more than 100 times"):
        load_split(tmp_path, "train")
    with pytest.raises(DataError, match=r"train\.jsonl:2: image_size: 20 x 3000 .*more than 100 times"):
        load_split(tmp_path, "train", images="standin")
    for images in ("files", "standin"):
        assert load_split(tmp_path, "train", images=images, on_bad="skip").counts["skipped"] == 1


def test_posts_stay_in_order_however_many_pictures_are_looked_at_at_once(tmp_path: Path) -> None:
    names = [f"O_{number}.png" for number in range(200)]
    missing = {names[number] for number in (0, 63, 64, 65, 130)}
    _draw(_write(tmp_path, [_other(name) for name in names]), *(name for name in names if name not in missing))
    result = load_split(tmp_path, "train", on_bad="skip", max_examples=140)
    expected = [name.removesuffix(".png") for name in names if name not in missing][:140]
    assert [example.id for example in result.examples] == expected
    assert [problem.line for problem in result.problems] == [1, 64, 65, 66, 131]
    assert (result.counts["beyond_max"], result.counts["posts"]) == (55, 200)


def test_a_box_is_checked_against_the_picture_where_no_size_is_recorded(tmp_path: Path) -> None:
    _draw(_write(tmp_path, [{**POST, "image_size": None}]), "17_06_7.png", size=(40, 20))
    with pytest.raises(DataError, match=r"train.jsonl:1: region_box of 'Ann Lee'.*40 x 20"):
        load_split(tmp_path, "train")


def test_stand_ins_have_the_recorded_size_or_one_that_holds_every_box(tmp_path: Path) -> None:
    unknown = _other("O_2.png")
    del unknown["image_size"]
    tall = copy.deepcopy(unknown) | {"img_id": "O_3.png"}
    tall["gt_entities"][0]["region_box"] = [0, 0, 10, 900]
    result = load_split(_write(tmp_path, [POST, unknown, tall]), "train", images="standin")
    sizes = [(example.image.width, example.image.height) for example in result.examples]
    assert sizes == [(40, 30), (640, 480), (640, 900)]
    assert result.examples[0].image.standin == ((Box(0, 0, 10, 30), "Ann Lee"), (Box(20, 1, 40, 30), "Ann Lee"))
    assert (result.counts["without_size"], result.counts["boxes_unchecked"]) == (2, 4)


def test_difficulty_and_seen_come_along(tmp_path: Path) -> None:
    post = copy.deepcopy(POST)
    post["gt_entities"] = [{**post["gt_entities"][1], "difficulty": "unknown", "seen": False}]
    (example,) = load_split(_write(tmp_path, [post]), "train", images="standin").examples
    assert (example.entities[0].difficulty, example.entities[0].seen) == (Difficulty.UNKNOWN, False)


def test_fine_types_get_their_coarse_one_and_may_not_contradict_it(tmp_path: Path) -> None:
    post = copy.deepcopy(POST)
    post["gt_entities"] = [{**POST["gt_entities"][1], "entity_type": "city"}]
    (example,) = load_split(_write(tmp_path, [post]), "train", task="fmnerg", images="standin").examples
    assert (example.entities[0].type, example.entities[0].coarse_type) == ("city", "location")
    post["gt_entities"][0]["entity_coarse_type"] = "person"
    with pytest.raises(DataError, match=r"entity_coarse_type.*'location'"):
        load_split(_write(tmp_path, [post]), "train", task="fmnerg", images="standin")


def test_subsets_go_by_the_form_of_the_id(tmp_path: Path) -> None:
    _write(tmp_path, [_other(f"{name}.jpg") for name in ("123", "16_05_01_1", "17_06_2", "O_9", "mini-1")])
    ids = {
        subset: [example.id for example in load_split(tmp_path, "train", subset=subset, images="standin").examples]
        for subset in ("all", "twitter15", "twitter17")
    }
    assert ids["twitter15"] == ["123"]
    assert ids["twitter17"] == ["16_05_01_1", "17_06_2", "O_9"]
    assert len(ids["all"]) == 5
    _write(tmp_path, [_other("mini-1.png")])
    with pytest.raises(DataError, match=r"1 posts read, 1 outside data\.subset=twitter17"):
        load_split(tmp_path, "train", subset="twitter17", images="standin")


def test_max_examples_keeps_the_first_but_checks_all(tmp_path: Path) -> None:
    rows = [POST, _other("O_1.png"), _other("O_2.png")]
    _draw(_write(tmp_path, rows), "17_06_7.png")  # the others' pictures are not needed
    result = load_split(tmp_path, "train", max_examples=1)
    assert ([example.id for example in result.examples], result.counts["beyond_max"]) == (["17_06_7"], 2)
    rows[2]["tokens"] = []
    with pytest.raises(DataError, match=r"train\.jsonl:3: tokens"):
        load_split(_write(tmp_path, rows), "train", max_examples=1)


def test_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "gold").mkdir()
    _write(tmp_path / "gold", [POST])
    with pytest.raises(DataError, match=r"gold/images: no such folder.*data\.image_dir"):
        load_split(tmp_path / "gold", "train", on_bad="skip")
    _draw(tmp_path, "17_06_7.png")
    assert load_split(tmp_path / "gold", "train", image_dir=tmp_path / "images").counts["kept"] == 1


def test_the_folder_must_hold_exactly_one_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev\.jsonl.*found nothing.*has: nothing"):
        load_split(tmp_path, "dev")
    _write(tmp_path, [POST], "dev.json")
    _write(tmp_path, [POST], "dev.jsonl")
    with pytest.raises(DataError, match=r"dev\.jsonl and dev\.json; keep one"):
        load_split(tmp_path, "dev")
    with pytest.raises(DataError, match="no such folder"):
        load_split(tmp_path / "nowhere", "dev")
    with pytest.raises(DataError, match="'validation' is not one of train, dev, test"):
        load_split(tmp_path, "validation")


@pytest.mark.parametrize(
    ("option", "value"), [("task", "ner"), ("subset", "2015"), ("images", "none"), ("on_bad", "ignore")]
)
def test_unknown_options_are_named(tmp_path: Path, option: str, value: str) -> None:
    options: dict[str, Any] = {"images": "standin", option: value}
    with pytest.raises(DataError, match=f"data.{option}='{value}' is not one of"):
        load_split(_write(tmp_path, [POST]), "train", **options)
