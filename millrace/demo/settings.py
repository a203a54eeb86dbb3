# SPDX-License-Identifier: Apache-2.0
"""The demo's settings, written as a person would write them: `millrace up --config` takes the same file."""

from collections.abc import Sequence
from pathlib import Path

from contract.settings import Settings, load_settings
from millrace.commands.common import flags
from millrace.demo.app import APP, MODEL
from millrace.demo.data import LABELS

FILE = "millrace.yaml"
LOOP = "triage"
LABELLED = 1200
"""Answers that get feedback; the loop starts its job when that many are in."""

SETTINGS = f"""\
# The settings of `make demo`. Change a port here where one is taken; run the demo again and it goes on.
data_dir: data

gateway:
  port: 8080

engines:
  - name: small
    base_model: smollm2-135m
    launch:
      model: smollm2-135m      # the embedded model; a local folder or a hub id works as well
      port: 8100
      max_model_len: 1024
      kv_cache: 1GiB

models:                         # USD per million tokens; a tuned model costs what its base costs
  smollm2-135m:
    engine: small
    price: {{input: 0.05, cached_input: 0.01, output: 0.10}}
  {MODEL}:
    engine: small
    price: {{input: 0.05, cached_input: 0.01, output: 0.10}}

log:
  feedback:
    label: {{type: label, values: [{", ".join(LABELS)}]}}

graders:
  right-label:                  # 1 where the answer is exactly the label that the user gave, else 0
    type: string_check
    input: "{{{{ sample.output_text }}}}"
    operation: eq
    reference: "{{{{ item.reference_answer }}}}"

judge:
  live:
    - {{grader: right-label, models: [{MODEL}], rate: 1.0, reference: label}}

trainer:
  price_per_hour: 0.50

loops:
  {LOOP}:
    model: {MODEL}
    base: smollm2-135m
    data:
      filter: {{metadata: {{equals: {{app: {APP}}}}}}}
      reference: label
      holdout: 0.3              # by conversation: no review is on both sides
      min_rows: 400
    graders: [right-label]
    trigger: {{new_rows: {LABELLED}}}
    training: {{steps: 40, max_completion_tokens: 4}}
    gate: {{min_rows: 300}}
"""


def write(folder: Path) -> Path:
    """The demo's settings file in ``folder``; one that is there already is kept, with whatever was changed in it."""
    path = folder / FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".partial")
        fresh.write_text(SETTINGS)
        fresh.replace(path)
    return path


def read(path: Path, overrides: Sequence[str]) -> Settings:
    """The settings in the file with ``name=value`` overrides on top, and the environment between them."""
    return load_settings(path, flags(overrides))
