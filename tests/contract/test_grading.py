# SPDX-License-Identifier: Apache-2.0
from contract.grading import GraderError, Sample, Score, by_id

BATCH = [Sample(id="a", output_text=""), Sample(id="b", output_text="")]


def test_results_are_joined_by_id_not_by_position() -> None:
    found = by_id([Score(id="b", value=2.0), Score(id="a", value=1.0)], BATCH)
    assert [found[sample.id] for sample in BATCH] == [Score(id="a", value=1.0), Score(id="b", value=2.0)]


def test_a_sample_without_an_answer_or_with_two_is_an_error_not_a_score() -> None:
    found = by_id([Score(id="b", value=2.0), Score(id="b", value=2.0), Score(id="stranger", value=9.0)], BATCH)
    assert set(found) == {"a", "b"}
    assert [type(found["a"]), type(found["b"])] == [GraderError, GraderError]
    assert getattr(found["a"], "kind", "") == "unresponsive_reward"
