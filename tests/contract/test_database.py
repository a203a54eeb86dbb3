# SPDX-License-Identifier: Apache-2.0
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from contract.database import connect, metadata, open_database, projects, reading
from contract.errors import DatabaseError

OPEN = """
import sys
from contract.database import open_database, projects
sys.stdin.readline()
engine = open_database(sys.argv[1])
with engine.begin() as connection:
    connection.execute(projects.insert().values(id=sys.argv[2], name=sys.argv[2], created_ns=0))
"""


def test_the_migrations_make_the_tables_that_the_code_uses(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_processes_that_open_a_new_database_at_once_all_find_it_whole(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/millrace.db"
    racers = [
        subprocess.Popen([sys.executable, "-c", OPEN, url, f"p{n}"], stdin=-1, stderr=-1, text=True) for n in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=60)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, said
    engine = connect(url)
    with reading(engine) as connection:
        assert sorted(connection.scalars(sa.select(projects.c.id))) == ["p0", "p1", "p2", "p3"]
    engine.dispose()


def test_opening_again_keeps_what_is_there(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(projects.insert().values(id="p", name="p", created_ns=0))
    again = open_database(str(engine.url))
    with reading(again) as connection:
        assert connection.scalars(sa.select(projects.c.id)).all() == ["p"]
    again.dispose()


def test_a_database_of_a_newer_release_is_refused(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="cannot open the control database .*9999"):
        open_database(str(engine.url))


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "millrace.db"
    path.write_text("not a database, but a long enough text to be mistaken for one " * 20)
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="file is not a database"):
        open_database(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sa.exc.OperationalError("CREATE", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(command, "upgrade", full)
    with pytest.raises(DatabaseError, match=r"millrace.db: database or disk is full; look .* whether its disk is full"):
        open_database(f"sqlite:///{tmp_path}/millrace.db")


def test_a_folder_that_cannot_be_made_is_an_error_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="cannot open the control database"):
        open_database(f"sqlite:///{tmp_path}/file/millrace.db")


def test_two_writers_take_turns_and_lose_no_update(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(projects.insert().values(id="p", name="p", created_ns=0))

    def add() -> None:
        for _ in range(50):
            with engine.begin() as connection:
                seen = connection.scalar(sa.select(projects.c.created_ns))
                connection.execute(projects.update().values(created_ns=(seen or 0) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as connection:
        assert connection.scalar(sa.select(projects.c.created_ns)) == 200


def test_a_read_does_not_wait_for_a_writer(engine: sa.Engine) -> None:
    with engine.begin() as writing:
        writing.execute(projects.insert().values(id="p", name="p", created_ns=0))
        with reading(engine) as connection:
            assert connection.scalars(sa.select(projects.c.id)).all() == []


def test_references_are_kept(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(metadata.tables["aliases"].insert().values(name="a", engine="e", version="x", changed_ns=0))
