"""The shipped base model: what its card says of it is true, it is small, and it was taught the prompt episodes use.

What would go unseen otherwise: weights, tokenizer and card of different trainings in one folder, or a preprocessing
that no longer shows the model what it was trained on.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sake_ray
from sake_ray.coldstart.base_model import IGNORED, BoardPixels, encode_lesson, forward, load_model
from sake_ray.data.codec import ChatCodec
from sake_ray.data.images import processed_image
from sake_ray.data.miniworld import LOOKS, NAMES, SIDE, board_picture, cell_box, make_world
from sake_ray.data.miniworld_texts import Lesson, fact_lesson, locate_lesson, names_lesson, post_lesson
from sake_ray.prompts import load_prompts
from sake_ray.types import Example, ImageRef

FOLDER = Path(sake_ray.__file__).parent / "assets" / "mini_base"
PROMPTS = load_prompts("gmner", "compact")
PIXELS = {"min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE}
# What the cold start and RL build on. A reply counts only when every token of it is right, and those about facts and
# from notes are long: over 98 % of their tokens are.
FLOORS = {"locate": 0.95, "facts": 0.6, "names": 0.9, "known_posts": 0.95, "noted_posts": 0.6}
MARGIN = 0.15  # twice the noise of two shares of 64 near 0.7
LESSONS: dict[str, Callable[[random.Random], Lesson]] = {
    "locate": locate_lesson,
    "facts": lambda rng: fact_lesson(rng, make_world(0)),
    "names": lambda rng: names_lesson(rng, make_world(0)),
    "known_posts": lambda rng: post_lesson(rng, make_world(0), noted_share=0.0),
    "noted_posts": lambda rng: post_lesson(rng, make_world(0), noted_share=1.0),
}


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(FOLDER).eval()


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "card.json").read_text())
    return content


def test_the_card_is_of_these_weights_and_the_folder_is_small(card: dict[str, Any]) -> None:
    assert card["sha256"] == hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 8 * 1024**2


def test_the_tokenizer_is_the_one_of_these_weights(processor: Any, model: Any) -> None:
    """Every id has an embedding, and MiniWorld's pieces are single tokens, so that episodes stay short."""
    tokenizer = processor.tokenizer
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings
    boxes = [json.dumps(cell_box(cell).as_list()) for cell in range(9)]
    for piece in [*LOOKS, *NAMES, *boxes, "<answer>", "</answer>", "<text_search>", "</text_search>"]:
        assert len(tokenizer.encode(piece, add_special_tokens=False)) == 1, piece


def test_lessons_about_posts_are_the_prompts_of_episodes(processor: Any, tmp_path: Path) -> None:
    """Token by token, and pixel by pixel: the picture an episode shows is the board the lesson showed."""
    lesson = LESSONS["known_posts"](random.Random(0))
    assert lesson.board is not None
    board_picture(lesson.board).save(tmp_path / "board.png")
    image = ImageRef(str(tmp_path / "board.png"), SIDE, SIDE)
    prompt = ChatCodec(processor, PROMPTS, **PIXELS).prompt(Example("p", lesson.user, image, ()))
    encoded = encode_lesson(processor.tokenizer, PROMPTS.instruction, lesson)
    assert encoded.ids[: len(prompt.token_ids)] == prompt.token_ids
    assert processor.tokenizer.decode(encoded.ids[len(prompt.token_ids) :]) == f"{lesson.reply}<|im_end|>"
    seen = processor.image_processor(images=[processed_image(image, **PIXELS)], return_tensors="pt")
    taught = BoardPixels(processor.image_processor)([lesson.board])
    assert (seen["pixel_values"] == taught["pixel_values"]).all()
    assert (seen["image_grid_thw"] == taught["image_grid_thw"]).all()


def test_the_card_speaks_of_all_it_was_taught(card: dict[str, Any]) -> None:
    assert FLOORS.keys() == LESSONS.keys()
    assert LESSONS.keys() <= card["scores"].keys()


@pytest.mark.parametrize("kind", LESSONS)
def test_it_knows_what_its_card_says(processor: Any, model: Any, card: dict[str, Any], kind: str) -> None:
    """Share of 64 fresh replies that are right in every token, each predicted from the right ones before it."""
    import torch

    claimed = card["scores"][kind]
    rng = random.Random(f"test-{kind}")
    encoded = [encode_lesson(processor.tokenizer, PROMPTS.instruction, LESSONS[kind](rng)) for _ in range(64)]
    pad_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with torch.no_grad():
        logits, _ = forward(model, BoardPixels(processor.image_processor), pad_id, encoded)
    right = []
    learnt = [sum(label != IGNORED for label in lesson.labels) for lesson in encoded]
    for row, lesson in zip(logits.argmax(-1).split(learnt), encoded, strict=True):
        # The reply alone: what image positions say, before it, is only a help while learning.
        reply = list(lesson.ids[_reply_start(processor.tokenizer, lesson.ids) :])
        right.append(row[-len(reply) :].tolist() == reply)
    share = sum(right) / len(right)
    assert min(share, claimed) >= FLOORS[kind]
    assert abs(share - claimed) <= MARGIN


def _reply_start(tokenizer: Any, ids: tuple[int, ...]) -> int:
    opening = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    return next(at for at in range(len(ids), 0, -1) if list(ids[at - len(opening) : at]) == opening)
