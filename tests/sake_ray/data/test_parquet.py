"""The release's RL parquet gives posts, pictures and entities; mentions are told apart without spans."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from sake_ray.data.images import load_image
from sake_ray.data.loading import load_split
from sake_ray.data.problems import DataError
from sake_ray.types import Box, Entity

GOLD: list[dict[str, Any]] = [
    {"entity": "Ann Lee", "type": "PER", "bbox": [0, 0, 10, 30]},
    {"entity": "Ann Lee", "type": "PER", "bbox": [20, 1, 40, 30]},
    {"entity": "Oslo", "type": "LOC", "bbox": []},
]


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def _row(**changes: Any) -> dict[str, Any]:
    return {
        "data_source": "twitter_gmner",
        "prompt": [{"role": "user", "content": "<image>\nAnn Lee in Oslo with Ann Lee"}],
        "images": [{"path": "/somebody/elses/disk/17_06_7.jpg", "bytes": _jpeg()}],
        "reward_model": {"style": "rule", "ground_truth": json.dumps(GOLD)},
        "extra_info": {"index": 3},
        **changes,
    }


def _write(folder: Path, *rows: dict[str, Any]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / "train.parquet")
    return folder


def test_a_row_becomes_an_example(tmp_path: Path) -> None:
    (example,) = load_split(_write(tmp_path, _row()), "train").examples
    assert (example.id, example.text) == ("17_06_7", "Ann Lee in Oslo with Ann Lee")
    assert example.entities == (
        Entity("Ann Lee", "PER", (Box(0, 0, 10, 30), Box(20, 1, 40, 30))),
        Entity("Oslo", "LOC"),
    )
    assert load_image(example.image).size == (40, 30)


@pytest.mark.parametrize("wrap", [lambda text: text.decode(), lambda text: text], ids=["text", "binary"])
def test_base64_pictures_are_decoded(tmp_path: Path, wrap: Any) -> None:
    row = _row(images=[{"path": "17_06_7.jpg", "bytes": wrap(base64.b64encode(_jpeg()))}])
    (example,) = load_split(_write(tmp_path, row), "train").examples
    assert example.image.data == _jpeg()


def test_without_bytes_the_picture_is_looked_for_by_name_in_the_picture_folder(tmp_path: Path) -> None:
    _write(tmp_path, _row(images=[{"path": "/somebody/elses/disk/17_06_7.jpg", "bytes": None}]))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "17_06_7.jpg").write_bytes(_jpeg())
    (example,) = load_split(tmp_path, "train").examples
    assert example.image.path == str(tmp_path / "images" / "17_06_7.jpg")


def test_a_repeated_row_is_another_mention(tmp_path: Path) -> None:
    rows = [*GOLD[:2], *GOLD[:2], GOLD[2]]
    row = _row(reward_model={"ground_truth": json.dumps(rows)})
    (example,) = load_split(_write(tmp_path, row), "train").examples
    ann = Entity("Ann Lee", "PER", (Box(0, 0, 10, 30), Box(20, 1, 40, 30)))
    assert example.entities == (ann, ann, Entity("Oslo", "LOC"))


def test_a_mention_that_is_visible_is_another_than_one_that_is_not(tmp_path: Path) -> None:
    row = _row(reward_model={"ground_truth": json.dumps([GOLD[0], {**GOLD[0], "bbox": []}])})
    (example,) = load_split(_write(tmp_path, row), "train").examples
    assert example.entities == (Entity("Ann Lee", "PER", (Box(0, 0, 10, 30),)), Entity("Ann Lee", "PER"))


def test_an_instruction_before_the_image_mark_is_no_part_of_the_post(tmp_path: Path) -> None:
    row = _row(prompt=[{"role": "user", "content": "Find the entities. <image> Ann Lee in Oslo"}])
    (example,) = load_split(_write(tmp_path, row), "train").examples
    assert example.text == "Ann Lee in Oslo"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reward_model": {"ground_truth": "[{'entity'"}}, "ground_truth: broken JSON"),
        ({"reward_model": {"ground_truth": '{"entity": "Oslo"}'}}, "ground_truth: is not a JSON list"),
        (
            {"reward_model": {"ground_truth": '[{"entity": "Rome", "type": "LOC", "bbox": []}]'}},
            "'Rome' does not occur",
        ),
        (
            {"reward_model": {"ground_truth": '[{"entity": "Oslo", "type": "TOWN", "bbox": []}]'}},
            "'TOWN' is not one of",
        ),
        (
            {"reward_model": {"ground_truth": '[{"entity": "Oslo", "type": "LOC", "bbox": [0, 0, 41, 9]}]'}},
            "region_box of 'Oslo'.*outside the image",
        ),
        ({"reward_model": {"ground_truth": json.dumps([GOLD[2], GOLD[2]])}}, "marks 2 mentions of 'Oslo'"),
        ({"prompt": [{"role": "system", "content": "hello"}]}, "prompt: 0 user messages"),
        ({"images": []}, "images: is not a list with one"),
        ({"images": [{"path": "a/..", "bytes": _jpeg()}]}, "images.0..path: '..' is not a plain file name"),
        ({"images": [{"path": "17_06_7.jpg", "bytes": b"neither"}]}, "neither a picture nor base64"),
        ({"images": [{"path": "17_06_7.jpg", "bytes": _jpeg()[:20]}]}, "img_id: .*17_06_7.jpg"),
    ],
)
def test_bad_rows_are_named_by_their_number(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    good = _row(images=[{"path": "O_1.jpg", "bytes": _jpeg()}])
    # Rows of different shapes: arrow would otherwise make the columns' types agree.
    with pytest.raises(DataError, match=r"train\.parquet:1: .*" + says):
        load_split(_write(tmp_path, _row(**change)), "train")
    if "images" not in change or change["images"]:
        result = load_split(_write(tmp_path, _row(**change), good), "train", on_bad="skip")
        assert [example.id for example in result.examples] == ["O_1"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a readable parquet"):
        load_split(tmp_path, "train")
    parquet.write_table(pyarrow.table({"prompt": ["x"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no column images, reward_model; it has prompt"):
        load_split(tmp_path, "train")
