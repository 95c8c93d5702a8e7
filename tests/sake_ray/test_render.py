"""`--help`: every field with the value it has, its default, and its meaning; nothing to look up elsewhere."""

from __future__ import annotations

import pytest

from sake_ray.config import load_config
from sake_ray.config.load import FIELDS, preset_names
from sake_ray.config.render import help_text
from sake_ray.config.values import show


@pytest.mark.parametrize("preset", preset_names())
def test_help_shows_a_default_exactly_where_the_value_is_another(preset: str) -> None:
    config = load_config([f"preset={preset}", "run.seed=5"], job="rl_twitter17")
    lines = help_text(config, "rl_twitter17").splitlines()
    for key, field in FIELDS.items():
        section, _, name = key.partition(".")
        value, default = (show(v) or '""' for v in (getattr(getattr(config, section), name), field.default))
        expected = f"  {key}={value}" if value == default else f"  {key}={value}  (default {default})"
        assert expected in lines, key
    assert "  run.seed=5  (default 0)" in lines
