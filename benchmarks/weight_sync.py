"""What new weights take from the learner to an engine, part by part, beside a plain copy of the same bytes.

    python benchmarks/weight_sync.py [models=mini,large] [repeats=5] [run=FOLDER] [out=FILE]

`mini` is the shipped base model, `large` a random Qwen2.5-VL of about 90 million parameters (float32: 376 MB). One
learner rank and one rollout worker with a vLLM engine run as Ray actors, and `publish` is called as training calls it.
Its parts: *gather* is the rank making numpy arrays of all parameters and Ray putting them into the object store;
*pause* is the engine draining and dropping its caches; *load* is everything from the shared-memory file on. Two parts
are measured alone, with the same bytes: *put* (Ray's object store) and *write* (the shared-memory file). A plain copy
goes into memory that is there already, a fresh one into new memory. `run` is the folder of a finished run: from its
`metrics.jsonl` comes the share of a training step.
Figures are of this machine and this run; look at the ratios. Always holds: after each publish the worker serves the
version that was published, or the run stops.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import ray

from actors.learner_group import make_learner_group
from actors.policy import PublishingLearner
from actors.weight_sync import ShmWeightSync
from benchmarks.script import own_ray, words_or_exit
from benchmarks.tables import markdown, spread
from envs.search_env import NoSearch
from launch.pools import rollout_pool, worker_settings
from launch.starting import base_model_folder
from launch.words import UsageError
from sake_ray.config import Config, load_config
from sake_ray.data.json_files import read_values

KEYS = ("models", "repeats", "run", "out")
Parts = dict[str, list[float]]


class Nowhere:
    """A `WeightControl` that takes buckets and does nothing with them."""

    async def start_weight_update(self) -> None:
        """Nothing."""

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Nothing."""

    async def finish_weight_update(self, weight_version: str) -> None:
        """Nothing."""


def make_large_model(folder: Path) -> Path:
    """A random Qwen2.5-VL of some 90 million parameters with the shipped model's tokenizer; returns the folder."""
    import torch
    from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration

    config = AutoConfig.from_pretrained(base_model_folder())
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 8}
    for name, value in {**text, "num_key_value_heads": 2, "head_dim": 128, "layer_types": None}.items():
        setattr(config.text_config, name, value)
    config.text_config.layer_types = ["full_attention"] * 6
    config.text_config.rope_parameters = {
        "rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 10000.0
    }  # fmt: skip
    config.vision_config.out_hidden_size = 1024
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).to(torch.float32).save_pretrained(folder)
    AutoProcessor.from_pretrained(base_model_folder()).save_pretrained(folder)
    return folder


async def measure(config: Config, model: Path, repeats: int) -> tuple[int, Parts]:
    """Bytes, and seconds of each part, repeat by repeat; the first publish is a warm-up."""
    found: Parts = {name: [] for name in ("publish", "gather", "pause", "load", "put", "write", "copy", "fresh copy")}
    group = make_learner_group(config, model)
    try:
        await group.start()
        async with rollout_pool(worker_settings(config, model), NoSearch(), 1) as pool:
            learner = PublishingLearner(group, pool)
            for version in range(1, repeats + 2):
                begin = time.perf_counter()
                told = await learner.publish(version)
                took = time.perf_counter() - begin
                if (served := (await pool.stats())[0].version) != version:
                    raise RuntimeError(f"version {version} was published and the worker serves {served}")
                if version > 1:
                    found["publish"].append(took)
                    for part in ("gather", "pause", "load"):
                        found[part].append(told[f"time/weight_{part}_s"])
            params: Mapping[str, Any] = await (await group.full_params())
    finally:
        group.shutdown()
    sync = ShmWeightSync()
    nbytes = await sync.push(Nowhere(), params, 0)
    own = {name: np.array(value) for name, value in params.items()}
    target = {name: np.array(value) for name, value in own.items()}
    for _ in range(repeats):
        found["put"].append(_seconds(lambda: ray.put(own)))
        begin = time.perf_counter()
        await sync.push(Nowhere(), own, 0)
        found["write"].append(time.perf_counter() - begin)
        found["copy"].append(_seconds(lambda: _copy(own, target)))
        found["fresh copy"].append(_seconds(lambda: {name: np.array(value) for name, value in own.items()}))
    return nbytes, found


def _copy(source: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    for name, value in source.items():
        np.copyto(target[name], value)


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    kept = work()
    took = time.perf_counter() - begin
    del kept
    return took


def table(found: Mapping[str, tuple[int, Parts]]) -> str:
    """Seconds, seconds a GB and multiples of a plain copy, in Markdown."""
    rows = []
    for model, (nbytes, parts) in found.items():
        plain = median(parts["copy"])
        for part, seconds in parts.items():
            gigabytes = nbytes / 1e9
            rows.append(
                [
                    f"{model}, {nbytes / 1e6:.0f} MB: {part}",
                    spread([1e3 * value for value in seconds], 1),
                    spread([value / gigabytes for value in seconds]),
                    f"{median(seconds) / plain:.1f}",
                ]
            )
    return markdown(("part", "ms", "s/GB", "of a plain copy"), rows)


def share_of_step(run: Path) -> str:
    """What a finished run's steps spent on publishing.

    Raises:
        DataError: the folder has no such metrics.
    """
    rows = [row for _, row in read_values(run / "metrics.jsonl") if row.get("time/step_s")]
    plain = [row for row in rows if "time/eval_s" not in row]
    shares = [100 * row["time/publish_s"] / row["time/step_s"] for row in plain]
    seconds = [1e3 * row["time/publish_s"] for row in plain]
    return (
        f"\nIn the {len(plain)} steps without evaluation of that run, publishing took {spread(seconds, 0)} ms: "
        f"{spread(shares, 1)} % of a step.\n"
    )


async def measure_all(models: list[str], repeats: int, folder: Path) -> dict[str, tuple[int, Parts]]:
    """Each model in turn."""
    config = load_config([], job="rl_twitter17")
    config = replace(config, algorithm=replace(config.algorithm, kl_coef=0.0))  # no second copy for the reference
    found = {}
    for name in models:
        if name not in ("mini", "large"):
            raise UsageError(f"models={name}: there are mini and large")
        model = base_model_folder() if name == "mini" else make_large_model(folder / "large")
        found[name] = await measure(config, model, repeats)
        logging.info("%s: publish took %.3f s", name, median(found[name][1]["publish"]))
    return found


def main(arguments: list[str]) -> int:
    """Measure everything; returns the exit status."""
    words = words_or_exit(arguments, KEYS, __doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    share = share_of_step(Path(words["run"])) if words.get("run") else ""
    with own_ray(4), tempfile.TemporaryDirectory(prefix="sake-bench-") as folder:
        models = words.get("models", "mini,large").split(",")
        found = asyncio.run(measure_all(models, int(words.get("repeats", "5")), Path(folder)))
    sys.stdout.write(table(found) + share)
    if words.get("out"):
        Path(words["out"]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
