"""What the documentation shows as code is code that works."""

from __future__ import annotations

import re
from pathlib import Path

from envs.tools.contract import check_provider

DOCS = Path(__file__).parents[1] / "docs"


async def test_the_provider_that_tools_md_shows_keeps_the_contract() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "tools.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {"__name__": "wiki"}
    exec(code, names)
    await check_provider(names["Wiki"], tries=50)  # type: ignore[arg-type]
