"""The series that docs/grafana.json shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "docs" / "grafana.json"
RARE = frozenset({"ray_vllm_num_preemptions_total"})
"""Counters that begin with the first such event, which a small run has none of."""
OF_SEARCHES = frozenset({"ray_sake_ray_search_searches_total", "ray_sake_ray_search_latency_s_bucket"})
"""Series that begin with a run's first search."""


def load() -> dict[str, Any]:
    """The dashboard."""
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def queries() -> list[str]:
    """Every query of its panels and variables."""
    board = load()
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return panels + [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]


def series() -> set[str]:
    """Every series its queries name."""
    return {name for query in queries() for name in re.findall(r"\bray_\w+", query)}
