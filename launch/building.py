"""Stage 1b as a part: tagged posts in, a folder of checked trajectories out.

Knows nothing of how posts were tagged or of training. Always holds: searches are really executed, through the search
pool, and remembered in the folder; the data set is made of the accepted tries alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envs.episode import EpisodeLimits
from envs.search_memo import SearchMemo
from envs.taught_episode import teach
from launch.display import RunDisplay
from launch.pools import search_pool
from sake_ray.coldstart.briefs import draw, make_briefs
from sake_ray.coldstart.checker import CheckRules, Problem, check
from sake_ray.coldstart.secot import AttemptLog, BuildReport, BuildSettings, build
from sake_ray.coldstart.secot_files import DatasetOptions, write_dataset
from sake_ray.coldstart.secot_rows import observation_of
from sake_ray.coldstart.stage_folder import claim
from sake_ray.coldstart.tag_files import PostTags
from sake_ray.coldstart.teacher import ScriptedTeacher
from sake_ray.coldstart.teacher_prompt import load_teacher_prompt
from sake_ray.coldstart.teaching import Brief, Demonstration, Need, TaughtTurn, Teacher
from sake_ray.config.config import Config
from sake_ray.config.identity import FREE
from sake_ray.data.codec import ChatCodec
from sake_ray.data.problems import DataError
from sake_ray.prompts import load_prompts
from sake_ray.trajectory import Trajectory
from sake_ray.types import Example

log = logging.getLogger(__name__)
SEARCHES = "searches.jsonl"


async def build_secot(
    config: Config,
    examples: Sequence[Example],
    tags: Mapping[str, PostTags],
    *,
    looks: Mapping[str, str],
    model: Path,
    data_root: Path,
    folder: Path,
    display: RunDisplay,
) -> BuildReport:
    """Teach the posts that the folder lacks, then write the data set and the report.

    Raises:
        DataError: the folder is of other settings, tags are of other data, or nothing was accepted.
        TeacherRefused: the teacher will not answer; what was made so far is kept.
    """
    secot = config.secot
    briefs = make_briefs(examples, tags, config.tags.file, tools=secot.tools, ambiguous=secot.ambiguous)
    briefs = draw(briefs, secot.posts, config.run.seed, secot.search_share)
    if not briefs:
        raise DataError(
            f"none of the {len(examples)} training posts can be taught: they have no difficulty (give tags.file), or "
            "all are ambiguous (secot.ambiguous)"
        )
    claim(folder, identity(config, model))
    attempts = AttemptLog(folder)
    teacher = make_teacher(config, looks)
    prompts = load_prompts(config.data.task, config.prompts.set, config.prompts.dir)
    pixels = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
    codec = ChatCodec.from_pretrained(str(model), prompts=prompts, max_result_chars=config.search.max_chars, **pixels)
    rules = CheckRules(**pixels, image_first=secot.image_first)
    settings = BuildSettings(secot.attempts, secot.concurrency)
    limits = EpisodeLimits(**asdict(config.episode))
    async with _closing(teacher), search_pool(config, data_root) as pool:
        memo = SearchMemo(pool, folder / SEARCHES, per_post=config.search.provider == "offline")

        async def play(brief: Brief, feedback: str, number: int) -> Trajectory:
            return await teach(
                brief,
                teacher,
                codec=codec,
                tokenizer=codec.tokenizer,
                search=memo,
                limits=limits,
                trajectory_id=f"{brief.example.id}/{teacher.name}-{number}",
                feedback=feedback,
            )

        def judge(trajectory: Trajectory, brief: Brief) -> list[Problem]:
            return check(trajectory, brief, rules, hidden=hidden_text(teacher, brief), shown=prompts.instruction)

        on_post = functools.partial(_told, display)
        await build(briefs, play, judge, attempts, settings, on_post)
        log.info("searches: %d asked, %d remembered", memo.asked, memo.hits)
    report = BuildReport.of(briefs, attempts, usage_of(teacher))
    report.write(folder)
    if not report.accepted:
        raise DataError(f"no trajectory was accepted; {folder / 'report.md'} says why")
    demonstrations = accepted(briefs, attempts, teacher.name)
    options = DatasetOptions(embedded=secot.images == "embedded", max_chars=config.search.max_chars)
    write_dataset(folder, demonstrations, prompts, options, f"```\n{report.table()}```")
    return report


def accepted(briefs: Sequence[Brief], attempts: AttemptLog, teacher: str) -> list[Demonstration]:
    """The accepted tries as demonstrations, in the briefs' order."""
    made = []
    for brief in briefs:
        row = attempts.accepted.get(brief.example.id)
        if row is None:
            continue
        turns = tuple(
            TaughtTurn(turn["text"], observation_of(turn, f"turns[{at}]")) for at, turn in enumerate(row["turns"])
        )
        needs = tuple(Need(need) for need in row["needs"])
        made.append(Demonstration(brief.example, needs, turns, teacher, row["attempt"]))
    return made


def identity(config: Config, model: Path) -> dict[str, Any]:
    """What the trajectories of a folder have in common; more posts or another speed may come to it later."""
    secot = config.secot
    prompts = load_prompts(config.data.task, config.prompts.set, config.prompts.dir)
    tokenizer = model / "tokenizer.json"
    search = {name: value for name, value in asdict(config.search).items() if f"search.{name}" not in FREE}
    return {
        "task": config.data.task,
        "teacher": _teacher_identity(config),
        "rules": [secot.tools, secot.ambiguous, secot.image_first, config.tags.known_by],
        "prompts": _digest(asdict(prompts)),
        "tokenizer": hashlib.sha256(tokenizer.read_bytes()).hexdigest()[:12] if tokenizer.is_file() else "",
        "pixels": [config.data.min_pixels, config.data.max_pixels],
        "episode": asdict(config.episode),
        "search": search,
    }


def make_teacher(config: Config, looks: Mapping[str, str]) -> Teacher:
    """The configured teacher."""
    if config.secot.teacher == "scripted":
        return ScriptedTeacher(min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels, looks=looks)
    from envs.openai_teacher import make_openai_teacher

    return make_openai_teacher(config)


def hidden_text(teacher: Teacher, brief: Brief) -> str:
    """The instructions that a teacher must not betray; a script has none."""
    hidden = getattr(teacher, "hidden_text", None)
    return str(hidden(brief)) if hidden is not None else ""


def usage_of(teacher: Teacher) -> dict[str, Any]:
    """Requests, tokens and cost of a teacher that counts them."""
    usage = getattr(teacher, "usage", None)
    return asdict(usage()) if usage is not None else {}


@contextlib.asynccontextmanager
async def _closing(teacher: Teacher) -> AsyncIterator[None]:
    """Let go of the connections of a teacher that has any."""
    try:
        yield
    finally:
        close = getattr(teacher, "close", None)
        if close is not None:
            await close()


def _teacher_identity(config: Config) -> list[Any]:
    """Who teaches, and how it is told to."""
    secot = config.secot
    if secot.teacher == "scripted":
        return [secot.teacher]
    prompt = load_teacher_prompt(
        config.data.task, min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels,
        image_first=secot.image_first, max_queries=config.episode.max_queries,
    )  # fmt: skip
    return [secot.teacher, secot.model, secot.temperature, _digest({"template": prompt.template})]


def _told(display: RunDisplay, done: int, total: int) -> None:
    display.progress("SeCoT", done, total, "posts")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
