"""The model's forward pass on a packed micro-batch: hidden states in, log-probs of the trained tokens out.

Knows nothing of trajectories, losses or ranks. Always holds: log-probs are of the distribution the engine samples
from, vision tokens banned and at the sampling temperature; logits exist only for a chunk of trained
positions at a time (recomputed in the backward pass); each different image goes through the vision
tower once however often it is shown; the vision tower takes part in every forward and backward pass,
or ranks whose micro-batches hold no image would leave the others waiting in a collective.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from actors.vision_ban import BAN_BIAS, banned_ids


class PackedModel(nn.Module):
    """A Qwen2.5-VL that answers "how likely was this token" for chosen tokens of packed rows."""

    def __init__(self, hf: Any, *, logprob_chunk: int, temperature: float = 1.0, banned: Sequence[int] = ()) -> None:
        """Wrap a transformers model; tokens were sampled at `temperature`, and never one of the ids `banned`."""
        super().__init__()
        self.hf = hf
        self.logprob_chunk = logprob_chunk
        self.temperature = temperature
        self.register_buffer("banned", torch.tensor(banned, dtype=torch.long), persistent=False)

    def forward(
        self,
        *,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor,
        image_features: torch.Tensor,
        rows: torch.Tensor,
        cols: torch.Tensor,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies (detached) at N trained tokens, both (N,) float32.

        Args:
            input_ids: (R, L) packed rows.
            position_ids: (4, R, L); plane 0 restarts at 0 with every sequence. transformers builds the
                block-causal mask from it as long as neither an attention mask nor a cache is passed.
            pixel_values: (patches, patch size) of the different images; at least a stand-in.
            grid_thw: (U, 3) their patch grids.
            image_features: (pads,) which feature each image pad takes, pads in row-major order.
            rows, cols: (N,) where the log-prob of each target is read.
            targets: (N,) token ids.
        """
        embeddings = self.hf.get_input_embeddings()(input_ids)
        features = torch.cat(self.hf.model.get_image_features(pixel_values, grid_thw).pooler_output)
        features = features.to(embeddings.dtype)
        pads = (input_ids == self.hf.config.image_token_id).unsqueeze(-1)
        # The zero term keeps the tower in the graph where no pad takes a feature of it.
        embeddings = embeddings.masked_scatter(pads, features[image_features]) + 0.0 * features.sum()
        hidden = self.hf.model.language_model(
            inputs_embeds=embeddings, position_ids=position_ids, attention_mask=None, use_cache=False
        ).last_hidden_state
        return self._token_log_probs(hidden[rows, cols], targets)

    def _token_log_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, H) hidden states and (N,) targets → log-probs and entropies, `logprob_chunk` tokens at a time."""
        log_probs, entropies = [], []
        for start in range(0, len(targets), self.logprob_chunk):
            chunk = hidden[start : start + self.logprob_chunk]
            wanted = targets[start : start + self.logprob_chunk]
            if torch.is_grad_enabled():
                log_prob, entropy = checkpoint(self._chunk_log_probs, chunk, wanted, use_reentrant=False)
            else:
                log_prob, entropy = self._chunk_log_probs(chunk, wanted)
            log_probs.append(log_prob)
            entropies.append(entropy)
        return torch.cat(log_probs), torch.cat(entropies)

    def _chunk_log_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.hf.lm_head(hidden).float()
        logits[:, self.banned] += BAN_BIAS
        if self.temperature != 1.0:
            logits = logits / self.temperature
        normaliser = logits.logsumexp(-1)
        with torch.no_grad():
            entropy = normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(-1)
        return logits.gather(-1, targets[:, None])[:, 0] - normaliser, entropy


def load_packed_model(
    folder: Path,
    *,
    logprob_chunk: int,
    temperature: float,
    gradient_checkpointing: bool,
    trainable: bool,
    frozen: str = "none",
) -> PackedModel:
    """Load a Hugging Face folder in float32 on the CPU, ready to be sharded.

    `frozen` names the parts that stay as they are even in a trainable model: `embeddings` (with them a tied
    head), `vision`, both joined by `+`, or `none`.

    Raises:
        FileNotFoundError: `folder` holds no model.
        ValueError: its tokenizer has no vision tokens.
    """
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; give a folder with a Qwen2.5-VL model (model.path)")
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    if trainable and gradient_checkpointing:
        hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    banned = banned_ids(AutoTokenizer.from_pretrained(folder), str(folder))
    model = PackedModel(hf, logprob_chunk=logprob_chunk, temperature=temperature, banned=banned)
    model.requires_grad_(trainable)
    if "embeddings" in frozen:
        hf.get_input_embeddings().requires_grad_(False)
        hf.lm_head.requires_grad_(False)
    if "vision" in frozen:
        hf.model.visual.requires_grad_(False)
    return model.train(trainable)


def shard(model: PackedModel, mesh: Any, dtype: str, device: str) -> PackedModel:
    """Shard a model over the ranks of `mesh`: each decoder layer and vision block, then the rest.

    Parameters and gradients' reduction stay float32; `dtype` is what a GPU computes in. On a CPU
    everything is float32: bfloat16 there costs two digits of the log-probs and gains nothing.

    Raises:
        ValueError: bfloat16 on a CPU.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if device == "cpu" and dtype != "float32":
        raise ValueError(f"model.dtype={dtype} on a CPU learner; use model.dtype=float32 (bfloat16 needs a GPU)")
    policy = MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)
    for block in (*model.hf.model.language_model.layers, *model.hf.model.visual.blocks):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model
