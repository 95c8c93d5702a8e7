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
from sake_ray.data.miniworld import MiniWorld, board_picture, make_world
from sake_ray.data.miniworld_texts import (
    Lesson,
    PostMaker,
    describe_lesson,
    fact_lesson,
    locate_lesson,
    post_lesson,
)

log = logging.getLogger(__name__)
BOARD_PADS = 9
IGNORED = -100


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """How long and how fast the base model learns; `steps` optimiser steps of `batch` lessons."""

    steps: int = 4000
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 100
    seed: int = 0
    threads: int = 2
    save_every: int = 500


@dataclass(frozen=True, slots=True)
class EncodedLesson:
    """Expanded ids and labels (`IGNORED` where nothing is learnt)."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    board: tuple[str | None, ...] | None


def draw_lesson(rng: random.Random, world: MiniWorld, done: float) -> Lesson:
    """One lesson for the part of the schedule (`done` in 0..1): first seeing, then answering."""
    draw = rng.random()
    seeing = done < 0.3
    if draw < (0.45 if seeing else 0.05):
        return describe_lesson(rng)
    if draw < (0.80 if seeing else 0.25):
        return locate_lesson(rng)
    if draw < (1.00 if seeing else 0.37):
        return fact_lesson(rng, world)
    return post_lesson(rng, world, PostMaker(), noted_share=0.5)


def encode_lesson(tokenizer: Any, instruction: str, lesson: Lesson) -> EncodedLesson:
    """Chat form, one image first when there is a board; learnt are the reply and its end."""
    image = "<|vision_start|>" + "<|image_pad|>" * BOARD_PADS + "<|vision_end|>"
    if lesson.post:
        content = instruction.replace("{image}", image).replace("{post}", lesson.user)
    else:
        content = (image if lesson.board else "") + lesson.user
    prompt = tokenizer.encode(f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    reply = tokenizer.encode(f"{lesson.reply}<|im_end|>", add_special_tokens=False)
    return EncodedLesson(tuple(prompt + reply), (IGNORED,) * len(prompt) + tuple(reply), lesson.board)


def batches(
    tokenizer: Any, instruction: str, world: MiniWorld, config: PretrainConfig
) -> Iterator[list[EncodedLesson]]:
    """`config.steps` batches; lessons of like length share a batch so that padding stays small."""
    rng = random.Random(f"pretrain-{config.seed}")
    pool_size = 8
    for start in range(0, config.steps, pool_size):
        done = start / config.steps
        pool = [
            encode_lesson(tokenizer, instruction, draw_lesson(rng, world, done))
            for _ in range(pool_size * config.batch)
        ]
        pool.sort(key=lambda lesson: (len(lesson.ids), lesson.board is None))
        chunks = [pool[i : i + config.batch] for i in range(0, len(pool), config.batch)]
        rng.shuffle(chunks)
        yield from chunks[: config.steps - start]


def forward(model: Any, image_processor: Any, pad_id: int, lessons: Sequence[EncodedLesson]) -> tuple[Any, Any]:
    """Logits (B, T-1, V) and their labels (B, T-1) for a padded batch."""
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
    pictures = [board_picture(lesson.board) for lesson in lessons if lesson.board]
    vision = image_processor(images=pictures, return_tensors="pt") if pictures else {}
    out = model(
        input_ids=ids, attention_mask=attention, mm_token_type_ids=(ids == pad_id).long(), use_cache=False, **vision
    )
    return out.logits[:, :-1], labels[:, 1:]


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Warm-up, constant, then linear to 2 % over the last 40 %."""
    tail = max(0.0, step / config.steps - 0.6) / 0.4
    return config.lr * min(1.0, (step + 1) / config.warmup) * (1.0 - 0.98 * tail)


def lesson_scores(model: Any, processor: Any, tokenizer: Any, instruction: str, world: MiniWorld) -> dict[str, float]:
    """Share of held-out replies predicted right in every token (teacher-forced), by kind of lesson."""
    import torch

    pad_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    rng = random.Random("held-out")
    kinds = {
        "describe": [describe_lesson(rng) for _ in range(64)],
        "locate": [locate_lesson(rng) for _ in range(64)],
        "facts": [fact_lesson(rng, world) for _ in range(64)],
        "known_posts": [post_lesson(rng, world, PostMaker(), noted_share=0.0) for _ in range(64)],
        "noted_posts": [post_lesson(rng, world, PostMaker(), noted_share=1.0) for _ in range(64)],
    }
    scores = {}
    model.eval()
    with torch.no_grad():
        for kind, lessons in kinds.items():
            encoded = [encode_lesson(tokenizer, instruction, lesson) for lesson in lessons]
            logits, labels = forward(model, processor.image_processor, pad_id, encoded)
            right = (logits.argmax(-1) == labels) | (labels == IGNORED)
            scores[kind] = right.all(-1).float().mean().item()
            scores[f"{kind}_tokens"] = right[labels != IGNORED].float().mean().item()
    model.train()
    return scores


def pretrain(folder: Path, instruction: str, config: PretrainConfig) -> dict[str, float]:
    """Train from nothing, write the Hugging Face folder, return the held-out scores."""
    import torch

    torch.set_num_threads(config.threads)
    world = make_world(0)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, config.seed)
    model.train()
    pad_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    began, tokens, running = time.monotonic(), 0, 0.0
    for step, lessons in enumerate(batches(tokenizer, instruction, world, config)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        logits, labels = forward(model, processor.image_processor, pad_id, lessons)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(lesson.ids) for lesson in lessons)
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - began
            log.info("step %d loss %.4f, %.0f s, %.0f tok/s", step + 1, running, seconds, tokens / seconds)
        if (step + 1) % config.save_every == 0:
            log.info("step %d %s", step + 1, json.dumps(lesson_scores(model, processor, tokenizer, instruction, world)))
            save_model(model, processor, folder)
    save_model(model, processor, folder)
    scores = lesson_scores(model, processor, tokenizer, instruction, world)
    log.info("scores %s", json.dumps(scores))
    return scores
