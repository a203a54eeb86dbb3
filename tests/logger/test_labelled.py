# SPDX-License-Identifier: Apache-2.0
import pyarrow
import pytest

from contract.records import Erasure, Score, Status
from contract.settings import Filter, MetadataFilter, MetadataPair
from logger.export import labelled_stream
from logger.labelled import Selection, count_labelled, labelled, with_values
from logger.queries import orphans
from logger.store import Store
from tests.logger.records import invocation, label
from tests.logger.stores import put

LABEL = Selection("triage", "label")


def score(invocation_id: str, value: float) -> Score:
    return Score(
        id="sc_1", time=1, project="default", invocation=invocation_id, grader="g", grader_version="v", position=1,
        value=value,
    )  # fmt: skip


def having(*pairs: dict[str, str]) -> Filter:
    return Filter(metadata=MetadataFilter(andAll=[MetadataPair(equals=pair) for pair in pairs]))


def answers(store: Store, selection: Selection = LABEL) -> list[tuple[str, object]]:
    rows = with_values(labelled(store, selection, 500))
    assert count_labelled(store, selection)["rows"] == len(rows)
    return [(row["invocation"], row["reference"]) for row in rows]


def test_a_row_carries_prompt_answer_and_reference(store: Store) -> None:
    put(
        store,
        invocation("inv_a", user="u", metadata='{"team":"x"}', conversation="c", parameters='{"n":1}'),
        label("fb_1", "inv_a", '"bad"'),
    )
    (row,) = with_values(labelled(store, LABEL, 500))
    assert row == {
        "cursor": 2, "feedback_id": "fb_1", "invocation": "inv_a", "choice": 0, "project": "default", "user": "u",
        "conversation": "c", "time": 1_700_000_000_000_000_000, "alias": "triage", "version": "triage@0123456789ab",
        "metadata": {"team": "x"}, "parameters": {"n": 1}, "messages": [{"role": "user", "content": "a"}],
        "output_text": "good", "finish_reason": "stop", "reference": "bad",
    }  # fmt: skip


def test_the_newest_feedback_on_an_answer_wins(store: Store) -> None:
    put(store, invocation("inv_a"), label("fb_1", "inv_a", '"bad"'), label("fb_2", "inv_a", '"fine"'))
    put(store, label("fb_3", "inv_a", '"good"'), label("fb_4", "inv_a", "5", metric="stars"))
    assert answers(store) == [("inv_a", "good")]
    assert answers(store, Selection("triage", "stars")) == [("inv_a", 5)]
    assert answers(store, Selection("triage", "label", until=3)) == [("inv_a", "fine")]


def test_each_choice_of_an_answer_has_its_own_feedback(store: Store) -> None:
    two = '[{"index":1,"message":{"content":"B"}},{"index":0,"message":{"content":"A"}}]'
    put(store, invocation("inv_a", choices=two, finish_reasons=["stop", "length"]))
    put(store, label("fb_1", "inv_a", '"x"', choice=1), label("fb_2", "inv_a", '"y"'))
    rows = labelled(store, LABEL, 500)
    assert [(r["choice"], r["output_text"], r["finish_reason"]) for r in rows] == [(1, "B", "length"), (0, "A", "stop")]
    assert answers(store, Selection("triage", "label", filter=Filter(finish_reasons=["length"]))) == [("inv_a", "x")]


def test_feedback_on_a_choice_that_the_answer_does_not_have_is_no_row(store: Store) -> None:
    put(store, invocation("inv_a"), *(label(f"fb_{n}", "inv_a", choice=n) for n in (1, 2, 10)))
    put(store, invocation("inv_none", choices="[]"), label("fb_none", "inv_none"))
    assert answers(store) == []
    put(store, label("fb_0", "inv_a", '"bad"'))
    assert answers(store) == [("inv_a", "bad")]


def test_feedback_on_a_conversation_is_on_its_newest_complete_answer_of_the_same_project(store: Store) -> None:
    put(store, invocation("inv_old", conversation="c", time=1), invocation("inv_new", conversation="c", time=3))
    put(store, invocation("inv_failed", Status.FAILED, conversation="c", time=4))
    put(store, invocation("inv_other", conversation="c", time=9, project="other"))
    put(store, label("fb_1", None, conversation="c"))
    assert answers(store) == [("inv_new", "good")]


def test_feedback_may_come_before_its_answer(store: Store) -> None:
    put(store, label("fb_1", "inv_late"))
    assert answers(store) == [] and orphans(store) == 1
    put(store, invocation("inv_late"))
    assert answers(store) == [("inv_late", "good")] and orphans(store) == 0


def test_who_reads_on_misses_no_answer_that_came_after_its_feedback(store: Store) -> None:
    put(store, label("fb_1", "inv_late"), label("fb_2", None, conversation="c"), label("fb_3", "inv_a"))
    put(store, invocation("inv_a"))
    seen = labelled(store, LABEL, 500)[-1]["cursor"]
    put(store, invocation("inv_late"), invocation("inv_first", conversation="c"))
    assert answers(store, Selection("triage", "label", after=seen)) == [("inv_late", "good"), ("inv_first", "good")]
    assert answers(store, Selection("triage", "label", until=seen)) == [("inv_a", "good")]


def test_a_newer_answer_of_a_conversation_is_not_news_of_its_feedback(store: Store) -> None:
    put(store, invocation("inv_a", conversation="c", time=1), label("fb_1", None, conversation="c"))
    seen = labelled(store, LABEL, 500)[-1]["cursor"]
    put(store, invocation("inv_b", conversation="c", time=2))
    assert answers(store, Selection("triage", "label", after=seen)) == []
    assert answers(store) == [("inv_a", "good")]


def test_feedback_on_a_conversation_without_an_answer_waits_for_the_first_and_stays_there(store: Store) -> None:
    put(store, label("fb_1", None, conversation="c"), invocation("inv_failed", Status.FAILED, conversation="c"))
    put(store, invocation("inv_a", conversation="c", time=5))
    put(store, invocation("inv_b", conversation="c", time=1))
    assert [(row["cursor"], row["invocation"]) for row in labelled(store, LABEL, 500)] == [(3, "inv_a")]


def test_an_opinion_on_a_conversation_and_one_on_its_answer_are_of_the_same_answer(store: Store) -> None:
    put(store, invocation("inv_a", conversation="c"), label("fb_1", "inv_a", '"old"'))
    put(store, label("fb_2", None, '"new"', conversation="c"))
    assert answers(store) == answers(store, Selection("triage", "label", after=2)) == [("inv_a", "new")]
    put(store, label("fb_3", None, '"early"', conversation="d"), label("fb_4", "inv_d", '"late"'))
    put(store, invocation("inv_d", conversation="d"))
    assert answers(store, Selection("triage", "label", after=5)) == [("inv_d", "late")]


def test_a_page_is_not_cut_between_the_choices_of_an_answer(store: Store) -> None:
    put(store, label("fb_1", "inv_a", '"x"'), label("fb_2", "inv_a", '"y"', choice=1))
    two = '[{"index":0,"message":{"content":"A"}},{"index":1,"message":{"content":"B"}}]'
    put(store, invocation("inv_a", choices=two, finish_reasons=["stop", "stop"]))
    assert [row["choice"] for row in labelled(store, LABEL, 1)] == [0, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.INTERRUPTED},
        {"status": Status.ABORTED},
        {"alias": "other"},
        {"project": "other"},
        {"messages": None, "choices": None},
        {"endpoint": "/v1/completions", "messages": '"a"'},
        {"endpoint": "/v1/embeddings", "messages": '"a"', "choices": "[]"},
    ],
)
def test_what_is_not_a_complete_kept_answer_of_the_alias_and_project_is_left_out(
    store: Store, fields: dict[str, object]
) -> None:
    put(store, invocation("inv_a", **fields), label("fb_1", "inv_a"))  # fields by name
    assert answers(store) == []


def test_an_answer_is_learned_from_whatever_route_its_messages_took(store: Store) -> None:
    put(store, invocation("inv_a", endpoint="/v1/responses"), label("fb_1", "inv_a"))
    assert answers(store) == [("inv_a", "good")]


def test_a_score_or_an_opinion_that_the_filter_asks_for_makes_a_row_new_when_it_comes(store: Store) -> None:
    put(store, invocation("inv_a"), label("fb_1", "inv_a"))
    seen = 0
    for given, record in (
        ({"scores": [{"grader": "g", "min": 0.5}]}, score("inv_a", 1.0)),
        ({"feedback": [{"metric": "stars", "min": 5}]}, label("fb_2", "inv_a", "5", "stars")),
    ):
        seen, chosen = store.cursor, Filter.model_validate(given)
        assert answers(store, Selection("triage", "label", filter=chosen)) == []
        put(store, record)
        news = Selection("triage", "label", after=seen, filter=chosen)
        assert answers(store, news) == [("inv_a", "good")]
        assert count_labelled(store, news)["cursor"] == store.cursor
        assert answers(store, Selection("triage", "label", until=seen, filter=chosen)) == []


@pytest.mark.parametrize("key", ["team", "a.b", "$.x", "/y", "a/b~c", 'quo"te', "", "ü"])
def test_metadata_must_be_equal_whatever_the_key_looks_like(store: Store, key: str) -> None:
    import json

    put(store, invocation("inv_a", metadata=json.dumps({key: "red", "n": "1"})), label("fb_1", "inv_a"))
    put(store, invocation("inv_b", metadata=json.dumps({key: "blue"})), label("fb_2", "inv_b"))
    put(store, invocation("inv_c"), label("fb_3", "inv_c"))
    assert answers(store, Selection("triage", "label", filter=having({key: "red"}))) == [("inv_a", "good")]
    assert answers(store, Selection("triage", "label", filter=having({key: "red"}, {"n": "2"}))) == []


def test_pages_go_on_after_the_cursor_and_stop_at_until(store: Store) -> None:
    for n in range(5):
        put(store, invocation(f"inv_{n}"), label(f"fb_{n}", f"inv_{n}"))
    first = labelled(store, LABEL, 2)
    assert [row["invocation"] for row in first] == ["inv_0", "inv_1"]
    rest = Selection("triage", "label", after=first[-1]["cursor"], until=8)
    assert [row["invocation"] for row in labelled(store, rest, 500)] == ["inv_2", "inv_3"]
    assert count_labelled(store, rest) == {"rows": 2, "cursor": 8}
    assert count_labelled(store, Selection("triage", "label", after=10)) == {"rows": 0, "cursor": 10}


def test_the_arrow_stream_holds_the_same_rows_of_one_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logger.labelled.BATCH_ROWS", 2)
    for n in range(5):
        put(store, invocation(f"inv_{n}"), label(f"fb_{n}", f"inv_{n}", f'"{n}"'))
    before = labelled(store, LABEL, 500)
    pieces = labelled_stream(store, LABEL)
    begun = [next(pieces), next(pieces)]
    put(store, label("fb_new", "inv_4", '"new"'))
    table = pyarrow.ipc.open_stream(b"".join([*begun, *pieces])).read_all()
    assert table.to_pylist() == before


def test_a_stream_runs_its_query_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logger.labelled.BATCH_ROWS", 1)
    put(store, *(invocation(f"inv_{n}") for n in range(3)), *(label(f"fb_{n}", f"inv_{n}") for n in range(3)))
    asked: list[str] = []
    stream = store.stream
    monkeypatch.setattr(store, "stream", lambda *given: asked.append(given[0]) or stream(*given))
    monkeypatch.setattr(store, "fetch", lambda *given: pytest.fail("a query for each page"))
    assert len(list(labelled_stream(store, LABEL))) == 5 and len(asked) == 1


def test_feedback_on_what_is_not_in_the_log_is_counted(store: Store) -> None:
    put(
        store,
        invocation("inv_two", finish_reasons=["stop", "stop"], conversation="c"),
        invocation("inv_theirs", project="p"),
    )
    put(
        store, label("f_1", "inv_two", choice=1), label("f_2", "inv_two", choice=2), label("f_3", "inv_none"),
        label("f_4", None, conversation="c"), label("f_5", None, conversation="d"), label("f_6", "inv_theirs"),
        label("f_7", "inv_two"),
    )  # fmt: skip
    assert orphans(store) == 4, "a choice that is not there, an answer, a conversation, and another project's answer"


def test_an_opinion_whose_words_are_erased_is_none_and_uncovers_the_one_before(store: Store) -> None:
    put(store, invocation("inv_a"), label("f_1", "inv_a", '"good"', author="ann", time=1))
    put(store, label("f_2", "inv_a", '"bad"', author="bob", time=2))
    assert answers(store) == [("inv_a", "bad")]
    put(store, Erasure(id="e", time=3, project="default", by="ops", user="bob"))
    assert answers(store) == [("inv_a", "good")]
