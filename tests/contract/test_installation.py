# SPDX-License-Identifier: Apache-2.0
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contract.errors import OperatorError, SettingsError
from contract.installation import SECRET_VARIABLE, Installation

RACE = """
import sys
from pathlib import Path
from contract.installation import Installation
print("ready", flush=True)
sys.stdin.readline()
print(Installation(Path(sys.argv[1])).secret().hex())
"""


@pytest.fixture(autouse=True)
def no_secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


def test_eight_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path)], stdin=-1, stdout=-1, text=True) for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    secrets = {racer.communicate(timeout=30)[0].strip() for racer in racers}
    assert secrets == {Installation(tmp_path).secret().hex()}
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_the_secret_is_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "new")
    first = installation.secret()
    assert len(first) == 32 and installation.secret() == first
    assert stat.S_IMODE((tmp_path / "new" / "secret").stat().st_mode) == 0o600


def test_a_secret_that_is_made_anew_beside_a_database_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    installation = Installation(tmp_path)
    first = installation.secret()
    installation.database.touch()
    installation.secret()
    assert caplog.messages == []
    (tmp_path / "secret").unlink()
    assert installation.secret() != first
    assert [message.partition(": ")[0] for message in caplog.messages] == [
        f"{tmp_path}/secret was gone and is made anew"
    ]


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "ab" * 32)
    assert Installation(tmp_path).secret() == b"\xab" * 32
    assert not (tmp_path / "secret").exists()


@pytest.mark.parametrize("text", ["", "ab" * 31, "AB" * 32, "zz" * 32, "ab" * 32 + "0"])
def test_a_secret_of_the_wrong_shape_is_refused_without_being_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "secret").write_text(text)
    with pytest.raises(SettingsError, match=f"{tmp_path}/secret must hold 64 hex digits") as in_file:
        Installation(tmp_path).secret()
    monkeypatch.setenv(SECRET_VARIABLE, text)
    with pytest.raises(SettingsError, match=f"{SECRET_VARIABLE} must hold 64 hex digits") as in_environment:
        Installation(tmp_path).secret()
    assert not text or (text not in str(in_file.value) and text not in str(in_environment.value))


def test_a_secret_that_cannot_be_read_or_made_says_whose_folder_it_must_be(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    with pytest.raises(OperatorError, match=f"cannot read or make the secret {tmp_path}/secret: Is a directory"):
        Installation(tmp_path).secret()
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="must belong to the user that runs Millrace"):
        Installation(tmp_path / "file").secret()


def test_tokens_differ_by_audience_and_installation(tmp_path: Path) -> None:
    one, two = Installation(tmp_path / "1"), Installation(tmp_path / "2")
    tokens = [one.token("logger"), one.token("judge"), two.token("logger")]
    assert len(set(tokens)) == 3 and one.token("logger") == tokens[0]
