"""Does something for many posts at once, a bounded number at a time, and tells how many are done.

Knows nothing of what is done. Always holds: the first failure stops the others and is raised as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Post = TypeVar("Post")
OnPost = Callable[[int, int], None]
"""Hears how many posts are done, of how many."""


async def for_all(
    posts: Sequence[Post], work: Callable[[Post], Awaitable[None]], *, at_once: int, total: int, on_post: OnPost
) -> None:
    """Do `work` for each of `posts`, at most `at_once` under way; those not among the `total` are done already."""
    done = total - len(posts)
    on_post(done, total)
    room = asyncio.Semaphore(at_once)

    async def one(post: Post) -> None:
        nonlocal done
        async with room:
            await work(post)
        done += 1
        on_post(done, total)

    try:
        async with asyncio.TaskGroup() as tasks:
            for post in posts:
                tasks.create_task(one(post))
    except ExceptionGroup as group:
        # Several posts fail of one cause (a wrong key); one of them says it all.
        raise group.exceptions[0] from group
