"""From defaults, preset, job and command line to one checked `Config`.

Knows nothing of what the settings do. Always holds: precedence is field default < preset < job default < command line
(a key given twice: the later one), and whatever is not understood is an error, never ignored.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sake_ray.config.check import check_combinations
from sake_ray.config.config import Config
from sake_ray.config.sections import SECTIONS
from sake_ray.config.values import ConfigError, Value, field_types, nearest, parse_value

PRESET_DIR = Path(__file__).parent.parent / "presets"
DEFAULT_PRESET = "mini"
_MAX_PRESET_BYTES = 100_000
_MAX_PRESET_DEPTH = 5

FIELDS: dict[str, Any] = {
    f"{section.NAME}.{field.name}": field for section in SECTIONS for field in dataclasses.fields(section)
}
"""Every dotted field name, in the order of sections.py."""


def resolve(overrides: Sequence[str], *, job: str, defaults: Mapping[str, Value] | None = None) -> Config:
    """Build the configuration of `job` from `key=value` texts.

    Args:
        overrides: `preset=NAME` and `section.field=value` texts.
        job: name of the job; part of the default run folder.
        defaults: the job's own defaults, by dotted name; they win over the preset.

    Raises:
        ConfigError: a key, value or combination that cannot be.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", job):
        raise ConfigError(f"job={job!r}: must be lower-case letters, digits and underscores")
    given = [_split(text) for text in overrides]
    values: dict[str, Value] = {}
    preset = str((defaults or {}).get("preset", DEFAULT_PRESET))
    for key, text in given:
        if key == "preset":
            preset = text
    values.update(read_preset(preset))
    for key, value in (defaults or {}).items():
        if key != "preset":
            values[key] = _typed(key, value)
    for key, text in given:
        if key != "preset":
            values[key] = _typed(key, text)
    config = build(values, job=job, preset=preset)
    check_combinations(config)
    return config


def build(values: Mapping[str, Value], *, job: str, preset: str) -> Config:
    """A `Config` from typed values by dotted name; missing ones take their field's default.

    Raises:
        ConfigError: a value is outside its field's limits.
    """
    parts: dict[str, Any] = {}
    for section in SECTIONS:
        prefix = f"{section.NAME}."
        own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        parts[section.NAME] = section(**own)
    return Config(job=job, preset=preset, **parts)


def preset_names() -> list[str]:
    """The shipped presets."""
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def read_preset(name: str, depth: int = 0) -> dict[str, Value]:
    """A preset's values by dotted name: a shipped name, or the path of a YAML file of the user's.

    A preset may start from another: `extends: NAME`.

    Raises:
        ConfigError: there is no such preset, or it holds something that is no setting.
    """
    shipped = PRESET_DIR / f"{name}.yaml"
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else shipped
    if (not is_file and name not in preset_names()) or not path.is_file():
        best = nearest(name, preset_names())[0]
        raise ConfigError(
            f"preset={name}: no such preset; shipped: {', '.join(preset_names())}; nearest: preset={best} "
            "(or give the path of a .yaml file)"
        )
    if depth > _MAX_PRESET_DEPTH:
        raise ConfigError(
            f"preset={name}: presets extend each other more than {_MAX_PRESET_DEPTH} deep; is it a circle?"
        )
    content = _read_yaml(path)
    base = content.pop("extends", None)
    values = {} if base is None else read_preset(str(base), depth + 1)
    for section, fields in content.items():
        if not isinstance(fields, dict):
            raise ConfigError(f"{path}: {section}: must hold `field: value` lines, got {fields!r}")
        for field, value in fields.items():
            key = f"{section}.{field}"
            try:
                values[key] = _typed(key, value)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
    return values


def absolute_paths(overrides: Sequence[str], base: Path) -> list[str]:
    """The same overrides with every relative path that exists made absolute, for a job that runs in another folder."""
    result = []
    for text in overrides:
        key, separator, value = text.partition("=")
        is_path = key == "preset" or (key in FIELDS and FIELDS[key].metadata["is_path"]) or key == "trainer.resume"
        if separator and is_path and value and ((base / value).exists() or key == "run.dir"):
            text = f"{key}={(base / value).resolve()}"
        result.append(text)
    return result


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_PRESET_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_PRESET_BYTES} bytes; is it a preset?")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold sections with `field: value` lines")
    return content


def _split(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or key.startswith("-"):
        hint = f"{_suggest(key.lstrip('-'))}=…" if key.lstrip("-") else "rollout.workers=2"
        raise ConfigError(f"{text!r}: settings are given as key=value, flags are --help and --dry-run; nearest: {hint}")
    return key.strip(), value.strip()


def _known(key: str, value: object) -> str:
    if key in FIELDS:
        return key
    sections = {section.NAME: [k for k in FIELDS if k.startswith(f"{section.NAME}.")] for section in SECTIONS}
    if key in sections:
        raise ConfigError(f"{key}={value}: {key} is a section; give one of its fields: {', '.join(sections[key])}")
    raise ConfigError(f"{key}={value}: no such setting; nearest: {_suggest(key)} (all of them: --help)")


def _suggest(key: str) -> str:
    """The field names most like `key`; one whose last part is exactly the same wins."""
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in FIELDS if name.rpartition(".")[2] == leaf]
    return " or ".join(same_leaf or nearest(key, FIELDS)[:1])


def _typed(key: str, value: object) -> Value:
    """Bring a preset's, job's or user's value to the field's type (YAML reads `2e-6` as a text)."""
    field = FIELDS[_known(key, value)]
    section, _, name = key.partition(".")
    wanted = next(field_types(part)[name] for part in SECTIONS if section == part.NAME)
    if isinstance(value, str):
        return parse_value(key, value, wanted, field.default)
    if isinstance(value, int) and not isinstance(value, bool) and wanted is float:
        return float(value)
    if not isinstance(value, bool | int | float):
        raise ConfigError(f"{key}={value!r}: must be a single value, e.g. {key}={field.default}")
    return value
