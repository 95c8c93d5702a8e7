"""The words of an evaluation's command line that are no settings.

Knows nothing of what they do. Always holds: a word that would not do what it says is refused, naming the one that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from launch.words import UsageError, read_words
from rewards.protocols import PROTOCOLS
from sake_ray.config.config import Config
from sake_ray.config.values import show
from sake_ray.seeding import derive_seed
from sake_ray.types import Example

SPLITS = ("test", "dev", "train")


def _word(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """The words of the command line that are no settings."""

    output: Path = field(metadata={"help": "folder of the evaluation; the same command goes on in it"})
    model: str = _word("", "mini, or the folder of a model, a run or a training checkpoint")
    endpoint: str = _word("", "instead of model: base URL of an OpenAI-compatible endpoint")
    split: str = _word("test", "posts to evaluate on: test, dev or train")
    samples: int = _word(0, "answers sampled for each post, at rollout.temperature; 0: one, greedily")
    max_posts: int = _word(0, "only the first so many posts; 0: all")
    tools: bool = _word(True, "false: one turn without tools, with the direct prompts")
    protocol: str = _word("strict", "whose scores stand at the top: strict or release")
    served: str = _word("", "endpoint: the model's name there")
    missing: str = _word("leave_out", "endpoint: posts that got no answer are left out of the scores, or empty answers")
    key_env: str = _word("OPENAI_API_KEY", "endpoint: environment variable that holds the key; unset: none is sent")
    requests_per_s: float = _word(5.0, "endpoint: requests a second")
    concurrency: int = _word(16, "endpoint: posts in work at once")
    timeout_s: float = _word(120.0, "endpoint: seconds one request may take")
    retries: int = _word(4, "endpoint: times a request is repeated after a time-out, 429 or 5xx")
    price_in: float = _word(0.0, "endpoint: price of a million prompt tokens")
    price_out: float = _word(0.0, "endpoint: price of a million written tokens")

    @property
    def answers(self) -> int:
        """Episodes of a post."""
        return max(1, self.samples)

    def seed(self, config: Config, example: Example, sample: int) -> int | None:
        """The seed of an episode; None for a greedy one."""
        return derive_seed(config.run.seed, "evaluate", example.id, sample) if self.samples else None


_CHOICES = {"split": SPLITS, "missing": ("leave_out", "empty"), "protocol": PROTOCOLS}


def read_options(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """The options, and the settings among the arguments.

    Raises:
        UsageError: a word that cannot be, or that belongs to another way of evaluating.
    """
    own = {item.name: item for item in fields(Options)}
    mine = [word for word in arguments if word.partition("=")[0] in own]
    settings = [word for word in arguments if word.partition("=")[0] not in own]
    words = read_words(mine, own)
    helps = {"-h", "--help"} & set(arguments)
    if not words.get("output") and not helps:
        raise UsageError("output=… is missing: the folder that the evaluation is written to")
    if bool(words.get("model")) == bool(words.get("endpoint")) and not helps:
        raise UsageError("give either model=… (mini, a model's, a run's or a checkpoint's folder) or endpoint=URL")
    if words.get("endpoint") and not words.get("served"):
        raise UsageError("endpoint=… needs served=NAME, the model's name there")
    refuse_foreign(words, settings)
    values: dict[str, Any] = {key: _value(own[key].default, key, text) for key, text in words.items()}
    values["output"] = Path(words.get("output") or "evaluation")
    values.setdefault("model", "" if words.get("endpoint") else "mini")
    return Options(**values), settings


def refuse_foreign(words: Mapping[str, str], settings: Sequence[str]) -> None:
    """Refuse what would not do what it says.

    Raises:
        UsageError: naming the word to use instead.
    """
    instead = {"model.path": "model=", "run.dir": "output=", "eval.split": "split=", "eval.max_examples": "max_posts="}
    for word in settings:
        if (key := word.partition("=")[0]) in instead:
            raise UsageError(f"{key}: in an evaluation it is {instead[key]}…")
    for_endpoint = {item.name for item in fields(Options) if item.metadata["help"].startswith("endpoint: ")}
    if not words.get("endpoint") and (foreign := sorted(for_endpoint & set(words))):
        raise UsageError(f"{', '.join(foreign)}: only together with endpoint=URL")


def _value(default: Any, key: str, text: str) -> Any:
    if key in _CHOICES and text not in _CHOICES[key]:
        raise UsageError(f"{key}={text}: must be one of {', '.join(_CHOICES[key])}")
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UsageError(f"{key}={text}: must be true or false")
        return text == "true"
    if default is MISSING or isinstance(default, str):
        return text
    try:
        number = type(default)(text)
    except ValueError:
        raise UsageError(f"{key}={text}: must be a number, e.g. {key}={default:g}") from None
    if not 0 <= number < float("inf") or (number == 0 and key in ("requests_per_s", "concurrency", "timeout_s")):
        raise UsageError(f"{key}={text}: is out of range, e.g. {key}={default:g}")
    return number


def help_text() -> str:
    """The words, one a line."""
    lines = ["Words beside the settings:"]
    for item in fields(Options):
        default = "required" if item.default is MISSING else f"default {show(item.default) or 'none'}"
        lines.append(f"  {item.name:<15} {item.metadata['help']} ({default})")
    return "\n".join(lines) + "\n\n"
