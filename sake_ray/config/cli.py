"""What entry scripts call: arguments in, a checked `Config` out, or a printed text and the end of the process.

Knows nothing of what the job does. Always holds: `--help` and `--dry-run` start nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from sake_ray.config.config import Config
from sake_ray.config.load import resolve
from sake_ray.config.ready import check_ready
from sake_ray.config.render import dry_run_text, help_text
from sake_ray.config.values import ConfigError, Value


def load_config(argv: Sequence[str], *, job: str, defaults: Mapping[str, Value] | None = None) -> Config:
    """The configuration of `job`; answers `--help` and `--dry-run` by itself.

    Args:
        argv: the arguments after the script's name.
        job: the job's name, e.g. "rl_twitter17".
        defaults: the job's own defaults by dotted name (and "preset"); they win over the preset, not over `argv`.

    Raises:
        ConfigError: a key, value or combination that cannot be.
        SystemExit: with status 0 after `--help` or `--dry-run`.
    """
    flags = {"-h", "--help", "--dry-run"}
    config = resolve([text for text in argv if text not in flags], job=job, defaults=defaults)
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text(config, f"python launch/{job}.py"))
        raise SystemExit(0)
    if "--dry-run" in argv:
        sys.stdout.write(dry_run_text(config))
        raise SystemExit(0)
    return config


def config_or_exit(argv: Sequence[str], *, job: str, defaults: Mapping[str, Value] | None = None) -> Config:
    """`load_config` for a script's `main`: what cannot run ends the process with its sentence and status 2."""
    try:
        config = load_config(argv, job=job, defaults=defaults)
        check_ready(config)
        return config
    except ConfigError as error:
        sys.stderr.write(f"{job}: {error}\n")
        raise SystemExit(2) from None
