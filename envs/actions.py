"""`sake_ray.actions` under the name it had when only the environment read turns."""

from __future__ import annotations

from sake_ray.actions import (
    ACTION_TAGS,
    DEFAULT_LIMITS,
    STOP_STRINGS,
    ActionLimits,
    MalformedReason,
    parse_action,
)

__all__ = ["ACTION_TAGS", "DEFAULT_LIMITS", "STOP_STRINGS", "ActionLimits", "MalformedReason", "parse_action"]
