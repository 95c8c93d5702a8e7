"""Seeds for everything random, derived from what the randomness belongs to.

Knows nothing of any random generator. Always holds: the same parts give the same seed in every
process, on every machine and Python version (`hash()` would not), and parts that differ in value, type
or order give unrelated seeds, so (1, 23) and (12, 3) share nothing.
"""

from __future__ import annotations

import hashlib

SEED_BITS = 63
"""Seeds are in 0 .. 2**63 - 1: non-negative, and a signed 64-bit integer everywhere they go."""


def derive_seed(*parts: int | str) -> int:
    """A seed for the thing `parts` name, for instance (run seed, step, post id, sample).

    Raises:
        TypeError: a part is neither a string nor an integer (floats have several spellings).
        ValueError: no parts were given.
    """
    if not parts:
        raise ValueError("derive_seed needs at least one part, such as the run's seed")
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | str):
            raise TypeError(f"derive_seed takes strings and integers; got {part!r} of type {type(part).__name__}")
        kind = b"s" if isinstance(part, str) else b"i"
        encoded = str(part).encode("utf-8", "surrogatepass")
        # The length in front keeps neighbouring parts apart.
        digest.update(kind + len(encoded).to_bytes(8, "big") + encoded)
    return int.from_bytes(digest.digest(), "big") >> (64 - SEED_BITS)
