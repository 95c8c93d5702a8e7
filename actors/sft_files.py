"""The files of a supervised run's folder, and how a run ends: what its two sides have in common.

Knows nothing of Ray or torch. Always holds: a name stands here once.
"""

from __future__ import annotations

from dataclasses import dataclass

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
