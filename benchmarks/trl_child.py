"""TRL's side of `trl_side_by_side.py`, run by an interpreter that has TRL: GRPO with a search tool on MiniWorld.

    python benchmarks/trl_child.py SETTINGS.json RESULT.json

Knows nothing of this project's actors or trainer; posts, prompts, tool and reward are this project's own. Always
holds: the model reads the very tokens it reads here (picture, post, result); float32; one optimiser step for each batch
of generations. Steps are timed by TRL's own callback.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets import Dataset
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found,unused-ignore]

from envs.tools.local import LocalSearchTool
from rewards.composite import Scorer
from sake_ray.actions import parse_action
from sake_ray.config import load_config
from sake_ray.data.images import processed_image
from sake_ray.data.loading import load_split
from sake_ray.prompts import load_prompts
from sake_ray.trajectory import Trajectory, Turn
from sake_ray.types import Answer, Example, ImageRef, Observation, SearchKind, StopReason, TextSearch

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ 'user' if message['role'] == 'tool' else message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% for call in message.tool_calls or [] %}{{ call.function.name }}"
    "{{ call.function.arguments }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The policy's own form; a tool's words are a user turn there. Calls are rendered only where TRL tries the template."""

SCHEMA = {
    "type": "object",
    "properties": {
        "role": {"const": "assistant"},
        "content": {"type": "string", "x-regex": r"^(.*?)(?:<\|im_end\|>|$)"},
        "tool_calls": {
            "type": "array",
            "x-regex-iterator": r"(.*?<text_search>.*?</text_search>)",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "properties": {
                            "name": {"const": "text_search"},
                            "arguments": {
                                "type": "object",
                                "x-regex": r"(?P<queries>.*)",
                                "properties": {"queries": {"type": "string"}},
                            },
                        },
                    },
                },
            },
        },
    },
}
"""How TRL finds the call in the policy's text."""


class World:
    """Posts, tool, prompts and scorer, as the project itself has them."""

    def __init__(self, root: Path) -> None:
        self.config = load_config([], job="rl_twitter17")
        data = self.config.data
        self.pixels = {"min_pixels": data.min_pixels, "max_pixels": data.max_pixels}
        self.posts: dict[str, Example] = {post.id: post for post in load_split(root, "train").examples}
        self.tool = LocalSearchTool(root)
        self.prompts = load_prompts(data.task, self.config.prompts.set, self.config.prompts.dir)
        self.scorer = Scorer.from_config(self.config.reward, **self.pixels)

    def picture(self, ref: ImageRef) -> Any:
        """The picture as the model sees it."""
        return processed_image(ref, **self.pixels)

    def shown(self, example: Example, action: TextSearch) -> list[dict[str, Any]]:
        """What a search shows, in TRL's form."""
        results = asyncio.run(self.tool.search_text(example.id, action.queries))
        observation = Observation(SearchKind.TEXT, tuple(results))
        parts = self.prompts.search_turn(example, observation, self.config.search.max_chars)
        return [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": self.picture(part)}
            for part in parts
        ]

    def reward(self, example_id: str, text: str) -> float:
        """The reward of an episode by its last turn."""
        action = parse_action(text)
        trajectory = Trajectory("trl", self.posts[example_id])
        trajectory.turns.append(Turn(text, action))
        trajectory.finish(StopReason.ANSWER if isinstance(action, Answer) else StopReason.MALFORMED)
        return self.scorer.score(trajectory).total


def environment_of(world: World) -> type:
    """The class TRL makes environments of: one search an episode."""

    class Environment:
        def reset(self, example: str, **row: Any) -> None:
            """Begin with the post of this row."""
            self._example = world.posts[example]
            self._searched = False

        def text_search(self, queries: str) -> list[dict[str, Any]]:
            """Search for text.

            Args:
                queries: the policy's whole turn, which this project reads.
            """
            action = parse_action(queries)
            if self._searched or not isinstance(action, TextSearch):
                raise ValueError("no search is left, or it is none")
            self._searched = True
            return world.shown(self._example, action)

    return Environment


class StepTimes(TrainerCallback):
    """Seconds from the beginning to the end of each optimiser step, generation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember when."""
        self._begin = self._begin or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count from the end of the step before."""
        now = time.perf_counter()
        self.seconds.append(now - self._begin)
        self._begin = now


def main(settings_file: str, result_file: str) -> int:
    """Train `steps` steps and write seconds a step and TRL's own log."""
    settings = json.loads(Path(settings_file).read_text(encoding="utf-8"))
    world = World(Path(settings["world"]))
    trajectories = settings["posts"] * settings["group"]
    instruction = []
    for post in list(world.posts.values())[: settings["posts"] * settings["steps"]]:
        text = "".join(part for part in world.prompts.first_turn(post) if isinstance(part, str))
        prompt = [{"role": "user", "content": text}]
        instruction.append({"prompt": prompt, "image": world.picture(post.image), "example": post.id})
    processor = AutoProcessor.from_pretrained(settings["model"])
    processor.chat_template = processor.tokenizer.chat_template = TEMPLATE
    processor.tokenizer.response_schema = SCHEMA
    processor.tokenizer.padding_side = "left"

    def reward(completions: list[Any], example: list[str], **row: Any) -> list[float]:
        def text(message: Any) -> str:
            content = message["content"]
            return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

        return [world.reward(id_, text(done[-1])) for id_, done in zip(example, completions, strict=True)]

    times = StepTimes()
    parts = settings["micro_batches"]
    config = GRPOConfig(
        output_dir=settings["folder"],
        per_device_train_batch_size=trajectories // parts,
        gradient_accumulation_steps=parts,
        num_generations=settings["group"],
        max_completion_length=settings["max_tokens"],
        max_steps=settings["steps"],
        learning_rate=world.config.learner.lr,
        temperature=world.config.rollout.temperature,
        beta=world.config.algorithm.kl_coef,
        use_vllm=settings.get("vllm", False),
        use_transformers_continuous_batching=False,
        vllm_max_model_length=world.config.episode.max_tokens,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        fp16=False,
        shuffle_dataset=False,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        seed=settings["seed"],
        model_init_kwargs=None,
        **settings.get("extra", {}),
    )
    trainer = GRPOTrainer(
        model=Qwen2_5_VLForConditionalGeneration.from_pretrained(settings["model"], dtype="float32"),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(instruction),
        processing_class=processor,
        environment_factory=environment_of(world),
        callbacks=[times],
    )
    trainer.train()
    log = [row for row in trainer.state.log_history if "reward" in row]
    Path(result_file).write_text(json.dumps({"seconds": times.seconds, "log": log}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
