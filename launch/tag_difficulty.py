"""Stage 1a: how well does the base model know each entity of the training posts?

    python launch/tag_difficulty.py preset=mini [section.field=value …]    samples the model, on the rollout pool
    python launch/tag_difficulty.py samples=FILE output=OUT.jsonl          tags saved samples, without a model

The first writes RUN/samples.jsonl, RUN/tags.jsonl (for tags.file=…), RUN/report.{json,md} and RUN/hits.png, and goes
on where a killed run was. The second takes the form described in sake_ray/coldstart/tag_files.py and writes one line a
post: a list of {"is_search", "hit_text", "hit_image"}, one for each gold row. Knows nothing of how either is done.
Always holds: OUT appears whole or not at all.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs uninstalled, as a Ray working directory

from launch.words import UsageError, read_words
from sake_ray.coldstart.tag_files import read_samples
from sake_ray.config.config import Config
from sake_ray.data.json_files import write_lines
from sake_ray.data.problems import DataError

log = logging.getLogger("tag_difficulty")
_WORDS = ("samples", "output")


def tag_saved(arguments: list[str]) -> int:
    """Tag a samples file; returns the exit status."""
    try:
        words = read_words(arguments, _WORDS, required=_WORDS)
        output = Path(words["output"])
        posts = list(read_samples(Path(words["samples"])))
        rows = [
            [
                {"is_search": str(tag.is_search), "hit_text": tag.hit_text, "hit_image": tag.hit_image}
                for tag in post.tags()
            ]
            for post in posts
        ]
        write_lines(output, rows)
    except (UsageError, DataError, OSError) as error:  # the process boundary
        sys.stderr.write(f"tag_difficulty: {error}\n")
        return 2
    malformed, taken = sum(post.malformed for post in posts), sum(len(post.samples) for post in posts)
    sys.stderr.write(
        f"tag_difficulty: {len(posts)} posts, {sum(map(len, rows))} gold rows; {malformed} of {taken} samples did not "
        f"parse → {output}\n"
    )
    return 0


def main(arguments: list[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if any(word.startswith(tuple(f"{name}=" for name in _WORDS)) for word in arguments):
        return tag_saved(arguments)
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(f"{__doc__}\n")
    from launch.display import RunDisplay
    from launch.script import run_stage

    async def work(config: Config, run_dir: Path, display: RunDisplay) -> None:
        from launch.job_data import load_data
        from launch.starting import base_model
        from launch.tagging import TAGS, tag_posts

        examples = load_data(config).train[: config.tags.posts or None]
        report = await tag_posts(config, examples, base_model(config), run_dir, display)
        log.info("tags of %d posts: %s\n\n%s", len(examples), run_dir / TAGS, report.table())

    return run_stage("tag_difficulty", work, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
