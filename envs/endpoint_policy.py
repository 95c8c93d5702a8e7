"""Plays an episode with a model behind an OpenAI-compatible endpoint: chat messages in the place of token ids.

The rules are those of `envs.episode`: the same prompts, parser, search environment and limits, pictures at the same
size. Knows nothing of tokens but the counts that the endpoint tells, nor of gold or scores. Always holds: what comes
out is what happened, whole, or an exception: an episode in which the model gave no answer is never an empty one; the
conversation that the model sees holds its own turns as they were read, and each search's real answer as a user turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from envs.chat_client import ChatAnswer, ChatClient, ChatMessage
from envs.chat_parts import PartEncoder, turn_of
from envs.episode import EpisodeLimits, turn_seed, without_last_images
from envs.search_env import SearchEnv
from sake_ray.actions import STOP_STRINGS, ActionLimits, parse_action
from sake_ray.interfaces import SearchClient
from sake_ray.prompts import Part, Prompts
from sake_ray.trajectory import Turn
from sake_ray.types import (
    Answer,
    Example,
    ImageRef,
    ImageSearch,
    Malformed,
    Observation,
    StopReason,
    TextSearch,
)


@dataclass(frozen=True, slots=True)
class ChatEpisode:
    """What an endpoint's model did with a post. It has no token ids, so nothing can be trained on it.

    `context_tokens` counts the last request and its answer, `prompt_tokens` all requests and `written_tokens` all
    answers; they are 0 where the endpoint does not tell.
    """

    id: str
    example: Example
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    context_tokens: int
    prompt_tokens: int
    written_tokens: int


class EndpointPolicy:
    """Episodes with one served model; used for many posts at once."""

    def __init__(
        self,
        client: ChatClient,
        prompts: Prompts,
        *,
        limits: EpisodeLimits,
        min_pixels: int,
        max_pixels: int,
        max_result_chars: int = 2_000,
        temperature: float = 0.0,
    ) -> None:
        """`prompts`, pixels, `max_result_chars` and `limits` are those of the policy's rollout workers.

        Limits count as far as the endpoint tells: `max_tokens` by the token counts of its answers, where it has any.
        """
        self._client = client
        self._prompts = prompts
        self._limits = limits
        self._pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self._max_result_chars = max_result_chars
        self._temperature = temperature

    async def play(self, example: Example, search: SearchClient, *, seed: int | None, episode_id: str) -> ChatEpisode:
        """One episode; `seed` is of its sampling, None sends none.

        Raises:
            ChatError: a turn got no answer after all tries.
            ChatRefused: no request will get one.
            ImageError: a picture cannot be read.
        """
        talk = _Conversation(example, self._prompts, self._limits, self._pixels, self._max_result_chars)
        await talk.begin()
        limits = self._limits
        env = SearchEnv(example, search, text_searches=limits.text_searches, image_searches=limits.image_searches)
        reason: StopReason | None = None
        while reason is None:
            number = len(talk.turns)
            turn, cut = await self._turn(talk, None if seed is None else turn_seed(seed, number))
            match turn.action:
                case Answer():
                    reason = StopReason.ANSWER
                case Malformed():
                    reason = StopReason.TRUNCATED if cut else StopReason.MALFORMED
                case asked if not env.allows(asked):
                    reason = StopReason.SEARCH_LIMIT
                case TextSearch() | ImageSearch() if number + 1 >= limits.max_turns:
                    reason = StopReason.TURN_LIMIT
                case TextSearch() | ImageSearch() as asked:
                    turn.search_began_s = time.time()
                    reason = await talk.show(turn, await env.step(asked))
        return ChatEpisode(
            id=episode_id,
            example=example,
            turns=tuple(talk.turns),
            stop_reason=reason,
            context_tokens=talk.context_tokens,
            prompt_tokens=talk.prompt_tokens,
            written_tokens=talk.written_tokens,
        )

    async def _turn(self, talk: _Conversation, seed: int | None) -> tuple[Turn, bool]:
        """The model's next turn, and whether its length cut it off."""
        began, started = time.time(), time.perf_counter()
        answer = await self._client.complete(
            talk.messages, temperature=self._temperature, max_tokens=talk.room, stop=STOP_STRINGS, seed=seed
        )
        text = turn_of(answer.text, answer.finish_reason)
        action = parse_action(text, ActionLimits(max_queries=self._limits.max_queries))
        turn = Turn(text, action, generate_s=time.perf_counter() - started, began_s=began)
        talk.add(turn, answer)
        return turn, answer.finish_reason == "length"


class _Conversation:
    """The messages of one episode, and how much room is left in it."""

    def __init__(
        self, example: Example, prompts: Prompts, limits: EpisodeLimits, pixels: dict[str, int], max_chars: int
    ) -> None:
        self.messages: list[ChatMessage] = []
        self.turns: list[Turn] = []
        self.context_tokens = 0
        self.prompt_tokens = 0
        self.written_tokens = 0
        self._example = example
        self._prompts = prompts
        self._limits = limits
        self._max_chars = max_chars
        self._encoder = PartEncoder(**pixels)
        self._images = 0

    @property
    def room(self) -> int:
        """Tokens the next turn may have, at least one."""
        return max(1, min(self._limits.max_turn_tokens, self._limits.max_tokens - self.context_tokens))

    async def begin(self) -> None:
        """The first user turn.

        Raises:
            ValueError: it has more images than an episode may.
        """
        parts = self._prompts.first_turn(self._example)
        self._images = _images(parts)
        if self._images > self._limits.max_images:
            raise ValueError(
                f"post {self._example.id}: its prompt has {self._images} images, "
                f"episode.max_images={self._limits.max_images}"
            )
        await self._say("user", parts)

    def add(self, turn: Turn, answer: ChatAnswer) -> None:
        """The model's turn."""
        self.turns.append(turn)
        self.context_tokens = answer.prompt_tokens + answer.completion_tokens
        self.prompt_tokens += answer.prompt_tokens
        self.written_tokens += answer.completion_tokens
        self.messages.append({"role": "assistant", "content": turn.text})

    async def show(self, turn: Turn, observation: Observation) -> StopReason | None:
        """The answer to a search as the next user turn; where it does not fit, the episode ends as truncated."""
        shown = observation
        parts = self._prompts.search_turn(self._example, shown, self._max_chars)
        excess = self._images + _images(parts) - self._limits.max_images
        if excess > 0:
            shown = without_last_images(observation, excess)
            parts = self._prompts.search_turn(self._example, shown, self._max_chars)
        too_many_images = self._images + _images(parts) > self._limits.max_images
        # How many tokens the answer will take, only the endpoint knows: what it counted so far must leave some room.
        if too_many_images or self.context_tokens >= self._limits.max_tokens:
            return StopReason.TRUNCATED
        turn.observation = shown
        self._images += _images(parts)
        await self._say("user", parts)
        return None

    async def _say(self, role: str, parts: Sequence[Part]) -> None:
        # Pictures are read and encoded beside the event loop.
        content = await asyncio.to_thread(self._encoder.content, parts)
        self.messages.append({"role": role, "content": content})


def _images(parts: Sequence[Part]) -> int:
    return sum(isinstance(part, ImageRef) for part in parts)
