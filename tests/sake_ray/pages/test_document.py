"""A page asks for nothing outside itself, and its data is inert."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.pages.document import data_block, inert_json, picture_block, write_page
from sake_ray.pages.markup import el
from tests.sake_ray.pages.page_case import HOSTILE


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_data_is_read_back_as_it_was_and_holds_nothing_that_html_reads(value: Any) -> None:
    packed = inert_json(value)
    assert json.loads(packed) == value
    assert packed.isascii() and not set(packed) & set("<>&")


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        inert_json([float("nan")])


def test_a_picture_is_a_data_address_and_nothing_else() -> None:
    for address in ("https://a.b/c.png", "data:text/html,<b>", 'data:image/png;base64,"><script>'):
        with pytest.raises(ValueError, match="no data address"):
            picture_block("t1", address)
    with pytest.raises(ValueError, match="no id"):
        picture_block('t"1', "data:image/png;base64,AAAA")


def test_a_page_is_whole_has_a_policy_with_the_hashes_of_its_own_code_and_names_no_address(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    blocks = (data_block("d0", {"text": HOSTILE}),)
    size = write_page(
        path,
        title=HOSTILE,
        body=el("main", HOSTILE),
        blocks=blocks,
        scripts=("base.js", "card.js", "gallery.js"),
        styles=("page.css",),
    )
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size == size and [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0].replace("&#x27;", "'")
    for name in ("script", "style"):
        inline = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        assert len(inline) == 1, "one script and one style, both of this package"
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    names = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", names)
