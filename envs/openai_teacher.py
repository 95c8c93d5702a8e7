"""The `openai` teacher: a model behind an OpenAI-compatible endpoint writes the turns of demonstrations.

Knows nothing of checking, retrying posts or files. Always holds: the model is shown the very conversation that the
policy will see, pictures at the size the policy sees them included, and its secret instructions stand in the system
message alone; a turn ends where an engine would have stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from envs.chat_client import ChatClient, ChatError, ChatMessage, ChatRefused, ChatUsage
from envs.chat_parts import PartEncoder, turn_of
from envs.rate_limit import Limits, RateLimiter
from sake_ray.actions import STOP_STRINGS
from sake_ray.coldstart.teacher_prompt import load_teacher_prompt
from sake_ray.coldstart.teaching import Brief, TaughtTurn, TeacherError, TeacherRefused
from sake_ray.config.config import Config
from sake_ray.config.values import ConfigError
from sake_ray.prompts import Prompts, load_prompts


class OpenAiTeacher:
    """Satisfies `Teacher`; used for many posts at once."""

    def __init__(
        self,
        client: ChatClient,
        prompts: Prompts,
        *,
        task: str,
        min_pixels: int,
        max_pixels: int,
        max_result_chars: int = 2_000,
        max_queries: int = 5,
        image_first: bool = False,
        temperature: float = 0.7,
        max_turn_tokens: int = 1_024,
    ) -> None:
        """`prompts`, pixels and `max_result_chars` are those of the policy's codec; limits those of its episodes.

        Raises:
            PromptError: no usable instructions for a teacher of this task.
        """
        self._client = client
        self._prompts = prompts
        self._pixels = (min_pixels, max_pixels)
        self._max_result_chars = max_result_chars
        self._temperature = temperature
        self._max_turn_tokens = max_turn_tokens
        self._instructions = load_teacher_prompt(
            task, min_pixels=min_pixels, max_pixels=max_pixels, image_first=image_first, max_queries=max_queries
        )

    @property
    def name(self) -> str:
        """How reports and cards call it."""
        return f"openai:{self._client.model}"

    async def write_turn(self, brief: Brief, turns: Sequence[TaughtTurn], feedback: str = "") -> str:
        """See `Teacher.write_turn`.

        Raises:
            TeacherError: the endpoint gave no answer this time.
            TeacherRefused: it will give none.
            ImageError: a picture of the post or of a result cannot be read.
            ValueError: the last turn has no observation: the episode is over.
        """
        # Pictures are read and encoded beside the event loop.
        messages = await asyncio.to_thread(self._messages, brief, turns, feedback)
        try:
            answer = await self._client.complete(
                messages, temperature=self._temperature, max_tokens=self._max_turn_tokens, stop=STOP_STRINGS
            )
        except ChatError as error:
            raise TeacherError(str(error)) from error
        except ChatRefused as error:
            raise TeacherRefused(str(error)) from error
        return turn_of(answer.text, answer.finish_reason)

    def hidden_text(self, brief: Brief, turns: Sequence[TaughtTurn] = (), feedback: str = "") -> str:
        """The secret instructions for the turn after `turns`; what a checker looks for in turns."""
        return self._instructions.hidden(brief, turns, feedback)

    def usage(self) -> ChatUsage:
        """What has been asked and got so far."""
        return self._client.usage()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _messages(self, brief: Brief, turns: Sequence[TaughtTurn], feedback: str) -> list[ChatMessage]:
        encoder = PartEncoder(min_pixels=self._pixels[0], max_pixels=self._pixels[1])
        messages: list[ChatMessage] = [
            {"role": "system", "content": self.hidden_text(brief, turns, feedback)},
            {"role": "user", "content": encoder.content(self._prompts.first_turn(brief.example))},
        ]
        for number, turn in enumerate(turns, start=1):
            if turn.observation is None:
                raise ValueError(f"post {brief.example.id}: turn {number} is no search, so no turn comes after it")
            shown = self._prompts.search_turn(brief.example, turn.observation, self._max_result_chars)
            messages.append({"role": "assistant", "content": turn.text})
            messages.append({"role": "user", "content": encoder.content(shown)})
        return messages


def make_openai_teacher(config: Config) -> OpenAiTeacher:
    """The teacher that a configuration describes.

    Raises:
        ConfigError: secot.model is not given, or secot.endpoint is no address.
        PromptError: a prompt file cannot be used.
        TeacherRefused: the key cannot be sent, or the openai package is not there.
    """
    secot, data = config.secot, config.data
    if not secot.model:
        raise ConfigError("secot.model=: secot.teacher=openai needs the model's name at the endpoint")
    # One after another, evenly: a burst would come on top of what a second may have.
    limiter = RateLimiter(Limits(secot.requests_per_s, burst=1, concurrency=secot.concurrency))
    try:
        client = ChatClient(
            secot.endpoint,
            secot.model,
            limiter=limiter,
            key_env=secot.key_env,
            timeout_s=secot.timeout_s,
            retries=secot.retries,
            price_in=secot.price_in,
            price_out=secot.price_out,
            seed=config.run.seed,
        )
    except ValueError as error:
        raise ConfigError(f"secot.endpoint: {error}") from error
    except ChatRefused as error:
        raise TeacherRefused(str(error)) from error
    return OpenAiTeacher(
        client,
        load_prompts(data.task, config.prompts.set, config.prompts.dir),
        task=data.task,
        min_pixels=data.min_pixels,
        max_pixels=data.max_pixels,
        max_result_chars=config.search.max_chars,
        max_queries=config.episode.max_queries,
        image_first=secot.image_first,
        temperature=secot.temperature,
        max_turn_tokens=secot.max_turn_tokens,
    )
