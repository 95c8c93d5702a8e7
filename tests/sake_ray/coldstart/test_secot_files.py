"""The SeCoT data set: what is written is read back, others can read it too, and what is broken is named.

What would go unseen otherwise: training on other pictures than were searched, a data set that `datasets` does not load
or whose `<image>` marks do not meet their pictures, a damaged row that is trained on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from sake_ray.coldstart.secot_files import MESSAGES, PARQUET, DatasetOptions, read_demonstrations, write_dataset
from sake_ray.coldstart.teaching import Demonstration, Need, TaughtTurn
from sake_ray.data.images import ImageError, load_image
from sake_ray.data.problems import DataError
from sake_ray.prompts import load_prompts
from sake_ray.types import Box, Difficulty, Entity, Example, ImageRef, Observation, QueryResult, SearchKind
from tests.sake_ray.coldstart.posts import picture

PROMPTS = load_prompts("fmnerg", "compact")
ENTITIES = (
    Entity("Ada", "actor", (Box(1, 2, 30, 40), Box(50, 2, 80, 40)), "person", Difficulty.UNKNOWN),
    Entity("Oslo", "city", (), "location", Difficulty.KNOWN),
)
LOOKS = TaughtTurn("what does she look like ? an <image> would help")
ANSWER = TaughtTurn("so it is")


def demonstration(post: ImageRef, found: Sequence[ImageRef], name: str = "p1") -> Demonstration:
    """Two searches and an answer; two pictures of one query, one of another, none of a third."""
    looks = Observation(
        SearchKind.IMAGE,
        (
            QueryResult("Ada", "success", "", tuple(found)),
            QueryResult("Adam", "success", "", (found[0],)),
            QueryResult("Eve", "no_result"),
        ),
    )
    tells = Observation(SearchKind.TEXT, (QueryResult("Ada", "success", "an actor"), QueryResult("Eve", "failed")))
    turns = (replace(LOOKS, observation=looks), TaughtTurn("who is she ?", tells), ANSWER)
    example = Example(name, "Ada <image> in Oslo", post, ENTITIES)
    return Demonstration(example, (Need.BOTH, Need.NONE), turns, "scripted", 2)


def write(folder: Path, *taught: Demonstration, embedded: bool = False) -> Path:
    write_dataset(folder, taught, PROMPTS, DatasetOptions(embedded, 2_000), "How it was made.")
    return folder


@pytest.fixture
def taught(tmp_path: Path) -> Demonstration:
    found = [picture(tmp_path / f"found{at}.png", (40, 30 + at), "blue") for at in range(2)]
    return demonstration(picture(tmp_path / "post.png"), found)


def pictures(taught: Demonstration) -> list[ImageRef]:
    found = [result.images for turn in taught.turns if turn.observation for result in turn.observation.results]
    return [taught.example.image, *(ref for refs in found for ref in refs)]


def without_pictures(taught: Demonstration) -> Demonstration:
    """The demonstration with numbers in place of its pictures: equal ones have equal numbers."""
    order = list(dict.fromkeys(pictures(taught)))

    def number(ref: ImageRef) -> ImageRef:
        return ImageRef(str(order.index(ref)), ref.width, ref.height)

    turns = []
    for turn in taught.turns:
        observation = turn.observation
        if observation is not None:
            results = [replace(r, images=tuple(number(ref) for ref in r.images)) for r in observation.results]
            observation = replace(observation, results=tuple(results))
        turns.append(replace(turn, observation=observation))
    return replace(taught, example=replace(taught.example, image=number(taught.example.image)), turns=tuple(turns))


# --- round trips -----------------------------------------------------------------------------------------


def test_by_reference_everything_comes_back_as_it_was(tmp_path: Path, taught: Demonstration) -> None:
    many = [replace(taught, example=replace(taught.example, id=f"p{number}"), attempts=number) for number in range(130)]
    assert read_demonstrations(write(tmp_path / "set", *many)) == many


def test_embedded_pictures_move_with_the_data_set(tmp_path: Path, taught: Demonstration) -> None:
    folder = write(tmp_path / "set", taught, embedded=True)
    originals = [load_image(ref).tobytes() for ref in pictures(taught)]
    for path in tmp_path.glob("*.png"):
        path.unlink()
    (found,) = read_demonstrations(folder)
    assert without_pictures(found) == without_pictures(taught)
    assert [load_image(ref).tobytes() for ref in pictures(found)] == originals


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("kind", ["standin", "bytes"])
def test_a_post_whose_picture_is_no_file(tmp_path: Path, taught: Demonstration, kind: str, embedded: bool) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (84, 84), "green").save(buffer, "JPEG")
    if kind == "standin":
        ref = ImageRef("none.jpg", 84, 84, standin=((Box(1, 2, 30, 40), "Ada"),))
    else:
        ref = ImageRef("row 3", 84, 84, data=buffer.getvalue())
    taught = replace(taught, example=replace(taught.example, image=ref))
    folder = write(tmp_path / "set", taught, embedded=embedded)
    (found,) = read_demonstrations(folder)
    assert without_pictures(found) == without_pictures(taught)
    assert load_image(found.example.image).tobytes() == load_image(ref).tobytes()
    (line,) = (folder / MESSAGES).read_text().splitlines()
    assert (
        load_image(ImageRef(str(folder / json.loads(line)["images"][0]), 84, 84)).tobytes() == load_image(ref).tobytes()
    )


def test_what_the_policy_was_not_shown_is_left_out(tmp_path: Path, taught: Demonstration) -> None:
    """Pictures of a text result, and of a result without success; half a surrogate pair, which parquet cannot hold."""
    extra = picture(tmp_path / "extra.png")
    text = Observation(SearchKind.TEXT, (QueryResult("Ada", "success", "an \ud83dactor", (extra,)),))
    look = Observation(SearchKind.IMAGE, (QueryResult("Ada", "no_result", "", (extra, taught.example.image)),))
    turns = (TaughtTurn("?", text), TaughtTurn("?", look), ANSWER)
    (found,) = read_demonstrations(write(tmp_path / "set", replace(taught, turns=turns)))
    assert [turn.observation for turn in found.turns] == [
        Observation(SearchKind.TEXT, (QueryResult("Ada", "success", "an actor"),)),
        Observation(SearchKind.IMAGE, (QueryResult("Ada", "no_result"),)),
        None,
    ]


def test_a_second_writing_replaces_the_first(tmp_path: Path, taught: Demonstration) -> None:
    folder = write(tmp_path / "set", taught, replace(taught, example=replace(taught.example, id="p2")))
    assert len(read_demonstrations(write(folder, taught))) == 1
    assert len((folder / MESSAGES).read_text().splitlines()) == 1
    assert not list(folder.rglob("*.unfinished"))


# --- as others read it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("embedded", [False, True])
def test_the_library_datasets_loads_it_and_decodes_its_pictures(
    tmp_path: Path, taught: Demonstration, embedded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    folder = write(tmp_path / "set", taught, embedded=embedded)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    row = loaded[0]
    assert (row["id"], row["text"], row["teacher"], row["attempts"]) == ("p1", "Ada <image> in Oslo", "scripted", 2)
    assert row["entities"][0]["boxes"] == [[1, 2, 30, 40], [50, 2, 80, 40]]
    assert [list(image.size) for image in row["images"]] == row["image_sizes"]
    assert [image.convert("RGB").getpixel((1, 1)) for image in row["images"][:2]] == [(255, 0, 0), (0, 0, 255)]
    assert sum(message["content"].count("<image>") for message in row["messages"]) == len(row["images"])


def test_messages_have_one_mark_for_each_picture_in_order(tmp_path: Path, taught: Demonstration) -> None:
    """Words of a post or a teacher that look like a mark are none."""
    folder = write(tmp_path / "set", taught)
    (line,) = (folder / MESSAGES).read_text().splitlines()
    row = json.loads(line)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 3
    post, found0, found1 = (taught.example.image.path, *(ref.path for ref in pictures(taught)[1:3]))
    assert row["images"] == [post, found0, found1, found0, post, post]
    assert [message["content"].count("<image>") for message in row["messages"]] == [1, 0, 4, 0, 1, 0]
    assert all(Path(path).is_file() for path in row["images"])
    assert "an actor" in row["messages"][4]["content"]


def test_the_card_has_the_report(tmp_path: Path, taught: Demonstration) -> None:
    card = (write(tmp_path / "set", taught) / "README.md").read_text()
    assert card.startswith("---\n")
    assert "How it was made." in card
    assert "1 multi-turn trajectories" in card


# --- what is broken --------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedded", [False, True])
def test_a_picture_that_is_gone_or_another_is_not_written(
    tmp_path: Path, taught: Demonstration, embedded: bool
) -> None:
    lost = replace(taught, example=replace(taught.example, image=ImageRef(str(tmp_path / "lost.png"), 84, 84)))
    with pytest.raises(ImageError, match=r"lost\.png"):
        write(tmp_path / "set", lost, embedded=embedded)
    other = replace(taught, example=replace(taught.example, image=replace(taught.example.image, width=85)))
    with pytest.raises(ImageError, match=r"post\.png: 84 x 84 pixels, but its reference says 85 x 84"):
        write(tmp_path / "set", other, embedded=embedded)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The data set with a row changed behind a good one."""
    rows = parquet.read_table(folder / PARQUET).to_pylist()
    change(rows[1])
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / PARQUET)
    return folder


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(row: Any) -> None:
        for key in path[:-1]:
            row = row[key]
        row[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("id", value=None), "id: None is not a string"),
        (put("entities", value=None), "entities: None is not a list"),
        (put("entities", 0, "need", value="much"), r"entities\[0\]: has no known need .*'much'"),
        (put("entities", 0, "difficulty", value="hard"), r"entities\[0\]: has no known need or difficulty .*'hard'"),
        (put("entities", 0, "boxes", value=[[1, 2, 85, 40]]), r"entities\[0\].boxes: box .* lies outside"),
        (put("entities", 0, "boxes", value=[[1, 2, 3]]), r"entities\[0\].boxes: \[1, 2, 3\] is neither"),
        (put("turns", value=[]), "turns: is empty"),
        (put("turns", 0, "text", value=None), r"turns\[0\].text: None is not a string"),
        (put("turns", 0, "kind", value="smell"), r"turns\[0\].kind: 'smell' is no kind of search"),
        (put("turns", 0, "kind", value=None), r"turns\[0\].kind: None is not a string"),
        (put("turns", 0, "results", 0, "images", value=[9]), r"turns\[0\].results\[0\].images: \[9\] are not indices"),
        (put("turns", 0, "results", 0, "images", value=[-1]), r"turns.*results\[0\].images: \[-1\] are not"),
        (put("turns", 0, "results", 0, "status", value="maybe"), r"turns.*results\[0\].status: 'maybe' is not one of"),
        (put("images", value=[]), r"image_sizes: 6 sizes for 0 images"),
        (put("image_sizes", 0, value=[84]), r"image_sizes\[0\]: \[84\] is not \[width, height\]"),
        (put("image_sizes", 1, value=[40, 99]), r"images\[1\]: is 40 x 30 pixels, image_sizes says 40 x 99"),
        (put("images", 0, value={"bytes": None, "path": "post.png"}), r"images\[0\]: has neither bytes nor"),
        (put("images", 0, value={"bytes": None, "path": "/a/../b.png"}), r"images\[0\]: has neither bytes nor"),
        (put("images", 0, value={"bytes": None, "path": "/no/where.png"}), r"images\[0\]: /no/where.png does not"),
        (put("images", 0, value={"bytes": b"no picture", "path": None}), r"images\[0\]: .*cannot identify"),
    ],
)  # fmt: skip
def test_a_broken_row_names_file_row_and_field(
    tmp_path: Path, taught: Demonstration, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = rewritten(write(tmp_path / "set", taught, taught), change)
    with pytest.raises(DataError, match=rf"train\.parquet: row 1: {message}"):
        read_demonstrations(folder)


def test_other_columns_are_no_trajectories(tmp_path: Path) -> None:
    for number, row in enumerate(
        ({"prompt": "x"}, {"id": "p", "text": "t", "images": ["a.png"], "image_sizes": [[1, 2]], "entities": []})
    ):
        path = tmp_path / str(number) / PARQUET
        path.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist([row]), path)
        with pytest.raises(DataError, match=r"train\.parquet: row 0: (id|images\[0\])"):
            read_demonstrations(tmp_path / str(number))


def test_a_damaged_parquet_never_passes_for_a_whole_one(tmp_path: Path, taught: Demonstration) -> None:
    """Bytes flipped anywhere, or cut off: refused with a sentence, or read as it was; never another error."""
    path = write(tmp_path / "set", taught) / PARQUET
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        refused += not is_read(tmp_path / "set")
        path.write_bytes(whole[:at])
        assert not is_read(tmp_path / "set")
    assert refused > 20


def is_read(folder: Path) -> bool:
    try:
        read_demonstrations(folder)
    except DataError as error:
        assert str(folder) in str(error)
        return False
    return True


def test_a_folder_without_a_data_set_says_which_one_is_meant(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data/train\.parquet; give the folder that launch/build_secot"):
        read_demonstrations(tmp_path)
