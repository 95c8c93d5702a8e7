"""Evaluates a model behind an OpenAI-compatible endpoint: the episodes of training, over chat messages.

No Ray: requests and searches go out from this process. Knows nothing of scores. Always holds: a post whose request
got no answer after all tries is not in the folder, is counted, and is asked again by the same command; an endpoint
that answers nobody ends the evaluation instead of being asked for every post.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import asdict, replace

from envs.chat_client import ChatClient, ChatError, ChatRefused
from envs.endpoint_policy import ChatEpisode, EndpointPolicy
from envs.episode import EpisodeLimits
from envs.rate_limit import Limits, RateLimiter
from envs.search_env import NoSearch
from envs.tools.api import ApiSettingsError
from envs.tools.web_tool import SearchSpent
from launch.display import RunDisplay
from launch.evaluating import episode_config, episode_prompts, finish, load_posts, open_episodes, told
from launch.evaluating_options import Options
from launch.search_tool import open_search
from rewards.evaluation.report import Provenance
from sake_ray.coldstart.all_posts import for_all
from sake_ray.config.config import Config
from sake_ray.config.values import ConfigError
from sake_ray.data.problems import DataError
from sake_ray.trajectory import Trajectory
from sake_ray.types import Example

log = logging.getLogger(__name__)
GIVE_UP = 20
"""Posts in a row without an answer after which no more are asked."""


async def evaluate_endpoint(config: Config, options: Options, display: RunDisplay) -> int:
    """Play the episodes that the folder lacks, then write the report; returns how many posts got no answer.

    Raises:
        ConfigError: an address, a key or a search setting that cannot be.
        DataError: the folder is of other settings, the endpoint refuses such requests, or it answers none.
    """
    options = replace(options, output=config.run_dir.resolve())
    examples, data = load_posts(config, options)
    file = open_episodes(config, options, {"served": options.served}, examples)
    missing = [example for example in examples if file.missing(example, options.answers)]
    failures = _Failures()
    if missing:
        searching = open_search(config, data.root) if options.tools else contextlib.nullcontext(NoSearch())
        client = _client(config, options)
        policy = _policy(config, options, client)

        async def one(example: Example) -> None:
            for sample in file.missing(example, options.answers):
                seed = options.seed(config, example, sample)
                try:
                    episode = await policy.play(example, search, seed=seed, episode_id=f"{example.id}.{sample}")
                except ChatError as error:
                    failures.add(example, error)
                    return
                failures.answered()
                counts = {
                    "tokens": episode.context_tokens,
                    "sampled_tokens": episode.written_tokens,
                    "prompt_tokens": episode.prompt_tokens,
                }
                file.add(told_as_trajectory(episode), sample, seed, **counts)

        try:
            async with searching as search:
                await for_all(missing, one, at_once=options.concurrency, total=len(examples), on_post=told(display))
        except (ChatRefused, SearchSpent, ApiSettingsError) as error:
            raise DataError(f"{error}; the same command goes on from there") from error
        finally:
            await client.close()
        log.info("the endpoint: %s", client.usage())
    provenance = Provenance(model=f"{options.served} at {options.endpoint}")
    await asyncio.to_thread(finish, config, options, file, examples, data, provenance)
    return sum(bool(file.missing(example, options.answers)) for example in examples)


def told_as_trajectory(episode: ChatEpisode) -> Trajectory:
    """The episode in the form that rows are made of, as `rewards.rows.read_row` would read it: without a token."""
    trajectory = Trajectory(episode.id, episode.example, turns=list(episode.turns))
    trajectory.finish(episode.stop_reason)
    return trajectory


class _Failures:
    """Counts posts without an answer, and ends it when there are no others."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def answered(self) -> None:
        """A post got an answer."""
        self._in_a_row = 0

    def add(self, example: Example, error: ChatError) -> None:
        """A post got none.

        Raises:
            DataError: none of the last `GIVE_UP` posts did.
        """
        self._in_a_row += 1
        log.warning("post %s got no answer: %s", example.id, error)
        if self._in_a_row >= GIVE_UP:
            raise DataError(
                f"none of the last {GIVE_UP} posts got an answer ({error}); the same command goes on from there"
            ) from error


def _client(config: Config, options: Options) -> ChatClient:
    # One after another, evenly: a burst would come on top of what a second may have.
    try:
        return ChatClient(
            options.endpoint,
            options.served,
            limiter=RateLimiter(Limits(options.requests_per_s, burst=1, concurrency=options.concurrency)),
            key_env=options.key_env,
            timeout_s=options.timeout_s,
            retries=options.retries,
            price_in=options.price_in,
            price_out=options.price_out,
            seed=config.run.seed,
        )
    except ValueError as error:
        raise ConfigError(f"endpoint: {error}") from error
    except ChatRefused as error:
        raise ConfigError(str(error)) from error


def _policy(config: Config, options: Options, client: ChatClient) -> EndpointPolicy:
    return EndpointPolicy(
        client,
        episode_prompts(config, options),
        limits=EpisodeLimits(**asdict(episode_config(config, options).episode)),
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        max_result_chars=config.search.max_chars,
        temperature=config.rollout.temperature if options.samples else 0.0,
    )
