"""Score saved rollouts, or re-score them under another reward.

    python launch/score.py preset=release input=CASES output=OUT.jsonl
    python launch/score.py reward.gamma=0.5 input=RUN/trajectories.jsonl output=OUT.jsonl

Input is a JSON list or JSON lines of {"responses": [turn, …], "gold": [{"entity", "type", "bbox"}, …], "config": {…}},
or what a run wrote (trajectories.jsonl, eval_trajectories.jsonl). OUT gets, in the same order, one line {"score",
"format", "search_count", "mner_f1", "eeg_f1", "gmner_f1"} for each. A run's trajectories are scored by the preset given
here and, beside it, by the reward settings in the run's config.json where none are given. Knows nothing of how a score
is made. Always holds: OUT appears whole or not at all; a wrong case is one sentence with file, line and field on
standard error, and exit status 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

if __package__ in (None, ""):  # run as a file from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.run_reward import RUN_KEYS, RUN_KEYS_HELP, run_scorer
from launch.words import UsageError, read_words
from rewards.cases import PRESETS, read_case
from rewards.composite import Scorer, ScoringError
from rewards.rows import is_row, read_row
from sake_ray.config import ConfigError
from sake_ray.data.json_files import read_values, write_whole
from sake_ray.data.problems import DataError, ProblemLog
from sake_ray.types import Reward

_HELP = {
    "input": "file of cases, a JSON list or JSON lines, or of a run's trajectories (required)",
    "output": "file to write, JSON lines (required)",
    "preset": "paper (default) or release (the released code's reward, exactly)",
}

_CONFIG_HELP = """
Fields of a case's config, all optional (a case is replayed with one text and one image search allowed):
  reward_mode               EM: GMNER F1; MultiEM: lambda_1·MNER + lambda_2·EEG + lambda_3·GMNER F1 (default EM)
  lambda_1 lambda_2 lambda_3  weights of MultiEM (default 0.25, 0.25, 0.5)
  format_penalty            p: weight of the format; the F1 has weight 1 - p (default 0.1)
  iou_threshold             overlap from which a box is right (default 0.5)
  image_size_info           [{"original_size": [w, h], "processed_size": [w, h]}]; without it boxes are not scaled
  use_search_count_penalty  release: 0.01 off an F1 above 0.9 for each search turn (default false); paper: no meaning
  search_weight gamma       paper only: cost of a search from an F1 of gamma on (default 0.05, 0.9)
"""


def main(arguments: list[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(_help())
        return 0
    try:
        options = read_options(arguments)
        output = Path(options.pop("output"))
        lines = list(score_file(Path(options.pop("input")), options.pop("preset", "paper"), options))
        write_whole(output, "".join(f"{line}\n" for line in lines))
    except (UsageError, DataError, ConfigError, OSError) as error:  # the process boundary
        sys.stderr.write(f"score: {error}\n")
        return 2
    sys.stderr.write(f"score: {len(lines)} cases → {output}\n")
    return 0


def read_options(arguments: list[str]) -> dict[str, str]:
    """Read `key=value` words.

    Raises:
        UsageError: an unknown, repeated or missing key, or an unknown preset.
    """
    options = read_words(arguments, [*_HELP, *RUN_KEYS], required=("input", "output"))
    if options.get("preset", "paper") not in PRESETS:
        raise UsageError(f"preset={options['preset']}: must be one of {', '.join(PRESETS)}")
    return options


def score_file(path: Path, preset: str, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """One JSON line for each case or trajectory of the file, in order.

    `settings` are a run's (`RUN_KEYS`), as texts; they win over those in the config.json beside the file.

    Raises:
        DataError: the file or a case cannot be read or scored.
        UsageError: settings for cases, which carry their own, or a run's pixel limits are nowhere to be found.
        ConfigError: a setting that cannot be.
    """
    settings = settings or {}
    scorer: Scorer | None = None
    broken = ProblemLog("skip")  # only so that the sentence is ours: the first broken line ends the run
    for index, (line, value) in enumerate(read_values(path, broken)):
        _refuse_broken(broken)
        where = f"{path}:{line}: case {index}"
        is_run = is_row(value)
        if settings and not is_run:
            raise UsageError(f"{', '.join(settings)}: for a run's trajectories, but {where} carries its own config")
        if is_run and scorer is None:
            scorer = run_scorer(path, preset, settings)
        try:
            reward = scorer.score(read_row(value)) if is_run and scorer else read_case(value, preset).score()
        except (ValueError, ScoringError) as error:  # a wrong field, or what a rule refuses
            raise DataError(f"{where}: {error}") from error
        yield json.dumps(_scores(reward))
    _refuse_broken(broken)


def _scores(reward: Reward) -> dict[str, float]:
    return {
        "score": reward.total,
        "format": int(reward.format),
        "search_count": reward.searches,
        "mner_f1": reward.mner_f1,
        "eeg_f1": reward.eeg_f1,
        "gmner_f1": reward.gmner_f1,
    }


def _help() -> str:
    keys = "\n".join(f"  {key:<8}{text}" for key, text in _HELP.items())
    run = "For a run's trajectories, where the config.json beside them is not to hold:"
    return f"{__doc__}\nKeys:\n{keys}\n\n{run}\n{RUN_KEYS_HELP}\n{_CONFIG_HELP}"


def _refuse_broken(log: ProblemLog) -> None:
    if log.problems:
        raise DataError(str(log.problems[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
