"""One HTML file out of a body, data and this package's scripts and styles.

Knows nothing of what a page shows. Always holds: the file asks for nothing outside itself, and its policy
(Content-Security-Policy) forbids a browser to: pictures are `data:` only, and no script or style runs but those written
here, by their hash; data is inert and can neither end its element nor begin another.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sake_ray.pages.markup import Html, el

_ASSETS = Path(__file__).with_name("assets")
# "<" begins every tag and comment; the separators end a line in old JavaScript. Inside JSON, all are legal escapes.
_INERT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def asset(name: str) -> str:
    """A file of `assets/`."""
    return (_ASSETS / name).read_text(encoding="utf-8")


def inert_json(value: Any) -> str:
    """JSON that an HTML element can hold; only ASCII, so no encoding can change it.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    packed = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escape in _INERT.items():
        packed = packed.replace(character, escape)
    return packed


def data_block(name: str, value: Any) -> Html:
    """A value for the page's scripts, found by its id `name`."""
    return Html(f'<script type="application/json" id="{_id(name)}">{inert_json(value)}</script>\n')


def picture_block(name: str, address: str) -> Html:
    """A picture's `data:` address, decoded only when it is shown."""
    if not address.startswith("data:image/") or not address.isascii() or set(address) & set("<>&\"'"):
        raise ValueError(f"{address!r:.40} is no data address of a picture")
    return Html(f'<script type="text/plain" id="{_id(name)}">{address}</script>\n')


def write_page(
    path: Path, *, title: str, body: Html, blocks: Iterable[Html], scripts: Iterable[str], styles: Iterable[str]
) -> int:
    """Write the file, whole or not at all; returns its size in bytes. `blocks` are taken one by one."""
    style = "\n".join(asset(name) for name in styles)
    script = "\n".join(asset(name) for name in scripts)
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_head(title, style, script))
        file.write(body)
        file.writelines(blocks)
        file.write(f"<script>{script}</script>\n</body>\n</html>\n")
    os.replace(unfinished, path)
    return path.stat().st_size


def _head(title: str, style: str, script: str) -> Iterator[str]:
    for name, content in (("style", style), ("script", script)):
        if f"</{name}" in content.lower() or "<!--" in content:
            raise ValueError(f"an asset holds </{name} or <!--, which would end its element")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield el("meta", http_equiv="Content-Security-Policy", content=policy) + "\n"
    yield el("meta", name="viewport", content="width=device-width, initial-scale=1") + "\n"
    yield el("meta", name="color-scheme", content="light dark") + "\n"
    yield el("meta", name="referrer", content="no-referrer") + "\n"
    yield '<link rel="icon" href="data:,">\n'
    yield el("title", title) + f"\n<style>{style}</style>\n</head>\n<body>\n"


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def _id(name: str) -> str:
    if not name.replace("-", "").isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is no id of a block")
    return name
