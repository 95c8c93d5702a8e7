"""The posts that the service's page offers to try: MiniWorld's, and those of a folder of the user's.

What a folder holds is said in `launch/post_files.py`. Knows nothing of the page. Always holds: pictures are decoded
under limits before they are offered, and written anew; nothing outside the folder is read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from actors.serving.examples import ExamplePost
from envs.fetch.picture import prepare_picture
from envs.fetch.refusal import FetchRefused
from launch.job_data import load_miniworld
from launch.post_files import posts_of_folder
from sake_ray.config.config import Config
from sake_ray.data.problems import DataError
from sake_ray.prompts import MAX_POST_CHARS
from sake_ray.types import Difficulty, Example

log = logging.getLogger(__name__)
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
    posts = posts_of_folder(folder, "serve.examples", inside=True)
    if len(posts) > _MOST:
        log.warning("serve.examples=%s: the first %d of %d posts are offered", folder, _MOST, len(posts))
    for post in posts[:_MOST]:
        try:
            made = prepare_picture(post.picture.read_bytes(), max_pixels=_PIXELS)
        except FetchRefused as refused:
            raise DataError(f"{post.picture}: {refused.detail}") from None
        yield ExamplePost(post.text.strip()[:MAX_POST_CHARS], made.data, "image/jpeg", YOURS, post.note)
