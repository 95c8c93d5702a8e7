"""Pre-trains the mini base model: it sees, locates, names the known entities and answers in the right form.

It is taught nothing of search: stage 1 and RL do that. Knows nothing of Ray or vLLM. Always holds: the
same seed and number of steps give the same lessons in the same order; the lessons about posts use the
very prompt that episodes use.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sake_ray.coldstart.mini_model import build_model, build_processor, build_tokenizer, save_model
from sake_ray.data.miniworld import LOOKS, MiniWorld, board_picture, make_world
from sake_ray.data.miniworld_texts import (
    NOT_SHOWN,
    Lesson,
    describe_lesson,
    fact_lesson,
    guess_lesson,
    locate_lesson,
    names_lesson,
    place,
    post_lesson,
    repeat_lesson,
)

log = logging.getLogger(__name__)
BOARD_PADS = 9
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of pre-training: how many steps, the share of each kind of lesson, and how the learning rate goes."""

    name: str
    steps: int
    describe: float
    locate: float
    facts: float
    names: float
    guesses: float
    repeats: float
    decays: bool
    """Whether the learning rate falls over the stage's last half."""


STAGES = (
    Stage("see", 600, describe=0.45, locate=0.35, facts=0.20, names=0.0, guesses=0.0, repeats=0.0, decays=False),
    Stage("look", 500, describe=0.10, locate=0.70, facts=0.20, names=0.0, guesses=0.0, repeats=0.0, decays=False),
    Stage("answer", 900, describe=0.02, locate=0.20, facts=0.12, names=0.14, guesses=0.0, repeats=0.0, decays=True),
    Stage("guess", 500, describe=0.0, locate=0.10, facts=0.10, names=0.08, guesses=0.22, repeats=0.15, decays=True),
)
"""To see, to look for something, to answer posts (what a stage's shares leave is posts), to guess at strangers."""


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """How the base model learns: the steps of each stage are `batch` lessons."""

    stages: tuple[Stage, ...] = STAGES
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 100
    seed: int = 0
    threads: int = 2
    score_every: int = 200


@dataclass(frozen=True, slots=True)
class EncodedLesson:
    """Expanded ids and labels (`IGNORED` where nothing is learnt)."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    board: tuple[str | None, ...] | None


def draw_lesson(rng: random.Random, world: MiniWorld, stage: Stage) -> Lesson:
    """One lesson of a stage."""
    draw = rng.random()
    if draw < (below := stage.describe):
        return describe_lesson(rng)
    if draw < (below := below + stage.locate):
        return locate_lesson(rng)
    if draw < (below := below + stage.facts):
        return fact_lesson(rng, world)
    if draw < (below := below + stage.names):
        return names_lesson(rng, world)
    if draw < (below := below + stage.guesses):
        return guess_lesson(rng, world)
    if draw < below + stage.repeats:
        return repeat_lesson(rng)
    return post_lesson(rng, world, noted_share=0.6)


def encode_lesson(tokenizer: Any, instruction: str, lesson: Lesson) -> EncodedLesson:
    """Chat form, one image first when there is a board; learnt are the reply and its end."""
    image = "<|vision_start|>" + "<|image_pad|>" * BOARD_PADS + "<|vision_end|>"
    if lesson.post:
        content = instruction.replace("{image}", image).replace("{post}", lesson.user)
    else:
        content = (image if lesson.board else "") + lesson.user
    prompt = tokenizer.encode(
        f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
    )
    reply = tokenizer.encode(f"{lesson.reply}<|im_end|>", add_special_tokens=False)
    labels = [IGNORED] * len(prompt) + reply
    if lesson.board and not lesson.post:
        _label_pads(tokenizer, lesson, prompt, labels)
    return EncodedLesson(tuple(prompt + reply), tuple(labels), lesson.board)


def _label_pads(tokenizer: Any, lesson: Lesson, prompt: Sequence[int], labels: list[int]) -> None:
    """Let each image position say what it shows: the look in one lesson, the place in the other.

    Image tokens come before any word, so the model cannot tell the lessons apart there and must hold
    both. Without this the looks are learnt only through attention from the reply, many times slower.
    """
    first = prompt.index(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    assert lesson.board is not None
    for cell, look in enumerate(lesson.board):
        word = (look or f" {NOT_SHOWN}") if lesson.user == "describe" else place(cell)
        # Labels are shifted by one in the loss: the position after a pad holds the pad's own label.
        labels[first + cell + 1] = tokenizer.convert_tokens_to_ids(word)


def batches(
    tokenizer: Any, instruction: str, world: MiniWorld, config: PretrainConfig, stage: Stage
) -> Iterator[list[EncodedLesson]]:
    """A stage's batches; lessons of like length share a batch so that padding stays small."""
    rng = random.Random(f"pretrain-{config.seed}-{stage.name}")
    pool_size = 8
    for start in range(0, stage.steps, pool_size):
        pool = [
            encode_lesson(tokenizer, instruction, draw_lesson(rng, world, stage))
            for _ in range(pool_size * config.batch)
        ]
        pool.sort(key=lambda lesson: (len(lesson.ids), lesson.board is None))
        chunks = [pool[i : i + config.batch] for i in range(0, len(pool), config.batch)]
        rng.shuffle(chunks)
        yield from chunks[: stage.steps - start]


class BoardPixels:
    """What the image processor makes of boards, put together from its answer for each cell and look."""

    def __init__(self, image_processor: Any) -> None:
        import torch

        self._cells: dict[str | None, Any] = {}
        for look in (None, *LOOKS):
            vision = image_processor(images=[board_picture((look,) * BOARD_PADS)], return_tensors="pt")
            # The processor groups patches by merged token, so a board cell is four rows in a run.
            self._cells[look] = vision["pixel_values"].reshape(BOARD_PADS, 4, -1)
            self._grid = vision["image_grid_thw"]
        self._torch = torch

    def __call__(self, boards: Sequence[tuple[str | None, ...]]) -> dict[str, Any]:
        """`pixel_values` (boards x 36, 1176) and `image_grid_thw` (boards, 3)."""
        if not boards:
            return {}
        rows = [self._cells[look][cell] for board in boards for cell, look in enumerate(board)]
        return {"pixel_values": self._torch.cat(rows), "image_grid_thw": self._grid.repeat(len(boards), 1)}


def forward(model: Any, pixels: BoardPixels, pad_id: int, lessons: Sequence[EncodedLesson]) -> tuple[Any, Any]:
    """Logits (N, V) and labels (N,) of the N positions of a padded batch that are learnt, in order of lessons."""
    import torch

    length = max(len(lesson.ids) for lesson in lessons)
    ids = torch.zeros(len(lessons), length, dtype=torch.long)
    labels = torch.full((len(lessons), length), IGNORED)
    attention = torch.zeros(len(lessons), length, dtype=torch.long)
    for row, lesson in enumerate(lessons):
        n = len(lesson.ids)
        ids[row, :n] = torch.tensor(lesson.ids)
        labels[row, :n] = torch.tensor(lesson.labels)
        attention[row, :n] = 1
    vision = pixels([lesson.board for lesson in lessons if lesson.board])
    hidden = model.model(
        input_ids=ids, attention_mask=attention, mm_token_type_ids=(ids == pad_id).long(), use_cache=False, **vision
    ).last_hidden_state[:, :-1]
    labels = labels[:, 1:]
    learnt = labels != IGNORED  # most positions are prompt; their logits would be most of the work
    return model.lm_head(hidden[learnt]), labels[learnt]


def learning_rate(config: PretrainConfig, stage: Stage, step: int) -> float:
    """Warm-up, then constant; where the stage says so, linear to 2 % over its last half."""
    tail = max(0.0, step / stage.steps - 0.5) / 0.5 if stage.decays else 0.0
    return config.lr * min(1.0, (step + 1) / config.warmup) * (1.0 - 0.98 * tail)


def lesson_scores(
    model: Any, pixels: BoardPixels, tokenizer: Any, instruction: str, world: MiniWorld
) -> dict[str, float]:
    """Share of held-out replies predicted right in every token (teacher-forced), by kind of lesson."""
    import torch

    pad_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    rng = random.Random("held-out")
    kinds = {
        "describe": [describe_lesson(rng) for _ in range(64)],
        "locate": [locate_lesson(rng) for _ in range(64)],
        "facts": [fact_lesson(rng, world) for _ in range(64)],
        "names": [names_lesson(rng, world) for _ in range(64)],
        "repeat": [repeat_lesson(rng) for _ in range(64)],
        "known_posts": [post_lesson(rng, world, noted_share=0.0) for _ in range(64)],
        "noted_posts": [post_lesson(rng, world, noted_share=1.0) for _ in range(64)],
    }
    scores = {}
    model.eval()
    with torch.no_grad():
        for kind, lessons in kinds.items():
            encoded = [encode_lesson(tokenizer, instruction, lesson) for lesson in lessons]
            logits, labels = forward(model, pixels, pad_id, encoded)
            right = logits.argmax(-1) == labels
            replies = right.split([sum(label != IGNORED for label in lesson.labels[1:]) for lesson in encoded])
            scores[kind] = sum(reply.all().item() for reply in replies) / len(replies)
            scores[f"{kind}_tokens"] = right.float().mean().item()
    model.train()
    return scores


def pretrain(folder: Path, instruction: str, config: PretrainConfig) -> dict[str, float]:
    """Train from nothing, write the Hugging Face folder, return the held-out scores.

    Each stage but the first starts from the bfloat16 folder the one before wrote, `FOLDER-STAGE` beside the
    result: a run that finds such folders goes on behind them.
    """
    import torch

    torch.set_num_threads(config.threads)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, config.seed)
    *earlier, last = config.stages
    for stage in earlier:
        done = folder.with_name(f"{folder.name}-{stage.name}")
        if not (done / "config.json").exists():
            train_stage(model, processor, instruction, config, stage)
            save_model(model, processor, done)
        model = load_model(done)
    scores = train_stage(model, processor, instruction, config, last)
    save_model(model, processor, folder)
    return scores


def train_stage(model: Any, processor: Any, instruction: str, config: PretrainConfig, stage: Stage) -> dict[str, float]:
    """Run one stage on `model` in place; returns its held-out scores."""
    import torch

    world, tokenizer = make_world(0), processor.tokenizer
    pixels = BoardPixels(processor.image_processor)
    pad_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    log.info("stage %s", stage.name)
    began, tokens, running = time.monotonic(), 0, 0.0
    model.train()
    for step, lessons in enumerate(batches(tokenizer, instruction, world, config, stage)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, stage, step)
        logits, labels = forward(model, pixels, pad_id, lessons)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(lesson.ids) for lesson in lessons)
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - began
            log.info("step %d loss %.4f, %.0f s, %.0f tok/s", step + 1, running, seconds, tokens / seconds)
        if (step + 1) % config.score_every == 0:
            scores = lesson_scores(model, pixels, tokenizer, instruction, world)
            log.info("step %d %s", step + 1, json.dumps(scores))
    return lesson_scores(model, pixels, tokenizer, instruction, world)


def load_model(folder: Path) -> Any:
    """A saved mini model as float32."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
