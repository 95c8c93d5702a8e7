"""The posts that the page offers: pictures written anew, nothing from outside the folder, faults by their file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from launch.serving_examples import MINIWORLD, YOURS, example_posts
from sake_ray.config.config import Config
from sake_ray.data.problems import DataError
from tests.envs.fetch import hostile_pictures as pictures


def config_of(folder: Path, *, root: str = "elsewhere") -> Config:
    config = Config()
    return dataclasses.replace(
        config,
        serve=dataclasses.replace(config.serve, examples=str(folder)),
        data=dataclasses.replace(config.data, root=root),
    )


def list_posts(folder: Path, *rows: object) -> Config:
    (folder / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config_of(folder)


def test_pictures_with_a_text_beside_are_posts_in_order_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "b.JPG").write_bytes(pictures.sideways_jpeg())
    (tmp_path / "b.txt").write_text(" Bo, upright \n")
    (tmp_path / "a.png").write_bytes(pictures.see_through_png())
    (tmp_path / "a.txt").write_text("Ada ☃")
    (tmp_path / "c.png").write_bytes(pictures.see_through_png())
    (tmp_path / "notes.txt").write_text("no picture")
    posts = example_posts(config_of(tmp_path))
    assert [(post.text, post.group, post.media_type) for post in posts] == [
        ("Ada ☃", YOURS, "image/jpeg"), ("Bo, upright", YOURS, "image/jpeg"),
    ]  # fmt: skip
    assert all(post.data.startswith(b"\xff\xd8\xff") and pictures.SECRET not in post.data for post in posts)


def test_a_list_names_pictures_and_notes(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(pictures.many_frames_gif(2))
    (tmp_path / "a.txt").write_text("not this one: there is a list")
    rows = ({"text": "one", "image": "a.gif"}, {"text": "two", "image": "a.gif", "note": "hard"})
    assert [(post.text, post.note) for post in example_posts(list_posts(tmp_path, *rows))] == [
        ("one", ""), ("two", "hard"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"text": "a", "image": "../outside.png"}, "outside.png"),
        ({"text": "a", "image": "link.png"}, "link.png"),
        ({"text": "a", "image": "/etc/hostname"}, "/etc/hostname"),
        ({"text": "a", "image": "none.png"}, "none.png"),
        ({"text": "a", "image": "nul\0.png"}, "nul"),
        ({"text": "a", "image": ""}, "no such picture"),
        ({"text": "a", "image": "broken.png"}, "broken.png"),
        ({"text": " ", "image": "good.png"}, "posts.jsonl:1"),
        ({"text": "a"}, "posts.jsonl:1"),
        (["a", "good.png"], "posts.jsonl:1"),
        ({"text": "a", "image": "good.png", "mark": 1}, "mark"),
    ],
)
def test_what_cannot_be_offered_is_named(tmp_path: Path, row: object, named: str) -> None:
    folder = tmp_path / "posts"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(pictures.see_through_png())
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "good.png").write_bytes(pictures.see_through_png())
    (folder / "broken.png").write_bytes(pictures.cut(pictures.deep_png()))
    with pytest.raises(DataError, match=named):
        example_posts(list_posts(folder, row))


def test_a_text_that_leads_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "posts"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "a.png").write_bytes(pictures.see_through_png())
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match="neither"):
        example_posts(config_of(folder))
    (folder / "a.txt").unlink()
    (folder / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"a\.txt.*not UTF-8"):
        example_posts(config_of(folder))
    with pytest.raises(DataError, match="no such folder"):
        example_posts(config_of(tmp_path / "none"))


def test_without_data_of_its_own_the_service_offers_miniworlds() -> None:
    config = dataclasses.replace(Config(), data=dataclasses.replace(Config().data, root=""))
    posts = example_posts(config)
    assert posts and {post.group for post in posts} == {MINIWORLD} and all(post.text and post.data for post in posts)
    assert {post.note for post in posts} == {"names it knows", "names it cannot know"}
