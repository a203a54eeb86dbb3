# SPDX-License-Identifier: Apache-2.0
import sqlalchemy as sa

from contract import prices, registry
from contract.changes import Follower
from contract.database import aliases, projects
from contract.seed import drift, seed
from contract.settings import Settings, parse_settings

RENAMED = """
engines: [{name: three, url: "http://h:1", base_model: b}]
models: {triage: {engine: three, price: {input: 1, output: 2}}}
"""


def settings(price: str = "{input: 1, output: 2}", engine: str = "one", extra: str = "") -> Settings:
    return parse_settings(
        f"""
engines:
  - {{name: one, url: "http://h:1", base_model: b}}
  - {{name: two, url: "http://h:2", base_model: b}}
models:
  triage: {{engine: {engine}, price: {price}}}
{extra}"""
    )


def test_the_first_time_makes_what_the_file_names_and_tells_it(engine: sa.Engine) -> None:
    follower = Follower(engine)
    with engine.begin() as connection:
        assert seed(connection, settings()) == [
            "project default made", "model triage made, on engine one", "price of triage set",
        ]  # fmt: skip
        assert connection.scalars(sa.select(projects.c.id)).all() == ["default"]
        price = prices.latest(connection, "triage")
    assert price is not None
    assert (price.input, price.cached_input, price.output) == (10**9, 10**9, 2 * 10**9)
    assert {(change.topic, change.subject) for change in follower.poll()} == {
        ("aliases", "triage"),
        ("prices", "triage"),
        ("policies", "*"),
    }


def test_the_second_time_changes_nothing(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        seed(connection, settings())
    follower = Follower(engine)
    with engine.begin() as connection:
        assert seed(connection, settings()) == []
        assert drift(connection, settings()) == []
    assert follower.poll() == []


def test_a_changed_price_is_a_new_version_from_now_on(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        seed(connection, settings(), now_ns=lambda: 100)
        dearer = settings("{input: 1, cached_input: 0.5, output: 2}")
        assert drift(connection, dearer) == [
            "models.triage.price differs; the next start makes a new price version dated then"
        ]
        assert seed(connection, dearer, now_ns=lambda: 200) == ["price of triage set"]
        book = prices.read_book(connection)
    assert [book.at("triage", moment).cached_input for moment in (100, 199, 200)] == [10**9, 10**9, 5 * 10**8]


def test_the_database_keeps_the_engine_and_the_target_of_an_alias(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        seed(connection, settings())
        assert seed(connection, settings(engine="two")) == []
        assert connection.execute(sa.select(aliases.c.engine)).scalar() == "one"
        assert drift(connection, settings(engine="two")) == [
            "models.triage.engine is two in the file, one in the database, which holds"
        ]


def test_an_alias_of_a_base_whose_engine_is_gone_moves_with_the_file(engine: sa.Engine) -> None:
    renamed = parse_settings(RENAMED)
    with engine.begin() as connection:
        seed(connection, settings())
        assert drift(connection, renamed) == [
            "models.triage.engine is three in the file, one in the database, until the next start moves it"
        ]
    follower = Follower(engine)
    with engine.begin() as connection:
        assert seed(connection, renamed) == ["model triage moved to engine three; one is no engine any more"]
        assert connection.execute(sa.select(aliases.c.engine)).scalar() == "three"
        assert seed(connection, renamed) == drift(connection, renamed) == []
    assert [(change.topic, change.subject) for change in follower.poll()] == [("aliases", "triage")]


def test_an_alias_with_a_version_stays_on_the_engine_that_the_version_is_for(engine: sa.Engine) -> None:
    renamed = parse_settings(RENAMED)
    with engine.begin() as connection:
        seed(connection, settings())
        made = registry.publish(
            connection, alias="triage", engine="one", base="b", digest="ab" * 32, path="p", manifest={}
        )
        registry.point(connection, "triage", made.id)
        assert seed(connection, renamed) == []
        assert connection.execute(sa.select(aliases.c.engine)).scalar() == "one"


def test_drift_names_what_is_on_one_side_only(engine: sa.Engine) -> None:
    new = settings(extra="  fresh: {engine: one, price: {input: 1, output: 2}}")
    with engine.begin() as connection:
        seed(connection, settings())
        assert drift(connection, new) == ["models.fresh is in the file only; the next start makes it"]
        assert drift(connection, parse_settings("")) == ["model triage is in the database only, and still served"]


PROVIDED = """
providers: {far: {kind: openai}, other: {kind: anthropic}}
models: {triage: {provider: far, model: gpt-4o-mini}}
"""


def test_a_model_of_a_provider_has_the_listed_price_and_moves_with_the_file(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert seed(connection, parse_settings(PROVIDED)) == [
            "project default made", "model triage made, on provider far", "price of triage set",
        ]  # fmt: skip
        price = prices.latest(connection, "triage")
        assert price is not None
        assert (price.input, price.cached_input, price.output) == (150_000_000, 75_000_000, 600_000_000)
        moved = parse_settings(PROVIDED.replace("provider: far, model: gpt-4o-mini", "provider: other, model: gpt-5")
                               .replace("anthropic", "openai"))  # fmt: skip
        assert drift(connection, moved)[0] == (
            "models.triage.provider is other in the file, far in the database, until the next start moves it"
        )
        assert seed(connection, moved)[0] == "model triage moved to provider other; far is no engine any more"
        assert seed(connection, settings())[0] == "model triage moved to engine one; other is no engine any more"
        assert seed(connection, settings()) == drift(connection, settings()) == []
