"""Plays an episode with a teacher in the policy's place: the very loop, codec and search of RL.

Knows nothing of what makes a good trajectory. Always holds: the teacher is shown every search's real answer; its
text becomes token ids here and nowhere else, without blanks around it and cut where an engine would have stopped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from envs.episode import EpisodeLimits, run_episode
from sake_ray.actions import STOP_STRINGS
from sake_ray.coldstart.teaching import Brief, TaughtTurn, Teacher, TeacherError
from sake_ray.interfaces import Codec, SearchClient
from sake_ray.trajectory import Trajectory
from sake_ray.types import Completion, Example, ImageRef, ImageSearch, Observation, TextSearch

_UNSAYABLE = re.compile(r"<\|[^|<>\s]{1,64}\|>|[\ud800-\udfff]")


async def teach(
    brief: Brief,
    teacher: Teacher,
    *,
    codec: Codec,
    tokenizer: Any,
    search: SearchClient,
    limits: EpisodeLimits,
    trajectory_id: str,
    feedback: str = "",
) -> Trajectory:
    """One episode; `feedback` says why the teacher's last attempt at this post was rejected.

    Raises:
        TeacherError: the teacher gave no turn this time.
        TeacherRefused: it never will.
    """
    lesson = _Lesson(brief, teacher, tokenizer, search, feedback)
    return await run_episode(
        brief.example,
        policy=lesson,
        codec=codec,
        search=lesson,
        limits=limits,
        seed=0,
        trajectory_id=trajectory_id,
    )


class _Lesson:
    """`PolicyClient` and `SearchClient` of one episode: so the teacher sees what its searches found."""

    def __init__(self, brief: Brief, teacher: Teacher, tokenizer: Any, search: SearchClient, feedback: str) -> None:
        self._brief = brief
        self._teacher = teacher
        self._tokenizer = tokenizer
        self._search = search
        self._feedback = feedback
        self._turns: list[TaughtTurn] = []

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        """The teacher's next turn; one that is too long is cut and counts as such, as an engine's would."""
        text = cut_at_stop(await self._teacher.write_turn(self._brief, tuple(self._turns), self._feedback)).strip()
        if (found := _UNSAYABLE.search(text)) is not None:
            # A token of the chat's own, an image pad without its image, or half a surrogate pair, which is no text.
            raise TeacherError(f"the turn holds {found.group()!r}, which no turn may hold")
        self._turns.append(TaughtTurn(text))
        return encode_turn(self._tokenizer, text, max_tokens)

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """The tool's answer, remembered for the teacher."""
        observation = await self._search.search(example, action)
        self._turns[-1] = TaughtTurn(self._turns[-1].text, observation)
        return observation


def encode_turn(tokenizer: Any, text: str, max_tokens: int) -> Completion:
    """A written turn as a completion: as many of its tokens as fit."""
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    if len(ids) <= max_tokens:
        return Completion(ids, (0.0,) * len(ids), text, "stop", 0)
    kept = ids[:max_tokens]
    return Completion(kept, (0.0,) * max_tokens, tokenizer.decode(kept), "length", 0)


def cut_at_stop(text: str) -> str:
    """The text up to and with the first string an engine stops at."""
    ends = [at + len(stop) for stop in STOP_STRINGS if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
