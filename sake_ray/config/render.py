"""The configuration as text: `--help`, `--dry-run` and docs/configuration.md.

Knows nothing of how a configuration is checked or used. Always holds: every field of every section appears, with its
default and meaning, because the texts are made from the dataclasses.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import yaml

from sake_ray.config.config import Config
from sake_ray.config.load import preset_names, read_preset
from sake_ray.config.plan import describe_plan, totals
from sake_ray.config.sections import SECTIONS
from sake_ray.config.values import Section, Value, field_types, show


def help_text(config: Config, program: str) -> str:
    """Every field, by section, with its value under `config`, its default where that is another, and its meaning."""
    lines = [
        f"usage: {program} [preset=NAME] [section.field=value ...] [--dry-run] [--help]",
        "",
        f"Presets: {', '.join(preset_names())}, or the path of a .yaml file.",
        f"Below: every setting, the value it has with preset={config.preset} unless you give another, its meaning, and",
        "its default where the preset, the job or you say otherwise.",
    ]
    for section in SECTIONS:
        lines += ["", f"{section.NAME}: {_summary(section)}"]
        part = getattr(config, section.NAME)
        for field in dataclasses.fields(section):
            value, default = (show(v) or '""' for v in (getattr(part, field.name), field.default))
            differs = "" if value == default else f"  (default {default})"
            lines.append(f"  {section.NAME}.{field.name}={value}{differs}")
            lines.append(f"      {_kind(section, field)}: {field.metadata['help']}")
    return "\n".join(lines) + "\n"


def dry_run_text(config: Config) -> str:
    """The resolved configuration as YAML, then the actors and resources the job would take."""
    plan = describe_plan(config)
    content = config.to_dict()
    content["run"]["dir"] = str(config.run_dir)
    lines = [
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip(),
        "",
        f"hash: {config.config_hash}",
        "",
    ]
    lines.append(f"{'actor':<10} {'count':>5} {'CPUs each':>10} {'GPUs each':>10}")
    lines += [f"{r.actor:<10} {r.count:>5} {r.cpus:>10g} {r.gpus:>10g}" for r in plan]
    cpus, gpus = totals(plan)
    lines.append(f"{'reserved':<10} {sum(r.count for r in plan):>5} {cpus:>10g} {gpus:>10g}")
    lines.append("Nothing was started (--dry-run).")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """docs/configuration.md: every field with type, default, where presets differ, and meaning."""
    presets = {name: read_preset(name) for name in preset_names()}
    lines = [
        "# Configuration",
        "",
        "<!-- Made by `make docs` from sake_ray/config/sections.py and sake_ray/presets/; edit those. -->",
        "",
        "Every script that runs a stage, RL, an evaluation or the service takes `preset=NAME` and any number of",
        "`section.field=value`; `--help` lists the fields or says which script lists them, `--dry-run` prints the",
        "resolved configuration and the actors it would start (of a service, the most it may have).",
        "A value comes from the command line, else from the job, else from the preset, else it is the default below.",
        f"A preset is a name ({', '.join(f'`{name}`' for name in presets)}) or the path of a YAML file,",
        "which may begin with `extends: NAME`.",
    ]
    for section in SECTIONS:
        lines += ["", f"## {section.NAME}", "", _summary(section), ""]
        lines += ["| field | type | default | presets | meaning |", "|---|---|---|---|---|"]
        for field in dataclasses.fields(section):
            key = f"{section.NAME}.{field.name}"
            differing = _differing(key, field.default, presets)
            cells = (f"`{key}`", _kind(section, field), _code(field.default), differing, field.metadata["help"])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _differing(key: str, default: object, presets: dict[str, dict[str, Value]]) -> str:
    """`2: mini, mini_fast; 8: qwen25vl_7b` for the presets whose value is not the default."""
    by_value: dict[Value, list[str]] = {}
    for name, values in presets.items():
        if key in values and values[key] != default:
            by_value.setdefault(values[key], []).append(name)
    return "; ".join(f"{_code(value)}: {', '.join(names)}" for value, names in by_value.items())


def _kind(section: type[Section], field: Any) -> str:
    """`float, 0..1` or `full, compact`: a field's type or choices, and its bounds."""
    limits = field.metadata
    if limits["choices"]:
        return ", ".join(limits["choices"])
    name = "path" if limits["is_path"] else field_types(section)[field.name].__name__
    low, high, above = limits["low"], limits["high"], limits["above"]
    if above is not None:
        return f"{name}, >{above:g}" + ("" if high is None else f" ..{high:g}")
    if low is None and high is None:
        return name
    return f"{name}, {low}..{'' if high is None else high}"


def _summary(section: type[Section]) -> str:
    return (inspect.getdoc(section) or "").splitlines()[0]


def _code(value: object) -> str:
    return f"`{show(value)}`" if show(value) else "(empty)"
