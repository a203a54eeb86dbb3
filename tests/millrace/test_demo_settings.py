# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from contract.settings import MetadataFilter
from judge.graders import build_graders
from millrace.demo.app import APP, MODEL
from millrace.demo.data import LABELS, ROWS_PER_LABEL
from millrace.demo.settings import LABELLED, LOOP, read, write


def test_the_written_file_is_good_settings(tmp_path: Path) -> None:
    settings = read(write(tmp_path), [])
    assert settings.data_dir == tmp_path / "data"
    loop = settings.loops[LOOP]
    assert loop.model == MODEL
    assert loop.data.filter.metadata == MetadataFilter(equals={"app": APP})
    assert settings.log.feedback["label"].values == list(LABELS)
    assert settings.judge.live[0].grader in build_graders(settings)


def test_the_loop_starts_when_the_last_label_is_in() -> None:
    assert ROWS_PER_LABEL * len(LABELS) > LABELLED


def test_a_file_that_is_there_keeps_what_was_changed_in_it(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("port: 8080", "port: 9080"))
    assert read(write(tmp_path), []).gateway.port == 9080


def test_an_override_is_stronger_than_the_file(tmp_path: Path) -> None:
    assert read(write(tmp_path), ["gateway.port=9081"]).gateway.port == 9081
