"""Writes MiniWorld to disk in the released gold's own layout, so that everything treats it like Twitter-17.

Knows nothing of search indexes (`encyclopaedia.jsonl` lists the articles; who runs a search tool builds
its index from it) or of prompts. Always holds: a folder is complete or absent (written beside, then
renamed), and the same settings give the same bytes; `seen` is false for the entities marked unseen and
for no others, so a known entity that no training post happens to mention is no never-seen one.

Layout: `{train,dev,test}.json` (gold rows plus `difficulty` and `seen` for each entity), `images/`,
`encyclopaedia.jsonl` (`title`, `text`, `picture`), `pictures/`, `entities.jsonl` (name, type, look, mark).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sake_ray.data.miniworld import (
    SIDE,
    BoardPost,
    Mark,
    MiniWorld,
    WorldEntity,
    board_picture,
    cell_box,
    look_picture,
    make_posts,
    make_world,
)
from sake_ray.types import Difficulty

COMPLETE = "world.json"


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """What a world on disk is made from."""

    seed: int
    known: int
    long_tail: int
    unseen: int
    train_posts: int
    dev_posts: int
    test_posts: int


def ensure_world(folder: Path, spec: WorldSpec) -> Path:
    """Write the world into `folder` unless it is there already, and return the folder.

    Several processes may do so at once: the first one's folder stays, and all of them wrote the same.

    Raises:
        ValueError: the folder holds another world, or something else.
    """
    if _holds_world(folder, spec):
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no MiniWorld; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(scratch, spec)
        scratch.chmod(0o755)
        try:
            os.replace(scratch, folder)  # onto an empty folder, or none
        except OSError:
            if not _holds_world(folder, spec):
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _holds_world(folder: Path, spec: WorldSpec) -> bool:
    """Whether the folder holds this very world; False where it holds none."""
    marker = folder / COMPLETE
    if not marker.exists():
        return False
    found = json.loads(marker.read_text())
    if found != asdict(spec):
        raise ValueError(f"{folder} holds another MiniWorld ({found}); choose another folder or remove it")
    return True


def world_posts(spec: WorldSpec) -> tuple[MiniWorld, dict[str, list[BoardPost]]]:
    """The world and its posts by split; dev and test draw on separate halves of the unseen entities."""
    world = make_world(spec.seed, known=spec.known, long_tail=spec.long_tail, unseen=spec.unseen)
    half = (len(world.unseen) + 1) // 2
    posts = {
        "train": make_posts(world, spec.train_posts, 0, prefix="train", pool=world.long_tail),
        "dev": make_posts(world, spec.dev_posts, 0, prefix="dev", pool=world.unseen[half:] or world.unseen),
        "test": make_posts(world, spec.test_posts, 0, prefix="test", pool=world.unseen[:half]),
    }
    return world, posts


def gold_row(post: BoardPost) -> dict[str, Any]:
    """A post as a row of the released gold."""
    tokens = post.text.split(" ")
    entities = []
    for entity, cell in post.entities:
        index = tokens.index(entity.name)
        entities.append(
            {
                "start": index,
                "end": index,
                "phrase": entity.name,
                "entity_type": entity.type,
                "region_box": [] if cell is None else cell_box(cell).as_list(),
                "difficulty": str(Difficulty.KNOWN if entity.mark is Mark.KNOWN else Difficulty.UNKNOWN),
                "seen": entity.mark is not Mark.UNSEEN,
            }
        )
    return {"tokens": tokens, "img_id": f"{post.id}.png", "image_size": [SIDE, SIDE], "gt_entities": entities}


def _write(folder: Path, spec: WorldSpec) -> None:
    world, splits = world_posts(spec)
    (folder / "images").mkdir()
    for split, posts in splits.items():
        rows = [gold_row(post) for post in posts]
        (folder / f"{split}.json").write_text(json.dumps(rows, indent=0) + "\n")
        for post in posts:
            board_picture(post.board).save(folder / "images" / f"{post.id}.png")
    _write_encyclopaedia(folder, world.entities)
    (folder / COMPLETE).write_text(json.dumps(asdict(spec)) + "\n")


def _write_encyclopaedia(folder: Path, entities: Sequence[WorldEntity]) -> None:
    (folder / "pictures").mkdir()
    for look in sorted({entity.look for entity in entities}):
        look_picture(look).save(folder / "pictures" / f"{look.replace(' ', '_')}.png")
    articles = [
        {"title": entity.name, "text": entity.article, "picture": f"pictures/{entity.look.replace(' ', '_')}.png"}
        for entity in entities
    ]
    _write_lines(folder / "encyclopaedia.jsonl", articles)
    _write_lines(folder / "entities.jsonl", [asdict(entity) for entity in entities])


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
