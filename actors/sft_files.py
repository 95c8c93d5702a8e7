"""The files of a supervised run's folder, and how a run ends: what its two sides have in common.

Knows nothing of Ray or torch. Always holds: a JSON file here is replaced whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CARD = "sft.json"
"""What the run depends on; in the policy's folder, that of the finished run."""
PLAN = "plan.json"
"""Steps and posts; written when the ranks are ready to train, so there is none before that."""
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
POLICY = "policy"
STOP = "stop"
"""While there is such a file the run is asked to end."""


@dataclass(frozen=True)
class Outcome:
    """How a rank ended: after how many steps; `refused` says why nothing more can be done."""

    step: int = 0
    stopped: bool = False
    refused: str = ""


def replace_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole: a reader sees the old one or the new one."""
    scratch = path.with_name(f"{path.name}.tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(scratch, path)
