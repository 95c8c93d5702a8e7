"""Predict the entities of posts: prints them, and saves the picture with their boxes.

    python launch/predict.py image=photo.jpg text="…" [output=DIR]
    python launch/predict.py folder=DIR output=DIR          pictures with their post in a .txt, or posts.jsonl
    python launch/predict.py posts=FILE.jsonl output=DIR    a line a post: text, image (a path); id and note optional
    python launch/predict.py … service=http://127.0.0.1:8000 [token_env=NAME]
    python launch/predict.py … model=mini|MODEL|RUN|CHECKPOINT [section.field=value …]

Without service=… the model runs in this process, as launch/serve.py would serve it (by default the policy of the last
run under runs/, else the shipped one), without Ray. One post: a table and what was searched (json=true: the result
alone, as the service sends it), and <name>.entities.png. Many: DIR/results.jsonl and DIR/<id>.png; the same command
goes on where it was cut off, and asks again about posts that had a problem. Knows nothing of how a post is answered.
Always holds: what cannot be is one sentence on standard error and exit status 2, a post without an answer is status 1,
Ctrl-C is 130; no picture of yours is written over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a file from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.post_files import Post, one_post, posts_of_file, posts_of_folder
from launch.predicting import RESULTS, Asker, AskingEnded, Results, draw, predict_all
from launch.words import UsageError, read_words
from sake_ray.coldstart.stage_folder import held
from sake_ray.config.values import ConfigError, show
from sake_ray.data.problems import DataError
from sake_ray.prompts import PromptError

if TYPE_CHECKING:
    from launch.predicting_locally import LocalPlan

log = logging.getLogger(__name__)
JOB = "predict"
REFUSED, UNANSWERED, STOPPED = 2, 1, 130
_SETTING = re.compile(r"preset=|[a-z0-9_]+\.[a-z0-9_]+=")


def _word(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Words:
    """The words of the command line that are no settings."""

    image: str = _word("", "a post's picture, with text=")
    text: str = _word("", "the post")
    folder: str = _word("", "folder of pictures with their post in a .txt of the same name, or with posts.jsonl")
    posts: str = _word("", "JSON-lines file of posts")
    output: str = _word("", "folder that results and pictures are written to; for one post the current one")
    service: str = _word("", "address of a running service that is asked; empty: the model runs here")
    token_env: str = _word("", "service: environment variable with its token")
    model: str = _word("", "here: mini, or the folder of a model, a run or a checkpoint; empty: the last run's policy")
    search: bool = _word(True, "false: the policy may not search")
    seed: int = _word(0, "of the sampling, where it is not greedy")
    temperature: float = _word(0.0, "0: greedy")
    deadline_s: float = _word(60.0, "seconds a post may take")
    concurrency: int = _word(8, "posts under way at once")
    json: bool = _word(False, "one post: its result as JSON on standard output, instead of the table")


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(help_text())
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s")
    logging.getLogger("launch").setLevel(logging.INFO)
    try:
        words, settings = read_arguments(arguments)
        return _predict(words, settings, _posts(words))
    except (UsageError, ConfigError, DataError, PromptError, AskingEnded, OSError) as error:  # the process boundary
        sys.stderr.write(f"{JOB}: {error}\n")
        return REFUSED
    except KeyboardInterrupt:
        return STOPPED


def read_arguments(arguments: Sequence[str]) -> tuple[Words, list[str]]:
    """The words, and the settings among the arguments.

    Raises:
        UsageError: a word that cannot be, or that would do nothing beside the others.
    """
    own = {item.name: item for item in fields(Words)}
    settings = [word for word in arguments if _SETTING.match(word)]
    given = read_words([word for word in arguments if not _SETTING.match(word)], own)
    words = Words(**{key: _value(own[key].default, key, text) for key, text in given.items()})
    sources = [name for name in ("image", "folder", "posts") if getattr(words, name)]
    if len(sources) != 1:
        raise UsageError('give one of image=FILE (with text="…"), folder=DIR and posts=FILE.jsonl; see --help')
    if bool(words.image) != ("text" in given):
        raise UsageError('image=FILE and text="…" belong together')
    if not words.image and not words.output:
        raise UsageError("output=… is missing: the folder that results and pictures are written to")
    if not words.image and words.json:
        raise UsageError(f"json=true is for one post; the results of many are in output/{RESULTS}")
    if words.service and (foreign := [*(["model"] if words.model else []), *(s.partition("=")[0] for s in settings)]):
        raise UsageError(f"{foreign[0]}=…: the service has its own; it is for a model that runs here")
    if words.token_env and not words.service:
        raise UsageError("token_env=…: only together with service=URL")
    return words, settings


def help_text() -> str:
    """The module's text and the words, one a line."""
    lines = [__doc__ or "", "Words:"]
    lines += [
        f"  {each.name:<12} {each.metadata['help']} (default {show(each.default) or 'none'})" for each in fields(Words)
    ]
    lines += ["", "Settings of a model that runs here (section.field=value): python launch/serve.py --help"]
    return "\n".join(lines) + "\n"


def _posts(words: Words) -> list[Post]:
    if words.image:
        return [one_post(words.text, Path(words.image))]
    return posts_of_folder(Path(words.folder), "folder") if words.folder else posts_of_file(Path(words.posts))


def _predict(words: Words, settings: Sequence[str], posts: list[Post]) -> int:
    """Ask about all; returns the exit status."""
    output = Path(words.output or ".")
    if words.image:
        plan = None if words.service else _plan(words, settings)
        return asyncio.run(_until_stopped(_one(words, plan, posts[0], output)))
    if words.posts and Path(words.posts).resolve() == (output / RESULTS).resolve():
        raise UsageError(f"output={output}: posts={words.posts} lies where its results would; choose another")
    with held(output, "output"):
        plan = None if words.service else _plan(words, settings)
        whose = {"service": words.service} if plan is None else plan.identity()
        asking = {"search": words.search, "seed": words.seed, "temperature": words.temperature}
        results = Results(output, {**whose, **asking}, posts)
        return asyncio.run(_until_stopped(_many(words, plan, posts, results)))


async def _one(words: Words, plan: LocalPlan | None, post: Post, output: Path) -> int:
    async with _asker(words, plan, 1) as asker:
        reply = await asker.ask(post)
        if reply.result is None:
            sys.stderr.write(f"{JOB}: {reply.said()}\n")
            return UNANSWERED
        target = output / f"{post.id}.entities.png"
        try:
            await asyncio.to_thread(draw, post, reply.result, target)
        except OSError as error:
            raise DataError(f"output={output}: the picture cannot be written: {error.strerror}") from error
        # Told before the model is put away, which takes seconds.
        if words.json:
            sys.stdout.write(json.dumps(reply.result, ensure_ascii=False, indent=1) + "\n")
        else:
            from launch.predicting_shown import show as show_result

            show_result(reply.result, sys.stdout)
            sys.stderr.write(f"{JOB}: the picture with the boxes: {target}\n")
        sys.stdout.flush()
    return 0


async def _many(words: Words, plan: LocalPlan | None, posts: list[Post], results: Results) -> int:
    missing = results.missing(posts)
    if len(missing) < len(posts):
        sys.stderr.write(f"{JOB}: {len(posts) - len(missing)} of {len(posts)} posts have a result already\n")
    unanswered = 0
    if missing:
        async with _asker(words, plan, min(words.concurrency, len(missing))) as asker:
            try:
                unanswered = await predict_all(posts, asker, results, at_once=words.concurrency)
            except AskingEnded as error:
                raise AskingEnded(f"{error}; the same command goes on from there") from error
    sys.stderr.write(f"{JOB}: {len(posts) - unanswered} of {len(posts)} posts have a result in {results.folder}\n")
    return UNANSWERED if unanswered else 0


def _asker(words: Words, plan: LocalPlan | None, at_once: int) -> AbstractAsyncContextManager[Asker]:
    """Whoever answers, up and running until the context is left."""
    if plan is not None:
        from launch.predicting_locally import local_asker
        from sake_ray.serving.request import Options

        options = Options(
            search=words.search,
            seed=words.seed,
            temperature=words.temperature,
            deadline_s=words.deadline_s,
            thumbnails=False,
        )
        return local_asker(plan, options, at_once)
    from launch.service_client import ServiceClient

    asking = {"search": words.search, "seed": words.seed, "temperature": words.temperature, "thumbnails": False}
    try:
        return ServiceClient(words.service, token=_token(words), options=asking, deadline_s=words.deadline_s)
    except ValueError as error:
        raise UsageError(f"service={error}") from error


def _plan(words: Words, settings: Sequence[str]) -> LocalPlan:
    from launch.predicting_locally import plan_locally

    return plan_locally(JOB, words.model, settings)


def _token(words: Words) -> str:
    if not words.token_env:
        return ""
    token = os.environ.get(words.token_env, "").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError(f"token_env={words.token_env}: the variable holds no token")
    return token


async def _until_stopped(work: Any) -> int:
    """The status of the work; Ctrl-C ends it where it stands."""
    task: asyncio.Task[int] = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not task.cancelling():  # a second Ctrl-C does not cut off what the first one ends
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        sys.stderr.write(f"{JOB}: stopped; what was answered is kept\n")
        return STOPPED


def _value(default: Any, key: str, text: str) -> Any:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UsageError(f"{key}={text}: must be true or false")
        return text == "true"
    if isinstance(default, str):
        return text
    try:
        number = type(default)(text)
    except ValueError:
        raise UsageError(f"{key}={text}: must be a number, e.g. {key}={default:g}") from None
    low, high = {
        "seed": (0, 2**31 - 1), "temperature": (0.0, 2.0), "deadline_s": (0.001, 3600.0), "concurrency": (1, 256)
    }[key]  # fmt: skip
    if not math.isfinite(number) or not low <= number <= high:
        raise UsageError(f"{key}={text}: must be from {low:g} to {high:g}")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
