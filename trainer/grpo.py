# SPDX-License-Identifier: Apache-2.0
"""GRPO as Millrace runs it: TRL's trainer, with the repeated work taken out.

Departures from TRL 1.16's `GRPOTrainer` (pinned: private methods of it are replaced), exact but for the third:

- Log-probabilities and gradients are computed once per distinct prefix (`trainer.shared_prompt`), and the LM head
  is applied only where a completion token is predicted; TRL on the CPU applies it to every prompt token too.
- Completions are sampled once per distinct prefix (`trainer.rollout`).
- Advantages of right-or-wrong rewards are normalised by the group's mean (`group_advantages`): not exact, on purpose.
- Completions whose advantage is zero (a group without spread, an answer that no grader could score) leave the batch
  before the update: without a KL or entropy term their gradient is zero.

Where a model or a setting is outside what these compute exactly, TRL's own path runs.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from trl import import_utils

from trainer.rollout import sample, worth_a_tree
from trainer.shared_prompt import Ids, causal_lm, completion_logprobs, supports_tree, worth_sharing

# Where vLLM is installed, for the engine, TRL would import all of it, and warn of its version; it is not used here.
import_utils.is_vllm_available = lambda *_args, **_kwargs: False
from trl import GRPOConfig, GRPOTrainer  # noqa: E402  # only now

__all__ = ["GRPOConfig", "GroupTrainer", "group_advantages"]

MAX_NODES = 512
NO_SPREAD = 1e-4
"""A scale of rewards up to this is rounding: the mean of sixteen float32 1/3 is not 1/3."""


class GroupTrainer(GRPOTrainer):
    """GRPO over groups of completions that share their prompt."""

    def _shares(self) -> bool:
        """Whether this model and these settings are computed exactly by the tree."""
        plain_sampling = (
            self.top_p == 1.0 and not self.top_k and not self.min_p and self.repetition_penalty == 1.0
        ) and not self.use_vllm
        return (
            plain_sampling
            and not self.args.gradient_checkpointing
            and self.accelerator.num_processes == 1
            and not self.args.cast_lm_head_to_fp32
            and supports_tree(self.model)
        )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities (B, T) and entropies (B, T) of the last `logits_to_keep` tokens of each row."""
        if self._shares() and not kwargs.get("compute_aux_loss"):
            prompts = _unpadded(input_ids[:, :-logits_to_keep], attention_mask[:, :-logits_to_keep])
            completions = _unpadded(input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:])
            config = causal_lm(model).config.get_text_config()
            # Where every completion was masked, TRL's path keeps the zero loss differentiable.
            if any(completions) and worth_sharing(
                prompts, completions, config.hidden_size, config.intermediate_size, MAX_NODES
            ):
                with self.accelerator.autocast():
                    logps, entropies = completion_logprobs(
                        model, prompts, completions, temperature=self.temperature, max_nodes=MAX_NODES
                    )
                short = logits_to_keep - logps.size(1)
                pad = torch.nn.functional.pad
                return pad(logps, (0, short)), pad(entropies, (0, short)).detach(), None
        out: tuple[Tensor, Tensor | None, Tensor | None] = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )
        return out

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **kwargs: Any
    ) -> tuple[list[list[int]], None]:
        """One completion for each entry of `prompt_ids`, in which a prompt stands `num_generations` times in a row."""
        tree = self._shares() and images is None and worth_a_tree(num_generations, self.max_completion_length)
        if not tree:
            out: tuple[list[list[int]], None] = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, **kwargs
            )
            return out
        began = time.perf_counter()
        with self.accelerator.autocast():
            groups = sample(
                self.model,
                [tuple(ids) for ids in prompt_ids[::num_generations]],
                generations=num_generations,
                max_new_tokens=self.max_completion_length,
                eos_ids=self.eos_token_ids,
                temperature=self.temperature,
                max_nodes=MAX_NODES,
            )
        self._metrics["train" if self.model.training else "eval"]["seconds/rollout"].append(time.perf_counter() - began)
        return [list(completion) for group in groups for completion in group], None

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        self._rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        local = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        out["advantages"] = group_advantages(self._rewards[:, 0], self.num_generations)[local]
        if not self.model.training or self.beta or self._entropy_bonus_enabled or self.args.steps_per_generation > 1:
            return out
        kept = out["advantages"].nonzero().flatten()
        if len(kept) == 0:
            kept = torch.zeros(1, dtype=torch.long)
        return {
            name: value[kept] if isinstance(value, Tensor) and value.dim() else value for name, value in out.items()
        }


def _unpadded(ids: Tensor, mask: Tensor) -> list[Ids]:
    """The ids of each row where its mask is set."""
    return [
        tuple(token for token, real in zip(row, real_row, strict=True) if real)
        for row, real_row in zip(ids.tolist(), mask.tolist(), strict=True)
    ]


def group_advantages(rewards_B: Tensor, generations: int) -> Tensor:
    """Advantages (B,) of completions that stand in groups of `generations`; an ungraded one (NaN) gets 0.

    A group whose rewards are all 0 or 1 is normalised by its mean: (r - m) / m. The expected update of a prompt is
    then the gradient of log P(right) instead of P(right) (maximum likelihood reinforcement learning, MaxRL): a right
    answer that is rare counts for as much as a common one. Normalised by the spread, as GRPO has it, an answer that
    starts out rare loses to the common ones and is never sampled again. Other rewards are normalised by the spread.
    """
    rewards = rewards_B.view(-1, generations)
    mean = rewards.nanmean(1, keepdim=True)
    centred = rewards - mean
    spread = centred.square().nanmean(1, keepdim=True).sqrt()
    binary = ((rewards == 0) | (rewards == 1) | rewards.isnan()).all(1, keepdim=True)
    scale = torch.where(binary, mean, spread)
    return torch.nan_to_num(torch.where(scale > NO_SPREAD, centred / scale, torch.zeros_like(centred))).flatten()
