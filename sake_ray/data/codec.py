"""`ChatCodec`: prompts and observations to token ids, in the model's own chat form.

The one place where text meets token ids. Knows nothing of engines, actions or rewards. Always holds:
only context is encoded here, sampled ids are never re-tokenised; a segment's short ids have one image
pad an image and its expanded ids as many as the image processor will make of it, so images and pads
match however an episode ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sake_ray.data.images import processed_size
from sake_ray.prompts import Part, Prompts
from sake_ray.trajectory import Segment
from sake_ray.types import Example, ImageRef, Observation

_MARK = "\u241eassistant\u241e"


class ChatCodec:
    """Encodes the two kinds of context an episode shows; satisfies `sake_ray.interfaces.Codec`."""

    def __init__(
        self, processor: Any, prompts: Prompts, *, min_pixels: int, max_pixels: int, max_result_chars: int = 2_000
    ) -> None:
        """`processor` is a Hugging Face `Qwen2_5_VLProcessor` (or one with the same parts).

        Raises:
            ValueError: the tokenizer has no image pad, or the chat template does not end an assistant's turn.
        """
        self.tokenizer = processor.tokenizer
        self._template = processor.chat_template or self.tokenizer.chat_template
        self._images = processor.image_processor
        self._prompts = prompts
        self._pixels = (min_pixels, max_pixels)
        self._max_result_chars = max_result_chars
        self.image_pad_id = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        if self.image_pad_id is None or self.image_pad_id == self.tokenizer.unk_token_id:
            raise ValueError("the model's tokenizer has no <|image_pad|> token; a Qwen2.5-VL model is needed")
        self._end_of_turn, _ = self._after_assistant(())
        if not self._end_of_turn:
            raise ValueError("the model's chat template writes nothing between an assistant's turn and the next user's")

    @classmethod
    def from_pretrained(
        cls, model_path: str, *, prompts: Prompts, min_pixels: int, max_pixels: int, max_result_chars: int = 2_000
    ) -> ChatCodec:
        """Load the processor of a Hugging Face folder."""
        from transformers import AutoProcessor

        return cls(
            AutoProcessor.from_pretrained(model_path),
            prompts,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            max_result_chars=max_result_chars,
        )

    def prompt(self, example: Example) -> Segment:
        """The first user turn, up to the assistant's first token."""
        parts = self._prompts.first_turn(example)
        text = self._render([{"role": "user", "content": _content(parts)}])
        return self._segment(text, parts)

    def observation(self, example: Example, observation: Observation, *, after_ids: Sequence[int]) -> Segment:
        """The end of the assistant's turn (unless it was sampled), the user turn with the results, the next start."""
        parts = self._prompts.search_turn(example, observation, self._max_result_chars)
        end, rest = self._after_assistant(parts)
        ended = bool(after_ids) and after_ids[-1] == self.tokenizer.eos_token_id
        return self._segment(rest if ended else end + rest, parts)

    def image_pads(self, image: ImageRef) -> int:
        """How many pads the image takes in the expanded ids."""
        width, height = processed_size(
            image.width, image.height, min_pixels=self._pixels[0], max_pixels=self._pixels[1]
        )
        patches = self._images.get_number_of_image_patches(height, width, {})
        return int(patches) // int(self._images.merge_size) ** 2

    def _after_assistant(self, parts: Sequence[Part]) -> tuple[str, str]:
        """What the template writes after an assistant's words: the end-of-turn token, and all that follows it."""
        conversation: list[dict[str, Any]] = [
            {"role": "user", "content": "."},
            {"role": "assistant", "content": _MARK},
            {"role": "user", "content": _content(parts) if parts else "."},
        ]
        after = self._render(conversation).split(_MARK, 1)[1]
        end = self.tokenizer.eos_token
        return (end, after[len(end) :]) if after.startswith(end) else ("", after)

    def _render(self, messages: list[dict[str, Any]]) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        )

    def _segment(self, text: str, parts: Sequence[Part]) -> Segment:
        images = tuple(part for part in parts if isinstance(part, ImageRef))
        short = self.tokenizer.encode(text, add_special_tokens=False)
        if short.count(self.image_pad_id) != len(images):
            raise ValueError(
                f"a prompt for {len(images)} images encodes to {short.count(self.image_pad_id)} image pads; "
                "prompt files must not contain vision tokens of their own"
            )
        expanded: list[int] = []
        remaining = iter(images)
        for token in short:
            expanded.extend([token] * (self.image_pads(next(remaining)) if token == self.image_pad_id else 1))
        return Segment(tuple(short), tuple(expanded), images)


def _content(parts: Sequence[Part]) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
