"""Published GMNER F1 of other methods, to stand beside ours.

None of them was run here. Always holds: every row says under which protocol its number was made, as far as that is
known, and where it comes from.
"""

from __future__ import annotations

from typing import Any

_AS_PUBLISHED = "as published"
_SOURCE = "as the literature on SAKE lists it; not run here"

_ROWS: tuple[tuple[str, float | None, float | None, str, str], ...] = (
    ("H-Index", 56.41, 46.55, "H-Index (our strict)", _SOURCE),
    ("TIGER", 57.48, 47.20, _AS_PUBLISHED, _SOURCE),
    ("MQSPN", 58.76, 47.86, _AS_PUBLISHED, _SOURCE),
    ("GEM", 59.83, 50.54, _AS_PUBLISHED, _SOURCE),
    ("E2E-GMNER", 63.94, 54.32, _AS_PUBLISHED, _SOURCE),
    ("UnCo (Gemini-2.5)", 64.58, 53.56, _AS_PUBLISHED, _SOURCE),
    ("RiVEG", 67.06, None, _AS_PUBLISHED, _SOURCE),
    ("MCR", 70.6, None, _AS_PUBLISHED, _SOURCE),
    ("Qwen2.5-VL-7B, 3-shot", 35.29, 23.56, _AS_PUBLISHED, _SOURCE),
    ("GPT-4o", 41.29, 32.37, _AS_PUBLISHED, _SOURCE),
    ("SAKE-7B", None, None, "the released evaluator (our release)", "released checkpoints; no figure at hand"),
)


def published_rows(task: str) -> list[dict[str, Any]]:
    """Rows of a task, "gmner" (Twitter-GMNER) or "fmnerg" (Twitter-FMNERG): name, task, value, protocol, source.

    `value` is GMNER F1 in percent, None where there is none.
    """
    at = 2 if task == "fmnerg" else 1
    return [{"name": row[0], "task": task, "value": row[at], "protocol": row[3], "source": row[4]} for row in _ROWS]
