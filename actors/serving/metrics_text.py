"""The service's numbers in one text: what Ray's node agents export, of every node, less what is not ours.

Knows nothing of who counted. Always holds: a family's lines stand together under one HELP and TYPE, as Prometheus wants
them; a node that does not answer in time is left out and named in a comment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import aiohttp

PREFIXES = ("ray_sake_ray_", "ray_serve_", "ray_vllm_")
_TIMEOUT_S = 3.0
_MAX_BYTES = 32 * 2**20


async def gather(addresses: Sequence[str]) -> str:
    """The families of these exporters (`http://host:port/metrics`), merged."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        answers = await asyncio.gather(*(_ask(session, address) for address in addresses))
    texts = [text for text in answers if text is not None]
    missing = [address for address, text in zip(addresses, answers, strict=True) if text is None]
    return "".join(f"# no answer from {address}\n" for address in missing) + merged(texts)


async def _ask(session: aiohttp.ClientSession, address: str) -> str | None:
    try:
        async with session.get(address) as response:
            if not response.ok:
                return None
            text = bytearray()
            async for piece in response.content.iter_any():
                text += piece
                if len(text) > _MAX_BYTES:
                    return None  # half a family would be worse than none
            return text.decode("utf-8", "replace")
    except (aiohttp.ClientError, TimeoutError):
        return None


def merged(texts: Iterable[str]) -> str:
    """The families of several exports that are ours, each once, with the lines of all."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.split("\n"):
            words = line.split(" ", 3)
            if line.startswith(("# HELP ", "# TYPE ")) and len(words) >= 3:
                family = words[2]
                if line not in heads.setdefault(family, []):
                    heads[family].append(line)
            elif line and not line.startswith("#") and family.startswith(PREFIXES):
                samples.setdefault(family, []).append(line)
    lines = (line for family in sorted(samples) for line in (*_once(heads[family]), *samples[family]))
    return "".join(f"{line}\n" for line in lines)


def _once(heads: Iterable[str]) -> list[str]:
    """One HELP and one TYPE: nodes may word a help text differently."""
    by_kind: dict[str, str] = {}
    for line in heads:
        by_kind.setdefault(line.split(" ", 2)[1], line)
    return list(by_kind.values())
