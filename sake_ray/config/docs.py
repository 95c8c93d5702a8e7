"""`python -m sake_ray.config.docs FILE` writes docs/configuration.md; `make docs` calls it."""

from __future__ import annotations

import sys
from pathlib import Path

from sake_ray.config.render import markdown

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m sake_ray.config.docs FILE")
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
