# SPDX-License-Identifier: Apache-2.0
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from contract.errors import OperatorError
from millrace.fetch import Archive, cache_dir, fetch

CONTENT = b"weights"
ARCHIVE = Archive("thing", "1.0", "thing-1.0.zip", hashlib.sha256(CONTENT).hexdigest())


def writer(content: bytes, calls: list[str]):
    def download(archive: Archive, folder: Path) -> None:
        calls.append(archive.filename)
        (folder / archive.filename).write_bytes(content)

    return download


def test_an_archive_is_downloaded_once(tmp_path: Path) -> None:
    calls: list[str] = []
    first = fetch(ARCHIVE, tmp_path, writer(CONTENT, calls))
    assert first.read_bytes() == CONTENT
    assert fetch(ARCHIVE, tmp_path, writer(CONTENT, calls)) == first
    assert calls == [ARCHIVE.filename]


def test_other_bytes_than_the_pinned_ones_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=f"sha256 {ARCHIVE.sha256}"):
        fetch(ARCHIVE, tmp_path, writer(b"something else", []))
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / ARCHIVE.filename).write_bytes(b"half of")
    calls: list[str] = []
    assert fetch(ARCHIVE, tmp_path, writer(CONTENT, calls)).read_bytes() == CONTENT
    assert calls


def test_the_cache_is_where_the_environment_says(tmp_path: Path) -> None:
    assert cache_dir({"MILLRACE_CACHE": str(tmp_path), "XDG_CACHE_HOME": "/elsewhere"}) == tmp_path
    assert cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "millrace"
    assert cache_dir({}) == Path.home() / ".cache" / "millrace"


def source_archive(folder: Path, ran: Path) -> Archive:
    path = folder / "leaves-traces-1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("leaves-traces-1.0/setup.py", f"open({str(ran)!r}, 'w').close()\n")
    return Archive("leaves-traces", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_downloading_a_source_archive_runs_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, ran = tmp_path / "index", tmp_path / "ran"
    index.mkdir()
    archive = source_archive(index, ran)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert fetch(archive, tmp_path / "cache").exists()
    assert not ran.exists()
    # The control: pip left to itself does run it, so the archive would have left its trace.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "leaves-traces"]
    subprocess.run([*command, "--dest", str(tmp_path / "plain")], capture_output=True, check=False)
    assert ran.exists()


def test_no_way_to_the_index_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(OperatorError) as refused:
        fetch(ARCHIVE, tmp_path)
    assert "PIP_INDEX_URL" in str(refused.value)
    assert str(tmp_path / "downloads" / ARCHIVE.filename) in str(refused.value)
