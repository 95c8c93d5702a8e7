"""MiniWorld: one seed one world, boards on which every box can be told, and marks that mean what they say.

What would go unseen otherwise: two looks alike on a board (no policy could be right), a box beside its shape, a
held-out entity that training already showed, known entities the base model was never taught.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sake_ray.data.miniworld import (
    GRID,
    LOOKS,
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
from sake_ray.data.miniworld_files import WorldSpec, world_posts

SPEC = WorldSpec(seed=5, known=12, long_tail=20, unseen=9, train_posts=40, dev_posts=40, test_posts=40)


def drawn(seed: int, count: int = 12) -> list[BoardPost]:
    world = make_world(seed, known=12, long_tail=20, unseen=9)
    return make_posts(world, count, 0, prefix="p", pool=world.long_tail)


def named(posts: list[BoardPost], mark: Mark) -> set[str]:
    return {entity.name for post in posts for entity, _ in post.entities if entity.mark is mark}


def test_a_seed_is_a_world_and_all_worlds_share_the_known_entities() -> None:
    assert world_posts(SPEC) == world_posts(SPEC)
    one, other = make_world(0), make_world(1)
    assert one.known == other.known
    assert {entity.name for entity in one.long_tail} != {entity.name for entity in other.long_tail}
    assert drawn(0) != drawn(1)


def test_fewer_known_entities_are_the_first_of_those_the_base_model_was_taught() -> None:
    assert make_world(3, known=10).known == make_world(0).known[:10]
    with pytest.raises(ValueError, match=r"world\.known=49.*taught 48"):
        make_world(0, known=49)


def test_other_entities_never_bear_a_name_that_was_taught() -> None:
    """Not even one of the known entities that this world leaves out: the base model would claim to know it."""
    taught = {entity.name for entity in make_world(0).known}
    world = make_world(7, known=1, long_tail=1_000, unseen=488)
    names = [entity.name for entity in world.long_tail + world.unseen]
    assert not taught & set(names)
    assert len(set(names)) == len(names)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31))
def test_every_box_of_a_post_can_be_told_from_its_board(seed: int) -> None:
    """An entity lies where its look is, and nowhere on the board when it is not visible; no look is there twice."""
    for post in drawn(seed):
        shown = [look for look in post.board if look is not None]
        assert len(set(shown)) == len(shown)
        assert set(shown) <= set(LOOKS)
        looks = [entity.look for entity, _ in post.entities]
        assert len(set(looks)) == len(looks)
        for entity, cell in post.entities:
            assert (entity.look not in shown) if cell is None else (post.board[cell] == entity.look)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31))
def test_the_text_names_each_entity_once_in_their_order(seed: int) -> None:
    for post in drawn(seed):
        names = [entity.name for entity, _ in post.entities]
        assert 1 <= len(names) <= 3
        assert [token for token in post.text.split(" ") if token in set(names)] == names


@pytest.mark.parametrize("look", LOOKS)
def test_a_box_is_where_its_look_changes_the_picture(look: str) -> None:
    empty = np.asarray(board_picture((None,) * GRID**2), dtype=int)
    assert empty.shape == (SIDE, SIDE, 3)
    for cell in range(GRID**2):
        board = tuple(look if at == cell else None for at in range(GRID**2))
        changed = (np.asarray(board_picture(board), dtype=int) != empty).any(-1)
        box = cell_box(cell)
        assert changed[box.y1 : box.y2, box.x1 : box.x2].any()
        changed[box.y1 : box.y2, box.x1 : box.x2] = False
        assert not changed.any()


def test_looks_are_different_pictures() -> None:
    assert len({look_picture(look).tobytes() for look in LOOKS}) == len(LOOKS)


def test_boxes_are_the_whole_cells_of_the_board() -> None:
    covered = np.zeros((SIDE, SIDE), dtype=int)
    for cell in range(GRID**2):
        box = cell_box(cell)
        covered[box.y1 : box.y2, box.x1 : box.x2] += 1
    assert (covered == 1).all()


def test_unseen_entities_are_in_held_out_posts_alone_and_each_split_has_its_own() -> None:
    _, posts = world_posts(SPEC)
    assert named(posts["train"], Mark.LONG_TAIL) and not named(posts["train"], Mark.UNSEEN)
    dev, test = (named(posts[split], Mark.UNSEEN) for split in ("dev", "test"))
    assert dev and test and not dev & test
    assert not named(posts["dev"], Mark.LONG_TAIL) and not named(posts["test"], Mark.LONG_TAIL)


def test_a_split_does_not_depend_on_the_size_of_the_others() -> None:
    _, few = world_posts(SPEC)
    _, many = world_posts(dataclasses.replace(SPEC, train_posts=90))
    assert many["train"][:40] == few["train"]
    assert (many["dev"], many["test"]) == (few["dev"], few["test"])


def test_entities_that_all_look_alike_are_refused_instead_of_searched_for_ever() -> None:
    alike = tuple(WorldEntity(name, "PER", "red circle", Mark.KNOWN) for name in ("Bakedo", "Bakeda", "Bakede"))
    with pytest.raises(ValueError, match=r"1 looks.*raise world\.known"):
        make_posts(MiniWorld(0, alike, (), ()), 1, 0, prefix="train", pool=())


def test_more_entities_than_there_are_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"world\.long_tail=1400 and world\.unseen=200"):
        make_world(0, long_tail=1_400)
