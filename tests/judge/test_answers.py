# SPDX-License-Identifier: Apache-2.0
from judge.answers import answers_of, labelled_answer

MESSAGES = [{"role": "user", "content": "Good film."}]
LABELLED = {
    "cursor": 12, "feedback_id": "fb_1", "invocation": "inv_1", "choice": None, "project": "default", "alias": "triage",
    "metadata": {"lang": "en"}, "messages": MESSAGES, "output_text": "positive", "reference": "positive",
}  # fmt: skip


def test_a_labelled_row_is_an_answer_with_its_reference_the_prompt_and_the_metadata() -> None:
    answer = labelled_answer(LABELLED)
    assert (answer.cursor, answer.invocation, answer.choice) == (12, "inv_1", 0)
    assert answer.sample.output_text == "positive"
    assert answer.sample.item == {
        "reference_answer": "positive",
        "messages": MESSAGES,
        "metadata": {"lang": "en"},
    }


def test_metadata_cannot_pass_itself_off_as_the_reference() -> None:
    answer = labelled_answer({**LABELLED, "metadata": {"reference_answer": "forged"}})
    assert answer.sample.item["reference_answer"] == "positive"


def test_every_choice_of_an_invocation_is_an_answer_of_its_own() -> None:
    choices = [
        {"index": i, "message": {"content": text}, "finish_reason": "stop"} for i, text in enumerate(["a", None])
    ]
    row = {"cursor": 3, "id": "inv_2", "project": "p", "alias": "m", "metadata": None, "messages": MESSAGES}
    answers = answers_of({**row, "choices": choices})
    assert [(answer.choice, answer.sample.output_text) for answer in answers] == [(0, "a"), (1, "")]
    assert "reference_answer" not in answers[0].sample.item
    assert len({answer.sample.id for answer in answers}) == 2


def test_an_invocation_whose_payload_was_not_kept_has_nothing_to_grade() -> None:
    row = {
        "cursor": 3,
        "id": "inv_2",
        "project": "p",
        "alias": "m",
        "metadata": None,
        "messages": None,
        "choices": None,
    }
    assert answers_of(row) == []
