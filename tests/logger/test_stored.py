# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from contract.records import Amendment, Erasure, Score, Status
from logger.queries import invocation as find
from logger.store import Store
from logger.stored import stored, stored_one
from tests.logger.records import invocation
from tests.logger.stores import put

MARK = '{"model":"triage","created":1}'


def ids(page: dict[str, Any]) -> list[str]:
    return [row["id"] for row in page["rows"]]


def erasure(**about: Any) -> Erasure:
    return Erasure(id="er", project=about.pop("project", "default"), by="key_1", **{"time": 100, **about})


def test_what_was_asked_to_be_stored_is_listed_by_time_in_pages(store: Store) -> None:
    put(store, *(invocation(f"inv_{n}", time=n % 3, stored=MARK) for n in range(6)))
    order = ["inv_0", "inv_3", "inv_1", "inv_4", "inv_2", "inv_5"]
    first = stored(store, "default", 4)
    rest = stored(store, "default", 4, after=ids(first)[-1])
    assert (ids(first) + ids(rest), first["more"], rest["more"]) == (order, True, False)
    assert ids(stored(store, "default", 9, descending=True)) == order[::-1]
    assert ids(stored(store, "default", 2, after="inv_4", descending=True)) == ["inv_1", "inv_3"]
    assert ids(stored(store, "default", 2, after="inv_none")) == []
    assert ids(stored(store, "other", 2, after="inv_4")) == []


def test_only_whole_answers_of_the_project_that_were_asked_to_be_stored_are_there(store: Store) -> None:
    put(
        store,
        invocation("inv_not_asked"),
        invocation("inv_cut", stored=MARK, messages=None, choices=None),
        invocation("inv_failed", Status.FAILED, stored=MARK),
        invocation("inv_theirs", stored=MARK, project="other"),
        invocation("inv_ours", stored=MARK),
    )
    assert ids(stored(store, "default", 9)) == ["inv_ours"]
    assert stored_one(store, "default", "inv_ours")["row"]["stored"] == {"model": "triage", "created": 1}
    for name in ("inv_not_asked", "inv_cut", "inv_failed", "inv_theirs", "inv_none"):
        assert stored_one(store, "default", name) == {"row": None, "erased": False}


def test_they_are_found_by_model_and_by_metadata_whatever_its_keys(store: Store) -> None:
    put(
        store,
        invocation("inv_a", stored=MARK, metadata='{"a/b":"x","~":"1"}'),
        invocation("inv_b", stored='{"model":"other","created":1}', metadata='{"a/b":"y"}'),
        invocation("inv_c", stored=MARK),
    )
    assert ids(stored(store, "default", 9, model="other")) == ["inv_b"]
    assert ids(stored(store, "default", 9, metadata={"a/b": "x", "~": "1"})) == ["inv_a"]
    assert ids(stored(store, "default", 9, metadata={"a/b": "x", "~": "2"})) == []
    assert ids(stored(store, "default", 9, metadata={"$.a": "x'; --"})) == []


@pytest.mark.parametrize("order", ["erasure last", "erasure first", "in one batch"])
def test_an_erasure_takes_payload_and_user_and_leaves_the_meter(store: Store, order: str) -> None:
    answer = invocation(
        "inv_a", stored=MARK, user="u", metadata='{"k":"v"}', conversation="c", prompt_tokens=3, cost=5,
        prompt_token_ids=[1], completion_token_ids=[[2]], logprobs=[[-0.5]],
    )  # fmt: skip
    said = Score(
        id="s", time=1, project="default", invocation="inv_a", grader="g", grader_version="0", position=1, value=0.5,
        reason="it said good",
    )  # fmt: skip
    kept = invocation("inv_b", stored=MARK)
    if order == "erasure last":
        put(store, answer, said, kept)
        put(store, erasure(invocation="inv_a"))
    elif order == "erasure first":
        put(store, erasure(invocation="inv_a"))
        put(store, answer, said, kept, producer="other-0")
    else:
        put(store, answer, erasure(invocation="inv_a"), said, kept)
    row = find(store, "inv_a")
    assert row is not None
    gone = ("messages", "choices", "user", "metadata", "prompt_token_ids", "completion_token_ids", "logprobs")
    assert [row[name] for name in gone] == [None] * 7
    assert (row["prompt_tokens"], row["cost"], row["conversation"]) == (3, 5, "c")
    assert [(score["value"], score["reason"]) for score in row["scores"]] == [(0.5, None)]
    assert stored_one(store, "default", "inv_a") == {"row": None, "erased": True}
    assert ids(stored(store, "default", 9)) == ["inv_b"]
    assert ids(stored(store, "default", 9, after="inv_a")) == ["inv_b"]


def test_another_projects_erasure_takes_nothing(store: Store) -> None:
    put(store, invocation("inv_a", stored=MARK), erasure(invocation="inv_a", project="other"))
    assert ids(stored(store, "default", 9)) == ["inv_a"]


def test_an_erasure_of_a_user_takes_what_is_older_than_it(store: Store) -> None:
    put(store, invocation("inv_old", stored=MARK, user="u", time=99), erasure(user="u", time=100))
    put(store, invocation("inv_late", stored=MARK, user="u", time=100), producer="slow-0")
    put(
        store,
        invocation("inv_new", stored=MARK, user="u", time=101),
        invocation("inv_other", stored=MARK, user="v", time=1),
    )
    assert ids(stored(store, "default", 9)) == ["inv_other", "inv_new"]


def test_a_dead_letter_of_what_was_erased_goes_too(store: Store) -> None:
    put(store, invocation("inv_a", stored=MARK, metadata="no json"), invocation("inv_b", metadata="no json"))
    put(store, erasure(invocation="inv_a"))
    assert store.fetch("SELECT seq FROM dead_letters") == [{"seq": 1}]


def amendment(metadata: str | None, time: int = 50, **about: Any) -> Amendment:
    return Amendment(
        id="am", time=time, project=about.get("project", "default"), by="key_1", invocation="inv_a", metadata=metadata
    )


def metadata_of(store: Store) -> Any:
    return stored_one(store, "default", "inv_a")["row"]["metadata"]


@pytest.mark.parametrize("late", [False, True], ids=["amended after", "amended before it came"])
def test_the_newest_amendment_holds_whatever_comes_first(store: Store, late: bool) -> None:
    answer = invocation("inv_a", stored=MARK, metadata='{"k":"v"}')
    if not late:
        put(store, answer)
    put(store, amendment('{"k":"new"}', time=60), amendment('{"k":"old"}', time=50))
    put(store, amendment('{"k":"older"}', time=40), amendment('{"k":"theirs"}', time=99, project="other"))
    if late:
        put(store, answer, producer="slow-0")
    assert metadata_of(store) == {"k": "new"}
    assert ids(stored(store, "default", 9, metadata={"k": "new"})) == ["inv_a"]
    put(store, amendment(None, time=70))
    assert metadata_of(store) is None


def test_an_amendment_fills_nothing_that_was_erased(store: Store) -> None:
    put(store, invocation("inv_a", stored=MARK), amendment('{"k":"before"}'))
    put(store, erasure(invocation="inv_a"))
    put(store, amendment('{"k":"after"}', time=200))
    row = find(store, "inv_a")
    assert row is not None and row["metadata"] is None
    assert store.fetch("SELECT count(*) AS n FROM amendments WHERE metadata IS NOT NULL") == [{"n": 0}]
