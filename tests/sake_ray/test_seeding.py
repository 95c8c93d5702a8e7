"""Seeds depend on the values, types and order of their parts, and on nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.seeding import SEED_BITS, derive_seed

parts = st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=6)


def test_a_seed_is_the_same_in_every_process_and_version() -> None:
    assert derive_seed(0, 3, "17_06_123", 5) == 2204508772541474600


@given(parts, parts)
def test_different_parts_give_different_seeds(first: list[int | str], second: list[int | str]) -> None:
    same = [(type(part), part) for part in first] == [(type(part), part) for part in second]
    assert (derive_seed(*first) == derive_seed(*second)) is same
    assert 0 <= derive_seed(*first) < 2**SEED_BITS


def test_what_has_no_single_spelling_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        derive_seed()
    for part in (1.0, True, None):
        with pytest.raises(TypeError, match="strings and integers"):
            derive_seed(part)  # type: ignore[arg-type]
