"""Sizing and box scaling equal the released code's; a picture is complete, of its size and within limits, or an error.

A wrong rule here would shift every gold box a little: scores would fall and nothing would say why.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sake_ray.data import images
from sake_ray.data.images import (
    MAX_ASPECT,
    ImageCache,
    ImageError,
    decoded_size,
    image_ref,
    image_size,
    load_image,
    processed_image,
    processed_size,
    scale_box,
    to_original,
    to_processed,
)
from sake_ray.types import Box, ImageRef

RELEASE = {"min_pixels": 512 * 512, "max_pixels": 672 * 672 * 2}
SIDES = st.integers(1, 5000)


def test_sizes_and_boxes_equal_the_released_code(shared: Path) -> None:
    cases = json.loads((shared / "golden" / "image_resize_cases.json").read_text())
    assert len(cases) == 60
    for case in cases:
        original, processed = tuple(case["original"]), tuple(case["processed"])
        assert processed_size(*original, **RELEASE) == processed
        assert list(to_processed(Box(*case["box_original"]), original, processed)) == case["box_processed"]
        assert to_original(case["box_processed"], processed, original).as_list() == case["box_back"]


@given(SIDES, SIDES)
def test_processed_sizes_keep_the_limits(width: int, height: int) -> None:
    new = processed_size(width, height, **RELEASE)
    assert min(new) >= 1
    if RELEASE["min_pixels"] <= width * height <= RELEASE["max_pixels"]:
        assert new == (width, height)
    elif 1 not in new:  # a side of one pixel cannot shrink any further
        assert new[0] * new[1] <= RELEASE["max_pixels"]


@pytest.mark.parametrize("arguments", [(0, 5, 1, 2), (5, -1, 1, 2), (5, 5, 0, 2), (5, 5, 9, 2)])
def test_nonsense_sizes_and_limits_are_refused(arguments: tuple[int, int, int, int]) -> None:
    width, height, low, high = arguments
    with pytest.raises(ValueError):
        processed_size(width, height, min_pixels=low, max_pixels=high)


@pytest.mark.parametrize("side", [float("nan"), float("inf"), 10**400])
def test_a_box_must_be_four_sensible_numbers(side: float) -> None:
    with pytest.raises(ValueError, match="not a box"):
        scale_box([0, 0, side, 1], (10, 10), (20, 20))
    with pytest.raises(ValueError, match="not a box"):
        scale_box([0, 0, 1], (10, 10), (20, 20))


def _png(size: tuple[int, int] = (20, 10), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_loaded_as_rgb_from_a_file_or_from_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(mode="RGBA"))
    ref = image_ref(path)
    assert (ref.width, ref.height) == (20, 10)
    assert load_image(ref).mode == "RGB"
    assert load_image(ImageRef("kept in a parquet", 20, 10, data=path.read_bytes())).size == (20, 10)


def test_a_bad_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    good = _png((200, 100))
    cases = {"missing.png": None, "text.png": b"no picture", "cut.png": good[: len(good) // 2], "empty.png": b""}
    for name, content in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ImageError, match=name.replace(".", r"\.")):
            load_image(ImageRef(str(path), 200, 100))
    with pytest.raises(ImageError, match=r"20 x 10.*says 40 x 40"):
        load_image(ImageRef("other.png", 40, 40, data=_png()))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF"])
@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_what_decodes_whole_is_what_will_load(tmp_path: Path, form: str, damage: str) -> None:
    """The header of a damaged picture is fine: only decoding shows that a run would stop at it."""
    path = tmp_path / f"a.{form.lower()}"
    Image.effect_noise((200, 100), 80).convert("L").save(path, form)
    assert (image_ref(path), load_image(image_ref(path)).size) == (ImageRef(str(path), 200, 100), (200, 100))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    assert image_size(path) == (200, 100)
    loads = True
    try:
        load_image(ImageRef(str(path), 200, 100))
    except ImageError:
        loads = False
    if loads:  # some decoders make what they can of noise
        assert damage == "noise" and decoded_size(path) == (200, 100)
    else:
        with pytest.raises(ImageError, match=path.name):
            image_ref(path)


@given(st.integers(1, 400), st.integers(1, 40_000), st.integers(28 * 28, 10**6), st.integers(28 * 28, 10**6))
def test_no_picture_in_use_is_too_long_for_the_processors(short: int, long: int, low: int, high: int) -> None:
    """transformers' smart_resize refuses a ratio over 200, in the middle of a run; sizing can raise a ratio."""
    try:
        images.check_shape(short, long)
    except ImageError:
        assert long > MAX_ASPECT * short or short > MAX_ASPECT * long
    else:
        sized = processed_size(short, long, min_pixels=min(low, high), max_pixels=max(low, high))
        assert max(sized) <= 200 * min(sized)


@pytest.mark.parametrize("size", [(1010, 10), (10, 1010)])
def test_a_picture_too_long_and_thin_is_refused_from_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="more than 100 times"):
        image_size(_png(size), name="thin.png")
    with pytest.raises(ImageError, match=r"stand-in.*more than 100 times"):
        load_image(ImageRef("thin.png", *size, standin=()))


@given(st.binary(max_size=200), st.integers(0, 60))
def test_no_bytes_make_anything_but_a_picture_or_an_image_error(noise: bytes, at: int) -> None:
    data = _png()[:at] + noise
    try:
        image_size(data, name="noise")
        load_image(ImageRef("noise", 20, 10, data=data))
    except ImageError as error:
        assert "noise" in str(error)


def test_a_picture_that_claims_too_many_pixels_is_refused_before_decoding() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 10_000, 8_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    with pytest.raises(ImageError, match="pixels"):
        image_size(bomb, name="bomb.png")


def test_a_stand_in_is_drawn_at_its_size_without_reading_a_file() -> None:
    ref = ImageRef("nowhere.jpg", 60, 40, standin=((Box(5, 5, 30, 30), "Müller 🙂"),))
    image = load_image(ref)
    assert image.size == (60, 40)
    assert image.getpixel((5, 5)) != image.getpixel((50, 35))
    assert image.tobytes() == load_image(ref).tobytes()


def test_processed_pictures_are_kept_and_the_oldest_goes_first() -> None:
    refs = [ImageRef(f"{name}.png", 20, 10, data=_png()) for name in "abc"]
    assert processed_image(refs[0], 800, 1000).size == processed_size(20, 10, min_pixels=800, max_pixels=1000)
    cache = ImageCache(capacity=2)
    first = [cache.get(ref, 100, 1000) for ref in refs[:2]]
    assert cache.get(refs[0], 100, 1000) is first[0]
    cache.get(refs[2], 100, 1000)  # pushes out b, the least recently used
    assert len(cache) == 2
    assert cache.get(refs[0], 100, 1000) is first[0]
    assert cache.get(refs[1], 100, 1000) is not first[1]


def test_importing_the_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, sake_ray.data.images, sake_ray.data.loading;"
        "sys.exit('PIL' in sys.modules or 'pyarrow' in sys.modules or 'torch' in sys.modules)"
    )
    root = Path(images.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
