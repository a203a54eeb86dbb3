# SPDX-License-Identifier: Apache-2.0
"""What a job works on: its rows of the log, the weights that its engine serves, and their tokenizer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from contract.settings import Loop, Settings
from logger.client import LoggerClient
from trainer import dataset, evaluate
from trainer.base_model import served_weights
from trainer.dataset import Dataset
from trainer.stages import Stages


class Material:
    """Each part is made when it is first asked for, and found again by the process that follows."""

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        cursor: int,
        stages: Stages,
        log: Callable[[], LoggerClient],
        tell: Callable[[str], None],
    ) -> None:
        """``cursor`` bounds the rows of the log."""
        self._settings = settings
        self._loop = loop
        self._cursor = cursor
        self._stages = stages
        self._log = log
        self._tell = tell

    @cached_property
    def rows(self) -> Dataset:
        """The dataset.

        Raises:
            DatasetError: the rows make none that a version could come of.
        """
        folder = self._stages.folder / "dataset"
        if not folder.exists():
            data = self._loop.data
            labelled = asyncio.run(self._labelled())
            rows = dataset.build(
                labelled,
                holdout=data.holdout,
                min_rows=data.min_rows,
                min_heldout=self._loop.gate.min_rows,
                max_rows=data.max_rows,
                max_prompt_tokens=self._loop.training.max_prompt_tokens,
                count_tokens=lambda messages: len(evaluate.encode_prompt(self.tokenizer, messages)),
            )
            if len(rows.labels) <= evaluate.MAX_LABELS:
                dataset.check_labels(
                    rows.labels,
                    lambda label: len(evaluate.encode_label(self.tokenizer, label)),
                    self._loop.training.max_completion_tokens,
                )
            dataset.write(rows, folder)
            left_out = "".join(f", {count} left out ({reason})" for reason, count in rows.dropped.items())
            self._tell(
                f"Dataset {rows.digest[:12]}: {len(rows.train)} rows to train on, {len(rows.heldout)} held out, "
                f"labels {few(rows.labels)}{left_out}"
            )
        return dataset.read(folder)

    async def _labelled(self) -> list[dict[str, Any]]:
        async with self._log() as log:
            table = await log.labelled_arrow(
                self._loop.model,
                self._loop.data.reference,
                until=self._cursor,
                filter=self._loop.data.filter,
            )
        return [
            row
            | {name: json.loads(row[name] or "null") for name in ("messages", "metadata", "parameters", "reference")}
            for row in table.to_pylist()
        ]

    @cached_property
    def _weights(self) -> str:
        engine = self._settings.engine(self._settings.models[self._loop.base].backend)
        found = self._stages.run("base", lambda: {"weights": asyncio.run(served_weights(engine))})
        return str(found["weights"])

    @cached_property
    def tokenizer(self) -> Any:
        """Of the base model."""
        return AutoTokenizer.from_pretrained(self._weights)

    def model(self, adapter: Path | None = None) -> nn.Module:
        """The base model, or with an adapter on it; a fresh one each time."""
        model: nn.Module = AutoModelForCausalLM.from_pretrained(self._weights, dtype="auto")
        if torch.cuda.is_available():
            model = model.cuda()
        return model if adapter is None else PeftModel.from_pretrained(model, str(adapter))


def few(labels: Sequence[str]) -> str:
    """The labels, or how many where they are texts."""
    return ", ".join(labels) if len(labels) <= evaluate.MAX_LABELS else f"({len(labels)} texts)"
