# SPDX-License-Identifier: Apache-2.0
"""A randomly initialised llama that trains in milliseconds, and a tokenizer of whole words for it."""

import random
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.shared_prompt import Ids

WORDS = (
    "<eos>",
    "<unk>",
    "user:",
    "answer:",
    "good",
    "bad",
    "so",
    "very",
    "thing",
    "it",
    "is",
    "a",
    "yes",
    "no",
    "maybe",
)
TEMPLATE = (
    "{% for m in messages %}user: {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}answer: {% endif %}"
)


def llama(seed: int = 0, vocabulary: int = len(WORDS)) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,  # sharp enough that what is learned shows in the answers
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def with_adapter(model: nn.Module, seed: int = 0) -> Any:
    """With a LoRA adapter whose B matrices are not zero, so that gradients reach A too."""
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return adapted


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    made.chat_template = TEMPLATE
    return made


def save(folder: Path) -> Path:
    model = llama()
    model.generation_config.eos_token_id = [0, 4, 6, 8, 10]  # a third of the vocabulary ends an answer
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def groups(seed: int, vocabulary: int = 97, prompts: int = 4, size: int = 6) -> tuple[list[Ids], list[Ids]]:
    """Prompts of unequal lengths that begin alike, each with completions of unequal lengths, some of them equal."""
    draw = random.Random(seed)
    common = [draw.randrange(vocabulary) for _ in range(5)]
    repeated: list[Ids] = []
    completions: list[Ids] = []
    for _ in range(prompts):
        prompt = tuple(common + [draw.randrange(vocabulary) for _ in range(draw.randrange(1, 9))])
        for _ in range(size):
            repeated.append(prompt)
            completions.append(tuple(draw.randrange(3) for _ in range(draw.randrange(1, 7))))
    return repeated, completions
