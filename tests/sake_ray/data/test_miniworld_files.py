"""A MiniWorld on disk: it loads back as what was drawn, the same bytes every time, complete or absent.

What would go unseen otherwise: gold that the ordinary loader reads otherwise than it was drawn, half a world that
later runs take for a whole one, known entities among the "never seen" of the evaluation.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sake_ray.data import miniworld_files
from sake_ray.data.images import load_image
from sake_ray.data.loading import load_split
from sake_ray.data.miniworld import SIDE, BoardPost, Mark, board_picture, cell_box
from sake_ray.data.miniworld_files import WorldSpec, ensure_world, world_posts
from sake_ray.types import Difficulty, Entity

SPEC = WorldSpec(seed=3, known=20, long_tail=10, unseen=8, train_posts=5, dev_posts=12, test_posts=6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_world(tmp_path_factory.mktemp("cache") / "world", SPEC)


def gold(post: BoardPost) -> tuple[Entity, ...]:
    return tuple(
        Entity(
            entity.name,
            entity.type,
            () if cell is None else (cell_box(cell),),
            difficulty=Difficulty.KNOWN if entity.mark is Mark.KNOWN else Difficulty.UNKNOWN,
            seen=entity.mark is not Mark.UNSEEN,
        )
        for entity, cell in post.entities
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_loads_back_as_it_was_drawn(world: Path, split: str) -> None:
    posts = world_posts(SPEC)[1][split]
    loaded = load_split(world, split, on_bad="skip")
    assert not loaded.problems
    assert [(e.id, e.text, e.entities) for e in loaded.examples] == [(p.id, p.text, gold(p)) for p in posts]
    for example, post in zip(loaded.examples, posts, strict=True):
        assert (example.image.width, example.image.height) == (SIDE, SIDE)
        assert load_image(example.image).tobytes() == board_picture(post.board).tobytes()


def test_a_known_entity_that_no_training_post_mentions_is_not_never_seen(world: Path) -> None:
    """The evaluator's never-seen slice is `seen is False`: the entities marked unseen, and no others."""
    trained = {entity.text for example in load_split(world, "train").examples for entity in example.entities}
    held_out = [entity for example in load_split(world, "dev").examples for entity in example.entities]
    absent = [e for e in held_out if e.difficulty is Difficulty.KNOWN and e.text not in trained]
    assert absent, "the world must be small enough for this to happen"
    assert all(entity.seen for entity in absent)
    unseen = {entity.name for entity in world_posts(SPEC)[0].unseen}
    assert {entity.text for entity in held_out if entity.seen is False} == {e.text for e in held_out} & unseen


def test_entities_are_listed_with_their_marks_and_each_has_an_article_with_a_picture(world: Path) -> None:
    entities = world_posts(SPEC)[0].entities
    rows = [json.loads(line) for line in (world / "entities.jsonl").read_text().splitlines()]
    assert rows == [dataclasses.asdict(entity) for entity in entities]
    articles = [json.loads(line) for line in (world / "encyclopaedia.jsonl").read_text().splitlines()]
    assert [(row["title"], row["text"]) for row in articles] == [(e.name, e.article) for e in entities]
    assert all((world / row["picture"]).is_file() for row in articles)


def test_the_same_settings_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    assert contents(ensure_world(tmp_path / "again", SPEC)) == contents(world)


def test_a_world_that_is_there_is_left_alone_and_another_one_is_refused(tmp_path: Path) -> None:
    folder = ensure_world(tmp_path / "world", SPEC)
    (folder / "index").write_text("built by a search tool")
    before = contents(folder)
    assert ensure_world(folder, SPEC) == folder
    with pytest.raises(ValueError, match="another MiniWorld"):
        ensure_world(folder, dataclasses.replace(SPEC, seed=4))
    assert contents(folder) == before


def test_a_folder_with_anything_else_in_it_is_refused_and_an_empty_one_is_filled(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("chapter one")
    with pytest.raises(ValueError, match="holds no MiniWorld"):
        ensure_world(tmp_path / "mine", SPEC)
    assert contents(tmp_path) == {"mine/thesis.txt": b"chapter one"}
    (tmp_path / "empty").mkdir()
    assert (ensure_world(tmp_path / "empty", SPEC) / "train.json").is_file()


def test_a_write_that_breaks_off_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(miniworld_files, "_write_encyclopaedia", full_disk)
    with pytest.raises(OSError, match="no space"):
        ensure_world(tmp_path / "world", SPEC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [3, 4])
def test_a_world_that_another_process_finished_first_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Two jobs that start together share the cache; the later writer must neither fail nor mix with another world."""
    folder, write = tmp_path / "world", miniworld_files._write
    quicker = dataclasses.replace(SPEC, seed=seed)

    def overtaken(scratch: Path, spec: WorldSpec) -> None:
        monkeypatch.setattr(miniworld_files, "_write", write)
        ensure_world(folder, quicker)
        write(scratch, spec)

    monkeypatch.setattr(miniworld_files, "_write", overtaken)
    if quicker == SPEC:
        assert ensure_world(folder, SPEC) == folder
    else:
        with pytest.raises(ValueError, match="another MiniWorld"):
            ensure_world(folder, SPEC)
    assert list(tmp_path.iterdir()) == [folder]
    assert json.loads((folder / "world.json").read_text())["seed"] == seed
