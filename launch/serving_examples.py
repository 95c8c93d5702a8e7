"""The posts that the service's page offers to try: MiniWorld's, and those of a folder of the user's.

A folder holds pictures with their post in a text file of the same name (`a.jpg`, `a.txt`), or `posts.jsonl` of
{"text": …, "image": FILE in the folder, "note": optional}. Knows nothing of the page. Always holds: pictures are
decoded under limits before they are offered, and written anew; nothing outside the folder is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from actors.serving.examples import ExamplePost
from envs.fetch.picture import prepare_picture
from envs.fetch.refusal import FetchRefused
from launch.job_data import load_miniworld
from launch.predicting import SUFFIXES
from sake_ray.config.config import Config
from sake_ray.data.images import MAX_IMAGE_BYTES
from sake_ray.data.json_files import read_text, read_values
from sake_ray.data.problems import DataError
from sake_ray.prompts import MAX_POST_CHARS
from sake_ray.types import Difficulty, Example

MINIWORLD, YOURS = "MiniWorld", "yours"
_MOST, _EACH = 200, 4
_PIXELS = 1_000_000


def example_posts(config: Config) -> list[ExamplePost]:
    """The user's own, then some of MiniWorld's if the policy is at home there.

    Raises:
        DataError: a post or picture of the user's cannot be used.
    """
    own = list(_own(Path(config.serve.examples))) if config.serve.examples else []
    return own + ([] if config.data.root else _miniworld(config))


def _miniworld(config: Config) -> list[ExamplePost]:
    """Some held-out posts whose entities are known, and some with one that only a search reveals."""
    posts = load_miniworld(config).held_out
    known = [post for post in posts if all(entity.difficulty is Difficulty.KNOWN for entity in post.entities)]
    unknown = [post for post in posts if any(entity.difficulty is Difficulty.UNKNOWN for entity in post.entities)]
    return list(_shown(unknown[:_EACH], "names it cannot know")) + list(_shown(known[:_EACH], "names it knows"))


def _shown(posts: Iterable[Example], note: str) -> Iterator[ExamplePost]:
    for post in posts:
        yield ExamplePost(post.text, Path(post.image.path).read_bytes(), "image/png", MINIWORLD, note)


def _own(folder: Path) -> Iterator[ExamplePost]:
    if not folder.is_dir():
        raise DataError(f"serve.examples={folder}: no such folder")
    rows = list(_rows(folder))
    if not rows:
        raise DataError(f"serve.examples={folder}: holds neither posts.jsonl nor a picture with a .txt beside it")
    for text, picture, note in rows[:_MOST]:
        if not _inside(picture, folder):
            raise DataError(f"{picture}: no picture in serve.examples={folder}")
        if picture.stat().st_size > MAX_IMAGE_BYTES:
            raise DataError(f"{picture}: larger than {MAX_IMAGE_BYTES} bytes")
        try:
            made = prepare_picture(picture.read_bytes(), max_pixels=_PIXELS)
        except FetchRefused as refused:
            raise DataError(f"{picture}: {refused.detail}") from None
        yield ExamplePost(text, made.data, "image/jpeg", YOURS, note)


def _rows(folder: Path) -> Iterator[tuple[str, Path, str]]:
    listed = folder / "posts.jsonl"
    if listed.is_file():
        for line, row in read_values(listed):
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("text", "image")):
                raise DataError(f"{listed}:{line}: must be an object with text and image")
            yield _post(row["text"], f"{listed}:{line}"), folder / row["image"], str(row.get("note", ""))
        return
    for picture in sorted(folder.iterdir()):
        text = picture.with_suffix(".txt")
        if picture.suffix.lower() in SUFFIXES and _inside(text, folder):
            yield _post(read_text(text), str(text)), picture, ""


def _post(text: str, where: str) -> str:
    if not text.strip():
        raise DataError(f"{where}: the post is empty")
    return text.strip()[:MAX_POST_CHARS]


def _inside(file: Path, folder: Path) -> bool:
    """Whether it is a file in the folder, and no link out of it."""
    return file.is_file() and file.resolve().parent == folder.resolve()
