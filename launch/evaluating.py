"""Evaluates a model or a served one on a split: episodes as in training, then the report.

    python launch/evaluate.py model=mini|MODEL|RUN|CHECKPOINT output=DIR [section.field=value …]
    python launch/evaluate.py endpoint=http://HOST/v1 served=NAME output=DIR [section.field=value …]

The first runs on the rollout pool, greedily or `samples=k` times a post; a run's policy comes with the run's settings.
The second asks an OpenAI-compatible endpoint (launch/evaluating_endpoint.py). Knows nothing of scores. Always holds: an
episode that is in DIR/episodes.jsonl is never played again, and the same command goes on where it was cut off and ends
with the same report; a post without an answer is not scored unless it was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from envs.search_env import NoSearch
from launch.display import RunDisplay
from launch.episode_file import EpisodeFile
from launch.evaluating_options import Options, help_text, read_options
from launch.job_data import DataSet, load_data
from launch.model_source import ModelSource, find_model, policy_defaults
from launch.tagging import model_fingerprint
from launch.words import UsageError
from rewards.composite import Scorer
from rewards.evaluation.inputs import TrainIndex, record_of_example, with_tags
from rewards.evaluation.report import Provenance, build_report, write_report
from sake_ray.coldstart.all_posts import OnPost, for_all
from sake_ray.coldstart.tag_files import read_tags
from sake_ray.config.config import Config
from sake_ray.config.identity import FREE
from sake_ray.data.problems import DataError
from sake_ray.pages import evaluation_page
from sake_ray.prompts import Prompts, load_direct_prompts, load_prompts
from sake_ray.trainer.checkpoint import MANIFEST
from sake_ray.types import Example

log = logging.getLogger(__name__)
JOB = "evaluate"
REFUSED, UNANSWERED = 2, 1


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit status (1: some posts got no answer)."""
    from launch.script import run_stage

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(f"{__doc__}\n{help_text()}")
    try:
        options, settings = read_options(arguments)
        source = None if options.endpoint else find_model(options.model)
        defaults = policy_defaults(source, settings, options.output)
    except (UsageError, DataError) as error:  # the process boundary
        sys.stderr.write(f"{JOB}: {error}\n")
        return REFUSED
    unanswered = 0

    async def work(config: Config, run_dir: Path, display: RunDisplay) -> None:
        nonlocal unanswered
        if source is not None:
            await evaluate_model(config, options, source, display)
            return
        from launch.evaluating_endpoint import evaluate_endpoint

        unanswered = await evaluate_endpoint(config, options, display)

    status = run_stage(JOB, work, settings, defaults, cluster=source is not None)
    return status or (UNANSWERED if unanswered else 0)


# --- what both ways have in common -----------------------------------------------------------------------


def load_posts(config: Config, options: Options) -> tuple[list[Example], DataSet]:
    """The posts to evaluate on, and the data set they are of.

    Raises:
        DataError: a file, a row or a picture that cannot be used, there are no posts, or tags.file is of others.
    """
    split = config.eval.split if options.split == "train" else options.split
    config = replace(
        config,
        data=replace(config.data, max_examples=0),
        eval=replace(config.eval, split=split, max_examples=0),
    )
    data = load_data(config)
    examples = list(data.train if options.split == "train" else data.held_out)[: options.max_posts or None]
    if not examples:
        raise DataError(f"the {options.split} split in {data.root} has no posts")
    log.info("%d posts of the %s split in %s", len(examples), options.split, data.root)
    if config.tags.file:  # refused now, not when all episodes have been played
        with_tags([record_of_example(e) for e in examples], read_tags(Path(config.tags.file)), config.tags.file)
    return examples, data


def episode_config(config: Config, options: Options) -> Config:
    """The settings of the episodes: as in training, or one turn without tools."""
    if options.tools:
        return config
    return replace(config, episode=replace(config.episode, max_turns=1, text_searches=0, image_searches=0))


def episode_prompts(config: Config, options: Options) -> Prompts:
    """The prompts of the episodes.

    Raises:
        PromptError: a file that is missing or cannot be used.
    """
    load = load_prompts if options.tools else load_direct_prompts
    return load(config.data.task, config.prompts.set, config.prompts.dir)


def identity(config: Config, options: Options, model: Mapping[str, str], prompts: Prompts) -> dict[str, Any]:
    """All that the episodes of a folder depend on; more posts and more samples may come to them later."""
    search = {name: value for name, value in asdict(config.search).items() if f"search.{name}" not in FREE}
    data = {name: getattr(config.data, name) for name in ("task", "subset", "images", "min_pixels", "max_pixels")}
    sampling = {"temperature": config.rollout.temperature, "seed": config.run.seed} if options.samples else "greedy"
    return {
        "model": dict(model),
        "split": options.split,
        "sampling": sampling,
        "tools": options.tools,
        "prompts": hashlib.sha256(repr(prompts).encode()).hexdigest()[:12],
        "episode": asdict(config.episode),
        "search": search if options.tools else None,
        "data": data | ({} if config.data.root else {"world": asdict(config.world)}),
    }


def open_episodes(
    config: Config, options: Options, model: Mapping[str, str], examples: Sequence[Example]
) -> EpisodeFile:
    """The episodes that are in the folder already.

    Raises:
        DataError: they are of other settings, or of other posts.
    """
    pixels = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
    file = EpisodeFile(options.output, identity(config, options, model, episode_prompts(config, options)), **pixels)
    for example in examples:
        file.check(example, options.answers)
    return file


def finish(
    config: Config,
    options: Options,
    file: EpisodeFile,
    examples: Sequence[Example],
    data: DataSet,
    provenance: Provenance,
) -> dict[str, Any]:
    """Write the report of what is in the folder, and its page; returns the report.

    Raises:
        DataError: no post has an answer, or tags.file is of other posts.
    """
    pixels = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
    scorer = Scorer.from_config(config.reward, **pixels)
    empty = options.missing == "empty"
    records = file.records(examples, options.answers, scorer, empty=empty)
    if not records:
        raise DataError(f"none of the {len(examples)} posts got an answer; the same command asks again")
    if config.tags.file:
        records = with_tags(records, read_tags(Path(config.tags.file)), config.tags.file)
    train = TrainIndex.of(((e.text, e.type) for post in data.train for e in post.entities), f"{data.root} (train)")
    made = datetime.now(UTC).isoformat(timespec="seconds")
    provenance = replace(
        provenance, config_hash=config.config_hash, split=options.split, seed=config.run.seed, made=made
    )
    notes = []
    if config.data.images == "standin":
        notes.append(
            "The pictures are stand-ins, which show the gold boxes with their names: no number here is a result."
        )
    unanswered = sum(bool(file.missing(example, options.answers)) for example in examples)
    if unanswered:
        what = "are counted as empty answers" if empty else "are left out of every number"
        notes.append(
            f"{unanswered} of {len(examples)} posts got no answer and {what}; the same command asks for them again."
        )
    price = None
    if options.price_in or options.price_out:
        read, written = (file.total(name, examples, options.answers) for name in ("prompt_tokens", "sampled_tokens"))
        price = (options.price_in * read + options.price_out * written) / 1e6
        notes.append(f"The answers cost {price:.4g}, for {read} tokens read and {written} written.")
    for note in notes:
        log.warning(note)
    report = build_report(
        records, task=config.data.task, protocol=options.protocol, provenance=provenance, train=train, notes=notes
    )
    report |= {} if price is None else {"price": price}
    report["unanswered"] = {"posts": unanswered, "of": len(examples), "counted_as_empty": empty}
    write_report(options.output, records, report)
    evaluation_page.write(options.output)
    scores = ", ".join(f"{name} F1 {report[name]['micro_f1']:.2f}" for name in ("gmner", "eeg", "mner"))
    log.info("%s on %d posts (%s): %s", scores, report["posts"], options.protocol, options.output / "report.md")
    return report


def told(display: RunDisplay) -> OnPost:
    """Shows people how many posts are done."""
    return lambda done, total: display.progress("evaluation", done, total, "posts")


# --- a model on the rollout pool -------------------------------------------------------------------------


async def evaluate_model(config: Config, options: Options, source: ModelSource, display: RunDisplay) -> Path:
    """Play the episodes that the folder lacks on the rollout pool, then write the report; returns the folder.

    Raises:
        DataError: the folder is of other settings, or the checkpoint cannot be read.
    """
    from launch.pools import rollout_pool, search_pool, worker_settings

    options = replace(options, output=config.run_dir.resolve())
    examples, data = load_posts(config, options)
    model = await asyncio.to_thread(policy_folder, source, options.output)
    fingerprint = await asyncio.to_thread(model_fingerprint, model)
    facts = {"weights": fingerprint, "dtype": config.rollout.dtype}
    file = open_episodes(config, options, facts, examples)
    missing = [example for example in examples if file.missing(example, options.answers)]
    if missing:
        playing = episode_config(config, options)
        settings = worker_settings(playing, model, episode_prompts(config, options))

        async def one(example: Example) -> None:
            numbers = file.missing(example, options.answers)
            seeds = [options.seed(config, example, number) for number in numbers]
            group = await pool.rollout(example, seeds=[seed or 0 for seed in seeds], greedy=not options.samples)
            for number, seed, trajectory in zip(numbers, seeds, group.trajectories, strict=True):
                file.add(trajectory, number, seed)

        # Without tools no search actor is started.
        searching = search_pool(playing, data.root) if options.tools else contextlib.nullcontext(NoSearch())
        async with searching as search, rollout_pool(settings, search, config.rollout.workers) as pool:
            # Twice what the engines decode at once, so that none runs dry.
            at_once = max(1, 2 * config.rollout.workers * config.rollout.max_num_seqs // options.answers)
            await for_all(missing, one, at_once=at_once, total=len(examples), on_post=told(display))
    provenance = Provenance(run=source.run, checkpoint=source.checkpoint, model=f"{source.name} ({fingerprint})")
    await asyncio.to_thread(finish, config, options, file, examples, data, provenance)
    return options.output


def policy_folder(source: ModelSource, output: Path) -> Path:
    """The Hugging Face folder of the policy; a training checkpoint's is written into `output` once.

    Raises:
        DataError: the checkpoint does not fit the model that its run started from.
    """
    if source.learner is None:
        return source.folder
    from actors.checkpoint_export import export_checkpoint

    # The manifest has the hash of every file, so the folder's name stands for the very weights.
    manifest = (source.learner.parent / MANIFEST).read_bytes()
    folder = output / f"{source.checkpoint}-{hashlib.sha256(manifest).hexdigest()[:12]}"
    if not folder.is_dir():
        log.info("writing the policy of %s to %s", source.learner.parent, folder)
        try:
            export_checkpoint(source.learner, source.folder, folder)
        except ValueError as error:
            raise DataError(str(error)) from error
    return folder
