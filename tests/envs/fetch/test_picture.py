"""`prepare_picture`: what a model is shown of a stranger's picture, and that nothing else of it survives."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from envs.fetch.picture import SUFFIX, PreparedPicture, prepare_in_thread, prepare_picture
from envs.fetch.refusal import FetchReason, FetchRefused
from sake_ray.data.images import load_image, processed_image
from sake_ray.types import ImageRef
from tests.envs.fetch import hostile_pictures as pictures

MAX_PIXELS = 672 * 672 * 2
RED, BLUE, WHITE, GREY = (255, 0, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)


def shown(picture: PreparedPicture) -> Image.Image:
    """As the project loads it later."""
    return load_image(ImageRef("p", picture.width, picture.height, data=picture.data))


def like(pixel: object, colour: tuple[int, int, int]) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= 3 for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [
        (pictures.jpeg(), RED, BLUE),
        (pictures.see_through_png(), WHITE, BLUE),
        (pictures.deep_png(), GREY, GREY),
        (pictures.many_frames_gif(5), RED, RED),
        (pictures.encoded(pictures.photo().convert("RGBA"), "WEBP", lossless=True), RED, BLUE),
        (pictures.encoded(pictures.photo(), "BMP"), RED, BLUE),
        (pictures.encoded(pictures.photo().convert("LA"), "PNG"), (76, 76, 76), (29, 29, 29)),
    ],
    ids=["jpeg", "transparent", "16-bit", "frames", "webp", "bmp", "grey and alpha"],
)
def test_every_kind_becomes_an_rgb_jpeg_of_the_same_look(data: bytes, left: tuple, right: tuple) -> None:  # type: ignore[type-arg]
    picture = prepare_picture(data, max_pixels=MAX_PIXELS)
    image = shown(picture)
    assert picture.suffix == SUFFIX and picture.data.startswith(b"\xff\xd8\xff") and image.mode == "RGB"
    assert like(image.getpixel((2, 20)), left) and like(image.getpixel((image.width - 3, 20)), right)
    assert prepare_picture(data, max_pixels=MAX_PIXELS) == picture


def test_orientation_is_applied_and_no_metadata_survives() -> None:
    data = pictures.sideways_jpeg()
    picture = prepare_picture(data, max_pixels=MAX_PIXELS)
    assert (picture.width, picture.height) == (40, 60)
    assert like(shown(picture).getpixel((20, 5)), RED) and like(shown(picture).getpixel((20, 55)), BLUE)
    assert pictures.SECRET in data and pictures.SECRET not in picture.data
    with Image.open(io.BytesIO(picture.data)) as image:
        assert not image.getexif() and set(image.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_a_gifs_comment_does_not_survive() -> None:
    data = pictures.encoded(pictures.photo(), "GIF", comment=pictures.SECRET)
    assert pictures.SECRET in data and pictures.SECRET not in prepare_picture(data, max_pixels=MAX_PIXELS).data


def test_large_ones_are_shrunk_by_the_rule_and_small_ones_left() -> None:
    for max_pixels, size in ((600, (30, 20)), (2399, (59, 39)), (2400, (60, 40)), (MAX_PIXELS, (60, 40))):
        picture = prepare_picture(pictures.jpeg(), max_pixels=max_pixels)
        assert (picture.width, picture.height) == size


@given(st.integers(8, 80), st.integers(8, 80), st.integers(50, 2_000), st.integers(2, 6), st.integers())
@example(10, 10, 200, 10, 0)  # below the least
@example(30, 20, 200, 10, 0)  # between
@example(60, 50, 200, 10, 0)  # above the most
def test_a_lossless_picture_shows_a_model_the_very_pixels_of_the_original(
    width: int, height: int, min_pixels: int, times: int, seed: int
) -> None:
    noise = Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(width * height * 3))
    original, max_pixels = pictures.encoded(noise, "PNG"), min_pixels * times
    picture = prepare_picture(original, max_pixels=max_pixels, lossless=True)
    assert (picture.suffix, picture.source) == (".png", (width, height))
    prepared = ImageRef("prepared", picture.width, picture.height, data=picture.data)
    seen = [
        processed_image(ref, min_pixels, max_pixels)
        for ref in (ImageRef("original", width, height, data=original), prepared)
    ]
    assert seen[0].size == seen[1].size and seen[0].tobytes() == seen[1].tobytes()


@pytest.mark.parametrize(("max_pixels", "size"), [(MAX_PIXELS, (40, 60)), (600, (20, 30))])
@pytest.mark.parametrize("lossless", [False, True])
def test_the_source_is_the_upright_original_however_it_is_shrunk(
    max_pixels: int, size: tuple[int, int], lossless: bool
) -> None:
    picture = prepare_picture(pictures.sideways_jpeg(), max_pixels=max_pixels, lossless=lossless)
    assert (picture.source, (picture.width, picture.height)) == ((40, 60), size)
    assert like(shown(picture).getpixel((size[0] // 2, 1)), RED) and pictures.SECRET not in picture.data


def test_shrinking_never_makes_a_picture_too_thin_to_be_shown() -> None:
    """100:1 is allowed, but a side of one pixel and a half is one pixel."""
    data = pictures.encoded(Image.new("RGB", (1900, 19)), "PNG")
    with pytest.raises(FetchRefused, match="times the other"):
        prepare_picture(data, max_pixels=350)
    assert prepare_picture(data, max_pixels=MAX_PIXELS).width == 1900


@pytest.mark.parametrize(
    "data",
    [
        pictures.cut(pictures.jpeg()),
        pictures.cut(pictures.deep_png()),
        pictures.many_frames_gif(1)[:40],
        pictures.png_header(100_000, 100_000),
        pictures.png_header(5_700, 5_700),
        pictures.png_header(0, 5),
        pictures.png_header(50, 50),
        pictures.lopsided_png(),
        pictures.scan_bomb(),
        pictures.rle_bmp(),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff\xd8\xff" + bytes(100),
        b"GIF89a" + b"\xff" * 100,
        b"RIFF\x64\0\0\0WEBPVP8 " + bytes(100),
    ],
    ids=str.split(
        "cut_jpeg cut_png cut_gif giant large no_width no_rows lopsided scans runs no_png no_jpeg no_gif no_webp"
    ),
)
def test_broken_pictures_and_bombs_are_refused(data: bytes) -> None:
    with pytest.raises(FetchRefused) as refused:
        prepare_picture(data, max_pixels=MAX_PIXELS)
    assert refused.value.reason is FetchReason.BAD_PICTURE


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"BM is the beginning of a text of mine", b"RIFF....WAVEfmt "])
def test_what_is_no_picture_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(FetchRefused) as refused:
        prepare_picture(data, max_pixels=MAX_PIXELS)
    assert refused.value.reason is FetchReason.NOT_A_PICTURE


async def test_threads_give_the_same_and_refuse_the_same() -> None:
    assert await prepare_in_thread(pictures.jpeg(), max_pixels=600) == prepare_picture(pictures.jpeg(), max_pixels=600)
    with pytest.raises(FetchRefused):
        await prepare_in_thread(b"", max_pixels=600)
