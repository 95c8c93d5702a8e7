"""Picture files by reference, and paths that stay inside their folder.

Knows nothing of caches or encyclopaedias. Always holds: a path that leads out of its root, by `..`, by
being absolute or through a link, is refused; only a picture's header is read here, never its pixels.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

from sake_ray.types import ImageRef

MAX_PIXELS = 64_000_000


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


@lru_cache(maxsize=65_536)
def picture_ref(path: Path) -> ImageRef:
    """A picture file that does not change as a reference; see `picture_size`."""
    return ImageRef(str(path), *picture_size(path))


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture file, from its header.

    Raises:
        ValueError: the file is no picture, or has more than `MAX_PIXELS` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # The limit below is ours; Pillow's warning about large pictures would only repeat it.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                width, height = image.size
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: cannot be read as a picture ({error}); replace or remove the file") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: {width} x {height} pixels, at most {MAX_PIXELS} are accepted; replace the file")
    return width, height
