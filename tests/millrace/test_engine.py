# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from contract.settings import Engine, parse_settings
from millrace import engine as vllm


@pytest.fixture
def engine() -> Engine:
    text = "engines: [{name: e, base_model: small, launch: {model: smollm2-135m, port: 8123, eager: true}}]"
    return parse_settings(text).engines[0]


def test_the_engine_listens_on_the_loopback_interface_only(engine: Engine) -> None:
    assert engine.launch
    command = vllm.command(engine, engine.launch, Path("model"))
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "8123"
    assert "--enforce-eager" in command


def test_adapters_can_be_loaded_at_run_time_and_nothing_calls_home(engine: Engine, tmp_path: Path) -> None:
    assert engine.launch
    environment = vllm.environment(engine.launch, tmp_path, tmp_path, {"PATH": "/bin"})
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PATH"] == "/bin"


def test_a_hub_id_may_reach_its_hub(engine: Engine, tmp_path: Path) -> None:
    assert engine.launch
    assert "HF_HUB_OFFLINE" not in vllm.environment(engine.launch, Path("owner/name"), tmp_path, {})


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("OSError: [Errno 98] Address already in use", "port 8123 is taken"),
        ("ValueError: No available memory for the cache blocks.", "too little memory"),
        (
            "RuntimeError: Engine core initialization failed. Failed core proc(s): {'EngineCore': -9}",
            "too little memory",
        ),
        ("OSError: x is not a valid model identifier listed on", "the model smollm2-135m cannot be found"),
        ("ModuleNotFoundError: No module named 'vllm'", "make install"),
    ],
)
def test_known_last_words_become_advice(engine: Engine, words: str, advice: str) -> None:
    assert engine.launch
    found = vllm.explain(f"some lines\n{words}\n", 1, engine.launch)
    assert found
    assert advice in found


def test_unknown_last_words_are_left_to_speak_for_themselves(engine: Engine) -> None:
    assert engine.launch
    assert vllm.explain("all is well", 1, engine.launch) is None


def test_an_engine_that_was_killed_without_a_word_is_taken_to_have_been_too_large(engine: Engine) -> None:
    assert engine.launch
    found = vllm.explain("all is well", -9, engine.launch)
    assert found
    assert "kv_cache" in found
