"""From a command line to the settings of a service: which policies, their engines and search, limits, examples.

Knows nothing of Ray or HTTP. Always holds: nothing is started before all of it is known to be usable; a policy of a run
has the run's own settings, each of two policies its own.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from actors.rollout_actor import WorkerSettings
from actors.search_build import ToolSpec
from actors.search_pool import PoolSettings
from actors.serving.settings import IngressSettings, ServedPolicy, ServiceSettings
from envs.fetch.picture import MAX_PIXELS
from launch.following import Follower
from launch.job_data import load_miniworld
from launch.model_source import CONFIG, POLICY, ModelSource, find_model, policy_defaults, run_source
from launch.pools import worker_settings
from launch.run_checkpoints import BEST_POLICY
from launch.search_tool import cache_dir, check_search
from launch.serving_examples import example_posts
from launch.starting import MINI
from launch.words import UsageError, read_words
from sake_ray.coldstart.stage_folder import held
from sake_ray.config.cli import config_or_exit
from sake_ray.config.config import Config
from sake_ray.config.values import ConfigError
from sake_ray.serving.messages import PolicyCard
from sake_ray.serving.request import RequestLimits

log = logging.getLogger(__name__)
JOB = "serve"
RUNS = Path("runs")
_NAMES = ("a", "b")
_MIB = 2**20


@dataclass(frozen=True)
class Service:
    """A service to start; `every_s` is how often it looks at the run it follows."""

    settings: ServiceSettings
    cpus: int
    proxy: str
    follower: Follower | None
    every_s: float


def plan_service(arguments: Sequence[str], stop: threading.Event, stack: ExitStack) -> Service | None:
    """All of a service, checked; None when it was stopped while it waited for the first policy of a run.

    Its folder is held until `stack` is closed.

    Raises:
        UsageError, ConfigError, DataError, ImageError, PromptError: what keeps it from being started.
    """
    words = read_words([word for word in arguments if word.startswith("model=")], ("model",))
    settings = [word for word in arguments if not word.startswith("model=")]
    given = dict(word.partition("=")[::2] for word in settings)
    follow, compare = given.get("serve.follow", ""), given.get("serve.compare", "")
    if sum(map(bool, (words.get("model"), follow, compare))) > 1:
        raise UsageError("give one of model=…, serve.follow=RUN and serve.compare=A,B")
    if follow:
        sources = [run_source(follow)]
    else:
        sources = [find_model(name) for name in (_split(compare) if compare else [words.get("model") or last_run()])]
    config = policy_config(sources[0], settings)
    folder = config.run_dir.resolve()
    token = _token(config)
    _check_address(config.serve.host, config.serve.port, token)
    stack.enter_context(held(folder))
    follower = None
    if follow:
        follower = Follower(Path(follow).resolve(), _NAMES[0], folder / "policies")
        card = _first(follower, follow, config.serve.follow_every_s, stop)
        if card is None:
            return None
        policies = [served_policy(config, card)]
    else:
        policies = [
            served_policy(policy_config(source, settings), policy_card(source, name, folder))
            for source, name in zip(sources, _NAMES, strict=False)
        ]
    made = _settings(config, policies, token)
    return Service(made, _cpus(made), config.serve.proxy, follower, config.serve.follow_every_s)


def _settings(config: Config, policies: Sequence[ServedPolicy], token: str) -> ServiceSettings:
    """The service's parts, as the first policy's configuration has them."""
    serve, search = config.serve, config.search
    limits = RequestLimits(
        max_text_chars=serve.max_text_chars,
        max_body_bytes=serve.max_body_mib * _MIB,
        max_batch=serve.max_batch,
        text_searches=config.episode.text_searches,
        image_searches=config.episode.image_searches,
        deadline_s=serve.deadline_s,
        urls=serve.urls,
    )
    ingress = IngressSettings(
        limits=limits,
        max_concurrent=serve.max_concurrent,
        max_pixels=min(config.data.max_pixels, MAX_PIXELS),
        body_s=serve.body_s,
        fetch_s=serve.fetch_s,
        allow_private=serve.allow_private,
        token=token,
        examples=tuple(example_posts(config)),
    )
    return ServiceSettings(
        policies=policies,
        ingress=ingress,
        pool=PoolSettings(
            min(search.timeout_s, serve.search_s), max_pending=search.max_pending, per_query=policies[0].tool.web
        ),
        host=serve.host,
        port=serve.port,
        ingresses=serve.replicas("ingress"),
        engines=serve.replicas("engines"),
        searches=serve.replicas("searches"),
        per_engine=serve.per_engine,
        search_cpus=search.cpus_per_worker,
    )


def last_run(runs: Path = RUNS) -> str:
    """The run under `runs` that was begun last and has a policy, else the shipped policy."""
    found = [
        path.parent
        for path in runs.glob(f"*/{CONFIG}")
        if any((path.parent / name / CONFIG).is_file() for name in (BEST_POLICY, POLICY))
    ]
    if not found:
        log.info("no run with a policy in %s: serving the shipped base model, which does not search", runs)
        return MINI
    return str(max(found, key=lambda run: (run / CONFIG).stat().st_mtime))


def policy_config(source: ModelSource, settings: Sequence[str], job: str = JOB) -> Config:
    """The configuration of a policy: its run's settings, then the command line's; `job` is who complains of them."""
    if source.settings:  # a run of `mini` has all that the preset would say
        settings = [word for word in settings if word != f"preset={MINI}"]
    name = Path(source.run).name if source.run else source.name
    defaults = policy_defaults(source, settings, RUNS / f"serve-{name}")
    config = config_or_exit(settings, job=job, defaults=defaults)
    check_search(config)
    return replace(config, rollout=replace(config.rollout, pause="wait", deadline_s=0.0))


def served_policy(config: Config, card: PolicyCard) -> ServedPolicy:
    """A policy and what its engines and its search are built from, as its configuration has them."""
    tool = ToolSpec(config.search, str(data_root(config)), cache_dir(config), config.data.max_pixels)
    return ServedPolicy(card, served_settings(config, card.folder), tool)


def served_settings(config: Config, folder: str) -> WorkerSettings:
    """What an engine that serves the policy in `folder` is built from."""
    settings = worker_settings(config, Path(folder))
    # Nobody trains on what is served; vLLM's own series cost as much as a search.
    return replace(settings, engine=replace(settings.engine, logprobs=False, ray_metrics=False))


def data_root(config: Config) -> Path:
    """The folder whose encyclopaedia a policy searches by default; MiniWorld's is written on first use."""
    return Path(config.data.root).resolve() if config.data.root else load_miniworld(config).root


def policy_card(source: ModelSource, name: str, folder: Path) -> PolicyCard:
    """The policy of a source under a name; that of a training checkpoint is written into `folder` once.

    Raises:
        DataError: the checkpoint does not fit the model that its run started from.
    """
    from launch.evaluating import policy_folder

    made = policy_folder(source, folder)
    return PolicyCard(name, source.name, str(made.resolve()), source.checkpoint)


def _first(follower: Follower, run: str, every_s: float, stop: threading.Event) -> PolicyCard | None:
    told = False
    while (card := follower.look()) is None:
        if not told:
            log.info("%s has no best policy yet; waiting for its first evaluation", run)
            told = True
        if stop.wait(every_s):
            return None
    return card


def _split(compare: str) -> list[str]:
    names = [name.strip() for name in compare.split(",") if name.strip()]
    if len(names) != len(_NAMES):
        raise ConfigError(f"serve.compare={compare}: must be two policies with a comma between")
    return names


def _token(config: Config) -> str:
    name = config.serve.token_env
    if not name:
        return ""
    token = os.environ.get(name, "").strip()
    if len(token) < 16:
        raise ConfigError(
            f"serve.token_env={name}: the variable holds {'no token' if not token else 'fewer than 16 characters'}; "
            f'export {name}="$(openssl rand -hex 32)", say'
        )
    return token


def _check_address(host: str, port: int, token: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"serve.host={host}: must be an IP address; nearest: serve.host=127.0.0.1") from None
    if not loopback and not token:
        raise ConfigError(
            f"serve.host={host}: others can reach it, so a token is needed: serve.token_env=NAME of a variable that "
            "holds one; or stay on this machine with serve.host=127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"serve.port={port}: cannot listen at {host}: {error.strerror}; choose another") from None


def _cpus(settings: ServiceSettings) -> int:
    """What a Ray of this machine alone must believe to have."""
    engines = sum(settings.engines[1] * policy.settings.resources.cpus for policy in settings.policies)
    searches = settings.searches[1] * settings.search_cpus * len(settings.policies)
    return max(2, round(engines + searches + 1.5))
