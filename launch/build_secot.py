"""Stage 1b: SAKE-SeCoT, multi-turn trajectories that teach the policy when and how to search.

    python launch/build_secot.py preset=mini tags.file=runs/tag_difficulty-mini/tags.jsonl
    python launch/build_secot.py … secot.teacher=openai secot.endpoint=http://HOST:8000/v1 secot.model=NAME

Writes into the run folder: accepted.jsonl and rejected.jsonl (every try, with reasons), searches.jsonl (what was
really found), report.{json,md}, and the data set (data/train.parquet, README.md, messages.jsonl), which is the folder
to give launch/sft_secot.py as secot.dir. Goes on where a killed run was. Knows nothing of how trajectories are made.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs uninstalled, as a Ray working directory

from launch.building import build_secot
from launch.display import RunDisplay
from launch.job_data import load_data
from launch.script import run_stage
from launch.starting import base_model, tagged
from sake_ray.coldstart.tag_files import read_tags
from sake_ray.config.config import Config

log = logging.getLogger("build_secot")


async def work(config: Config, run_dir: Path, display: RunDisplay) -> None:
    """Build the data set of a configuration."""
    data = load_data(config)
    tags = read_tags(Path(config.tags.file)) if config.tags.file else {}
    report = await build_secot(
        config,
        tagged(config, data.train),
        tags,
        looks=data.looks,
        model=base_model(config),
        data_root=data.root,
        folder=run_dir,
        display=display,
    )
    log.info("SeCoT: %s\n\n%s", run_dir, report.table())


if __name__ == "__main__":
    sys.exit(run_stage("build_secot", work, sys.argv[1:]))
