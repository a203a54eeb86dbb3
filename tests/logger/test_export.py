# SPDX-License-Identifier: Apache-2.0
import os
import resource
from pathlib import Path

import duckdb
import pytest

from logger.export import snapshot
from logger.store import Store
from tests.logger.records import invocation
from tests.logger.stores import put


def count(path: Path) -> int:
    with duckdb.connect(str(path), read_only=True) as copy:
        (found,) = copy.execute("SELECT count(*) FROM invocations").fetchall()
        return int(found[0])


def test_a_snapshot_that_failed_leaves_nothing_and_the_next_one_works(store: Store, tmp_path: Path) -> None:
    put(store, *(invocation(f"inv_{n}", messages=f'"{os.urandom(2000).hex()}"') for n in range(500)))
    folder = tmp_path / "copies"
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, before[1]))
    try:
        with pytest.raises(duckdb.Error, match="File too large"):
            snapshot(store, folder / "log.duckdb")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(folder) == []
    snapshot(store, folder / "log.duckdb")
    assert os.listdir(folder) == ["log.duckdb"] and count(folder / "log.duckdb") == 500


def test_two_snapshots_at_once_do_not_collide(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, invocation("inv_a"))
    first, second = tmp_path / "first.duckdb", tmp_path / "second.duckdb"
    run = store.run

    def meanwhile(*statements: str) -> None:
        for statement in statements:
            run(statement)
            if statement.startswith("ATTACH"):
                monkeypatch.setattr(store, "run", run)
                snapshot(store, second)

    monkeypatch.setattr(store, "run", meanwhile)
    snapshot(store, first)
    assert (count(first), count(second)) == (1, 1)
