# SPDX-License-Identifier: Apache-2.0
import duckdb
import pytest

from contract.records import encode
from contract.settings import StoreSettings
from logger.commit import Committer
from logger.store import Store
from tests.logger.records import invocation


def test_a_process_that_ends_does_not_wait_for_a_store_without_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise duckdb.IOException("No space left on device")

    errors: dict[str, str] = {}
    committer = Committer(store, StoreSettings(), errors)
    record = invocation("inv_1")
    record.producer = "p-0"
    committer.intake.take("p-0", 0, encode(record))
    monkeypatch.setattr(store, "commit", full)
    committer.stop.set()
    with pytest.raises(duckdb.IOException):
        committer.commit()
    assert "No space left" in errors["store"]
