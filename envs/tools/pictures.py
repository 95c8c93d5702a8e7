"""Picture files by reference, and paths that stay inside their folder.

Knows nothing of caches or encyclopaedias. Always holds: a path that leads out of its root, by `..`, by
being absolute or through a link, is refused; a picture that a search result refers to has been decoded whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from sake_ray.data.images import ImageError, image_ref
from sake_ray.types import ImageRef

logger = logging.getLogger(__name__)


class UnsafePathError(ValueError):
    """A path that leads out of the folder it must stay in."""


def inside(root: Path, relative: str) -> Path:
    """The file `relative` names under `root`, links resolved; it need not exist.

    Raises:
        UnsafePathError: it would lie outside `root`.
    """
    if not relative or "\0" in relative or Path(relative).is_absolute():
        raise UnsafePathError(f"{relative!r}: must be a relative path inside {root}")
    home = root.resolve()
    path = (home / relative).resolve()
    if not path.is_relative_to(home):
        raise UnsafePathError(f"{relative!r}: leads out of {root}")
    return path


def usable_pictures(paths: Iterable[Path]) -> tuple[ImageRef, ...]:
    """References to the pictures that can be shown, in order; one that cannot is left out with a warning.

    A picture somebody put into a cache is not the policy's fault nor ours, and the rest of the result is still worth
    having; decoding it only where it is shown would stop the run there.
    """
    found = []
    for path in paths:
        try:
            stamp = path.stat()
            found.append(_decoded(path, stamp.st_mtime_ns, stamp.st_size))
        except (OSError, ImageError) as error:
            logger.warning("a picture is left out of a search result: %s", error)
    return tuple(found)


@lru_cache(maxsize=65_536)
def _decoded(path: Path, modified_ns: int, size: int) -> ImageRef:
    """Each picture is decoded once, and again when its file has changed."""
    return image_ref(path)
