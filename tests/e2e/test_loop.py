# SPDX-License-Identifier: Apache-2.0
"""The loop on real parts: what the client saw against what the log holds, record by record, token by token."""

from collections import Counter
from pathlib import Path

from contract.settings import load_settings
from tests.dashboards.metrics import dashboards_metrics, exposed
from tests.e2e import stack as stacks
from tests.e2e.story import HANG_UPS, REQUESTS, Story


def test_every_first_answer_came_whole(story: Story) -> None:
    assert [seen.error for seen in story.first] == [None] * REQUESTS


def test_every_whole_answer_is_one_record_with_the_same_text_tokens_and_version(story: Story) -> None:
    rows = {row["id"]: row for row in story.rows}
    assert len(rows) == len(story.rows)
    for seen in story.seen():
        row = rows[seen.invocation]
        said = row["choices"][0]["message"]["content"]
        assert (said, row["prompt_tokens"], row["completion_tokens"], row["version"], row["conversation"]) == (
            seen.text, seen.prompt_tokens, seen.completion_tokens, seen.version, seen.conversation,
        )  # fmt: skip
        assert (row["status"], row["usage_source"]) == ("complete", "reported")


def test_no_record_says_complete_that_no_client_saw(story: Story) -> None:
    seen = {each.invocation for each in story.seen()}
    complete = {row["id"] for row in story.rows if row["status"] == "complete"}
    assert complete == seen


def test_the_engine_counted_the_same_tokens(story: Story) -> None:
    assert story.engine_tokens == {
        "prompt_tokens_total": sum(seen.prompt_tokens for seen in story.first),
        "generation_tokens_total": sum(seen.completion_tokens for seen in story.first),
    }


def test_a_hang_up_is_recorded_as_aborted_and_paid_for_what_was_received(story: Story) -> None:
    rows = {row["id"]: row for row in story.rows}
    assert len(story.hung_up) == HANG_UPS
    for invocation in story.hung_up:
        row = rows[invocation]
        assert row["status"] == "aborted"
        assert row["usage_source"] == "reported"
        assert 0 < row["completion_tokens"] < 400


def test_the_bill_is_the_tokens_times_the_price_to_the_nano_dollar(story: Story) -> None:
    for row in story.rows:
        if row["status"] == "complete":
            fresh = row["prompt_tokens"] - (row["cached_tokens"] or 0)
            exact = fresh * 20 + (row["cached_tokens"] or 0) * 10 + row["completion_tokens"] * 40
            assert row["cost"] == exact


def test_requests_fail_only_while_the_engine_is_down_and_leave_a_record(story: Story) -> None:
    failed = [seen for seen in story.background if seen.error]
    began, ended = story.outage
    outside = [seen for seen in failed if seen.ended < began or (seen.began > ended and seen.began < story.release[1])]
    assert outside == []
    in_loop = Counter(row["status"] for row in story.rows)
    assert in_loop["failed"] + in_loop["refused"] >= len(failed)


def test_no_request_fails_while_the_new_version_is_released(story: Story) -> None:
    began, ended = story.release
    during = [seen for seen in story.background if seen.ended >= began and seen.began <= ended]
    assert len(during) >= 6
    assert [seen.error for seen in during if seen.error] == []


def test_answers_switch_to_the_new_version_once_and_stay(story: Story) -> None:
    assert story.version
    versions = [seen.version for seen in story.background if not seen.error]
    flip = versions.index(story.version.id)
    assert set(versions[:flip]) == {"smollm2-135m"}
    assert set(versions[flip:]) == {story.version.id}


def test_an_engine_that_restarts_gets_its_version_back_by_itself(story: Story) -> None:
    assert story.version
    assert story.after_restart
    assert story.after_restart.version == story.version.id


def test_the_job_started_by_itself_and_left_its_steps_report_and_manifest(story: Story) -> None:
    assert story.version
    assert (story.job["status"], story.job["version"]) == ("succeeded", story.version.id)
    assert [step["step"] for step in story.steps] == [1, 2]
    manifest = story.version.manifest
    assert manifest["gate"]["admitted"] is True
    assert manifest["dataset"]["train_rows"] + manifest["dataset"]["heldout_rows"] >= 40
    assert (Path(story.version.path) / "adapter_model.safetensors").exists()
    assert list((story.stack.settings.installation.jobs / story.job["id"]).glob("**/*.html"))


def test_every_decision_of_the_release_left_its_reason(story: Story) -> None:
    assert {"admit", "promote"} <= {row["action"] for row in story.decisions}
    assert all(row["reason"] and row["figures"] is not None for row in story.decisions)


def test_every_labelled_answer_was_judged_exactly_once_and_rightly(story: Story) -> None:
    said = {seen.invocation: seen.text for seen in story.first}
    scores = [score for score in story.scores if score["invocation"] in story.labels]
    assert Counter(score["invocation"] for score in scores) == Counter(story.labels.keys())
    for score in scores:
        right = said[score["invocation"]] == story.labels[score["invocation"]]
        assert (score["value"], score["error"]) == (1.0 if right else 0.0, None)


def test_every_metric_that_a_rule_or_a_panel_names_is_on_a_page_of_the_running_stack(story: Story) -> None:
    shown = set[str]().union(*(exposed(page) for page in story.metrics.values()))
    assert dashboards_metrics() - shown == set()


def test_a_second_up_on_the_same_folder_is_refused(story: Story) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "millrace", "up", "--config", str(story.stack.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "already up" in done.stderr


def test_stopping_ends_every_process(tmp_path: Path, story: Story) -> None:
    import psutil

    children = psutil.Process(story.stack.process.pid).children(recursive=True)
    assert len(children) >= 5
    assert load_settings(story.stack.config, environment={}) == story.stack.settings
    assert stacks.stop(story.stack) == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
