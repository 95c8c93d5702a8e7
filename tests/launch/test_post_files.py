"""Posts from files: what is read is what is written there, and what cannot be used is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.post_files import Post, one_post, posts_of_file, posts_of_folder
from sake_ray.data.problems import DataError
from tests.launch.extract_stub import write_picture


def write_posts(path: Path, rows: list[dict[str, Any] | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_a_folder_of_pictures_with_their_posts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.jpg", "a b (1).PNG", "alone.png"):
        write_picture(tmp_path / name)
    (tmp_path / "a b (1).txt").write_text(" Ada \n")
    (tmp_path / "b.txt").write_text("Bob")
    (tmp_path / "notes.txt").write_text("no post")
    assert posts_of_folder(tmp_path, "folder") == [
        Post("a b (1)", "Ada", tmp_path / "a b (1).PNG"), Post("b", "Bob", tmp_path / "b.jpg")
    ]  # fmt: skip
    assert "1 of 3 pictures" in caplog.text
    write_picture(tmp_path / "b.png")
    with pytest.raises(ValueError, match="the id 'b' is that of an earlier post too"):
        posts_of_folder(tmp_path, "folder")
    (tmp_path / "b.png").unlink()
    (tmp_path / "b.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"b\.txt: the post is empty"):
        posts_of_folder(tmp_path, "folder")


def test_a_file_of_posts_names_pictures_beside_it_or_anywhere(tmp_path: Path) -> None:
    near, far = write_picture(tmp_path / "in" / "x" / "near.png"), write_picture(tmp_path / "far.png")
    rows: list[dict[str, Any] | str] = [
        {"text": "Ada", "image": "x/near.png"}, "", {"text": "Bob", "image": str(far), "id": "bob-1", "note": "hard"}
    ]  # fmt: skip
    file = write_posts(tmp_path / "in" / "posts.jsonl", rows)
    expected = [Post("1", "Ada", near), Post("bob-1", "Bob", far, "hard")]
    assert posts_of_file(file) == expected and posts_of_folder(tmp_path / "in", "folder") == expected


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("{", "posts.jsonl:2"),
        ('["Ada"]', 'posts.jsonl:2: must be an object with "text" and "image"'),
        ({"text": "Ada"}, 'posts.jsonl:2: must be an object with "text" and "image"'),
        ({"text": "Ada", "image": "a.png", "label": ""}, "posts.jsonl:2: unknown key 'label'"),
        ({"text": "Ada", "image": "a.png", "note": 1}, "posts.jsonl:2: note: 1 is no text"),
        ({"text": " ", "image": "a.png"}, "posts.jsonl:2: text: the post is empty"),
        ({"text": "\ud83d", "image": "a.png"}, "posts.jsonl:2: text: half a character"),
        ({"text": "Ada", "image": "none.png"}, "none.png: no such picture"),
        ({"text": "Ada", "image": "a\0.png"}, "no such picture"),
        ({"text": "Ada", "image": "a" * 5000}, "no such picture"),
        ({"text": "Ada", "image": ""}, "no such picture"),
        ({"text": "Ada", "image": "a.png", "id": "../a"}, "posts.jsonl:2: id: '../a' is no plain name"),
        ({"text": "Ada", "image": "a.png", "id": None}, "posts.jsonl:2: id: None is no plain name"),
        ({"text": "Ada", "image": "a.png", "id": "1"}, "posts.jsonl:2: the id '1' is that of an earlier post"),
    ],
)
def test_a_row_that_cannot_be_is_named(row: dict[str, Any] | str, sentence: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    file = write_posts(tmp_path / "posts.jsonl", [{"text": "Ada", "image": "a.png"}, row])
    for inside in (False, True):
        with pytest.raises(DataError) as refused:
            posts_of_file(file, inside=inside)
        assert sentence in str(refused.value)


def test_a_list_without_a_post_and_a_folder_without_anything_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"posts\.jsonl: holds no post"):
        posts_of_file(write_posts(tmp_path / "posts.jsonl", []))
    with pytest.raises(DataError, match=r"serve\.examples=.*none: no such folder"):
        posts_of_folder(tmp_path / "none", "serve.examples")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="holds neither"):
        posts_of_folder(tmp_path / "in", "folder")


# --- posts that must lie inside --------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["../far.png", "link.png", "/etc/hostname", "way/far.png"])
def test_a_picture_outside_is_refused_where_it_must_lie_inside(image: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    far = write_picture(tmp_path / "far.png")
    near = write_picture(folder / "x" / "near.png")
    (folder / "link.png").symlink_to(far)
    (folder / "way").symlink_to(tmp_path)
    inner = {"text": "Ada", "image": "x/near.png"}
    list_ = write_posts(folder / "posts.jsonl", [inner, {"text": "Bob", "image": image}])
    assert len(posts_of_folder(folder, "folder")) == 2
    with pytest.raises(DataError, match=r"posts\.jsonl:2: image: .* lies outside"):
        posts_of_folder(folder, "folder", inside=True)
    assert posts_of_file(write_posts(list_, [inner]), inside=True) == [Post("1", "Ada", near)]


def test_texts_and_lists_outside_are_passed_over_where_they_must_lie_inside(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    picture = write_picture(folder / "a.png")
    (tmp_path / "secret.txt").write_text("secret")
    write_posts(tmp_path / "far.jsonl", [{"text": "secret", "image": str(picture)}])
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "posts.jsonl").symlink_to(tmp_path / "far.jsonl")
    assert [post.text for post in posts_of_folder(folder, "folder")] == ["secret"]
    with pytest.raises(DataError, match="holds neither"):
        posts_of_folder(folder, "folder", inside=True)
    (folder / "a.txt").unlink()
    (folder / "a.txt").write_text("Ada")
    assert posts_of_folder(folder, "folder", inside=True) == [Post("a", "Ada", picture)]


# --- any post --------------------------------------------------------------------------------------------


@given(text=st.text())
def test_a_post_is_kept_to_the_letter_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    picture = write_picture(folder / "a.png")
    try:
        post = one_post(text, picture)
    except DataError:
        assert not text.strip() or any("\ud800" <= character <= "\udfff" for character in text)
        return
    file = folder / "posts.jsonl"
    file.write_text(json.dumps({"text": text, "image": "a.png"}) + "\n")
    assert posts_of_file(file) == [Post("1", post.text, picture)] and post.text == text
