# SPDX-License-Identifier: Apache-2.0
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.errors import OperatorError, Overloaded, SettingsError
from contract.records import Status
from judge.sampler import is_sampled
from judge.service import serve
from tests.judge.house import EXACT, House, answer, free_port, label, stop, until


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(live: str = EXACT) -> House:
        houses.append(House(tmp_path, live))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


async def enough(house: House, number: int) -> list[dict[str, object]]:
    """All scores, once there are that many."""

    async def there() -> list[dict[str, object]]:
        try:
            found = await house.scores()
        except Overloaded:  # the logger is starting
            return []
        return found if len(found) >= number else []

    found: list[dict[str, object]] = await until(there)
    return found


async def ready_as(state: str, house: House, port: int | None = None) -> None:
    async def says_so() -> bool:
        return house.judge("/ready", port) == (200, f'{{"status": "{state}"}}')

    await until(says_so)


@pytest.mark.slow
async def test_every_labelled_answer_is_scored_exactly_once_though_the_judge_is_killed_again_and_again(
    build: Callable[..., House],
) -> None:
    house = build()
    house.start("logger")
    answers = [
        answer(text, alias) for text in ("good", "bad", "Good") for alias in ("triage", "other") for _ in range(40)
    ]
    house.write(*answers)
    house.write(*(label(each, "good") for each in answers[:-10]))
    for scores in (1, 30):
        house.let_judge_die_after(scores)
    judge = house.start("judge")
    due = {each.id for each in answers[:-10] if each.alias == "triage"}
    await enough(house, len(due))
    late = answers[-1]
    assert late.alias == "other"
    extra = answer("good")
    house.write(extra, label(extra, "good"))
    found = await enough(house, len(due) + 1)
    assert Counter(row["invocation"] for row in found) == Counter(due | {extra.id})
    right = {each.id for each in [*answers, extra] if each.choices and '"good"' in each.choices}
    assert {row["invocation"] for row in found if row["value"] == 1.0} == right & (due | {extra.id})
    assert {row["value"] for row in found} == {0.0, 1.0}
    assert [row["position"] for row in found] == sorted(row["position"] for row in found)
    assert stop(judge) == 0


async def test_a_logger_that_is_down_is_waited_for_and_nothing_is_lost(build: Callable[..., House]) -> None:
    house = build()
    logger = house.start("logger")
    house.start("judge")
    first = [answer("good") for _ in range(20)]
    house.write(*first, *(label(each, "good") for each in first))
    await enough(house, 20)
    logger.kill()
    logger.wait()

    async def says_so() -> bool:
        status, body = house.judge("/ready")
        return status == 503 and "waiting for the logger" in body

    await until(says_so)
    assert house.judge("/health") == (200, '{"status": "ok"}')
    assert 'millrace_judge_setbacks_total{reason="logger"}' in house.judge("/metrics")[1]
    second = [answer("bad") for _ in range(20)]
    house.write(*second, *(label(each, "good") for each in second))
    house.start("logger")
    found = await enough(house, 40)
    assert Counter(row["invocation"] for row in found) == Counter(each.id for each in first + second)


async def test_without_a_reference_every_choice_of_a_complete_answer_in_the_sample_is_scored(
    build: Callable[..., House],
) -> None:
    house = build("[{grader: polite, models: [triage], rate: 0.5}]")
    house.start("logger")
    answers = [answer("Yes please", more=("No.",)) for _ in range(60)]
    cut = [answer("please", status=Status.INTERRUPTED) for _ in range(20)]
    other = [answer("please", "other") for _ in range(20)]
    house.write(*answers, *cut, *other)
    house.let_judge_die_after(11)  # between the choices of one answer
    house.start("judge")
    sampled = [each.id for each in answers if is_sampled(each.id, 0.5)]
    assert 0 < len(sampled) < len(answers)
    found = await enough(house, 2 * len(sampled))
    expected = Counter((each, choice, 1.0 - choice) for each in sampled for choice in (0, 1))
    assert Counter((row["invocation"], row["choice"], row["value"]) for row in found) == expected


async def test_of_two_judges_one_scores_and_the_other_stands_by(build: Callable[..., House]) -> None:
    house = build()
    house.start("logger")
    first = house.start("judge")
    await ready_as("judging", house)
    port = free_port()
    standby = house.start("judge", port)
    await ready_as("standby", house, port)
    answers = [answer("good") for _ in range(10)]
    house.write(*answers, *(label(each, "good") for each in answers))
    await enough(house, 10)
    assert stop(first) == 0
    later = [answer("good") for _ in range(10)]
    house.write(*later, *(label(each, "good") for each in later))
    found = await enough(house, 20)
    assert Counter(row["invocation"] for row in found) == Counter(each.id for each in answers + later)
    assert len({row["producer"] for row in found}) == 2
    assert stop(standby) == 0


def test_a_busy_port_is_one_clear_error(build: Callable[..., House]) -> None:
    house = build()
    message = r"cannot listen on 127\.0\.0\.1:\d+ \(judge\.host, judge\.port\)"
    with socket.create_server(("127.0.0.1", house.settings.judge.port)), pytest.raises(OperatorError, match=message):
        serve(house.settings)


def test_a_logger_of_another_installation_is_one_clear_error(
    build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build()
    house.start("logger")
    monkeypatch.setenv("MILLRACE_SECRET", "ab" * 32)
    with pytest.raises(OperatorError, match=r"the logger at .* \(log\.url\) does not know this installation"):
        serve(house.settings)


def test_a_grader_that_needs_a_reference_and_has_none_stops_the_start(build: Callable[..., House]) -> None:
    with pytest.raises(SettingsError, match=r"judge\.live\[0\]\.reference: is missing"):
        serve(build("[{grader: exact}]").settings)
