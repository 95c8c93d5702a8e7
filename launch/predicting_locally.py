"""Answers posts in this very process: the model, its search and the service's own desk, without Ray or HTTP.

Knows nothing of files of posts. Always holds: policy, settings, picture and episode are the service's, so a post gets
the answer it would get there; what vLLM and torch must find in the environment is there before they are imported; all
that was started is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.placement import engine_env, process_env
from actors.rollout_actor import WorkerSettings, build_worker
from actors.rollout_worker import WorkerBroken
from actors.serving.desk import Desk
from actors.serving.engine import make_player
from actors.serving.player import EpisodePlayer
from envs.fetch.picture import MAX_PIXELS
from envs.search_env import NoSearch
from envs.tools.api import ApiSettingsError
from envs.tools.web_tool import SearchSpent
from launch.model_source import find_model
from launch.pools import worker_resources
from launch.post_files import Post
from launch.predicting import AskingEnded, Reply
from launch.search_tool import open_search
from launch.serving import data_root, last_run, policy_card, policy_config, served_settings
from launch.tagging import model_fingerprint
from sake_ray.config.config import Config, section_hash
from sake_ray.data.images import MAX_IMAGE_BYTES
from sake_ray.serving.messages import Event, Order, PolicyCard
from sake_ray.serving.problems import Problem
from sake_ray.serving.request import Options, RequestLimits, asked

log = logging.getLogger(__name__)
_NAME = "a"  # as the service calls its first policy


@dataclass(frozen=True)
class LocalPlan:
    """A policy to run here, checked."""

    config: Config
    card: PolicyCard
    settings: WorkerSettings

    def identity(self) -> dict[str, Any]:
        """All that answers depend on beside the request."""
        config = self.config
        return {
            "model": self.card.model,
            "weights": model_fingerprint(Path(self.card.folder)),
            "settings": section_hash(config.data, config.prompts, config.episode, config.search),
        }


def plan_locally(job: str, model: str, settings: Sequence[str]) -> LocalPlan:
    """The policy as the service would resolve it; from now on the process is one that hosts its engine.

    Raises:
        UsageError, DataError, PromptError: what keeps it from being loaded.
        SystemExit: with status 2 for a setting that cannot be, which was said.
    """
    source = find_model(model or last_run())
    config = policy_config(source, settings, job)
    resources = worker_resources(config)
    # Before the first import of torch, which the export of a checkpoint needs too.
    os.environ.update({**process_env(resources), **engine_env(resources)})
    card = policy_card(source, _NAME, config.run_dir.resolve())
    return LocalPlan(config, card, served_settings(config, card.folder))


@asynccontextmanager
async def local_asker(plan: LocalPlan, options: Options, at_once: int) -> AsyncIterator[LocalAsker]:
    """The policy, up and running, until the context is left.

    Raises:
        AskingEnded: its engine does not come up.
        ConfigError: a search setting that cannot be.
    """
    root = await asyncio.to_thread(data_root, plan.config)
    searching = open_search(plan.config, root) if options.search else nullcontext(NoSearch())
    async with searching as search:
        log.info("loading %s", plan.card.model)
        player: EpisodePlayer | None = None
        try:
            try:
                worker = await asyncio.to_thread(build_worker, "predict", plan.settings, search)
                player = make_player(worker, plan.card, plan.settings)
                await player.start()
            except (RuntimeError, ValueError, OSError) as error:  # vLLM's process boundary; its log has the rest
                why = " ".join(str(error).split())[:300]
                raise AskingEnded(f"{plan.card.folder} cannot be loaded: {why}") from error
            yield LocalAsker(plan.config, player, options, at_once)
        finally:
            if player is not None:
                await player.shutdown()


class LocalAsker:
    """An `Asker` over a player in this process."""

    def __init__(self, config: Config, player: EpisodePlayer, options: Options, at_once: int) -> None:
        self._options = options
        limits = asdict(config.episode)
        self._limits = RequestLimits(
            max_text_chars=config.serve.max_text_chars,
            max_body_bytes=MAX_IMAGE_BYTES,
            text_searches=limits["text_searches"],
            image_searches=limits["image_searches"],
            deadline_s=options.deadline_s or config.serve.deadline_s,
            urls=False,
        )
        self._desk = Desk(
            {_NAME: _Here(player)},
            self._limits,
            max_concurrent=at_once,
            max_pixels=min(config.data.max_pixels, MAX_PIXELS),
            fetcher=None,
        )

    async def ask(self, post: Post) -> Reply:
        """See `Asker`."""
        try:
            data = await asyncio.to_thread(post.picture.read_bytes)
            request = asked(post.text, data, "", self._options, self._limits, stream=False)
            return Reply(200, await self._desk.answer(request))
        except Problem as problem:
            return Reply(problem.status, None, problem.shown())
        except OSError as error:
            return _unreadable(post, error)
        except WorkerBroken as error:
            raise AskingEnded(f"the engine was lost: {error}") from error
        except (SearchSpent, ApiSettingsError) as error:
            raise AskingEnded(str(error)) from error


class _Here:
    """`Engines` that are one player."""

    def __init__(self, player: EpisodePlayer) -> None:
        self._player = player

    async def play(self, order: Order) -> Event:
        return await self._player.play(order)

    async def events(self, order: Order) -> AsyncGenerator[Event, None]:
        async for event in self._player.events(order):
            yield event

    async def card(self) -> PolicyCard:
        return self._player.card


def _unreadable(post: Post, error: OSError) -> Reply:
    """A picture that was there when the posts were read."""
    problem: Mapping[str, Any] = Problem("invalid", f"{post.picture}: {error.strerror}", "image").shown()
    return Reply(422, None, dict(problem))
