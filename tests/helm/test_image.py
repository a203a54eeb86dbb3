# SPDX-License-Identifier: Apache-2.0
"""What the Dockerfile says, against the repository and the chart. Building it takes a machine with Docker."""

import re
import tomllib

import yaml

from tests.helm.rendering import CHART, objects, pods

ROOT = CHART.parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in DOCKERFILE.splitlines() if line.startswith(f"{name} ")]


def test_everything_copied_is_there_and_every_package_is_copied() -> None:
    copied = {word for line in instructions("COPY") if not line.startswith("--from") for word in line.split()[:-1]}
    assert [word for word in copied if not (ROOT / word).exists()] == []
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) <= copied
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_through == copied


def test_the_packages_come_from_the_locks() -> None:
    for engine in ("cpu", "gpu"):
        assert (ROOT / "requirements" / f"{engine}.lock").is_file()
    for package, lock in re.findall(r"grep '\^(\w+)==' requirements/(\w+)\.lock", DOCKERFILE):
        pins = (ROOT / "requirements" / f"{lock}.lock").read_text().splitlines()
        assert len([pin for pin in pins if pin.startswith(f"{package}==")]) == 1


def test_the_image_runs_as_the_user_that_the_chart_asks_for() -> None:
    (user,) = instructions("USER")
    assert {spec["securityContext"]["runAsUser"] for _name, spec in pods(objects())} == {int(user)}
    assert user in instructions("RUN")[-1]


def test_the_chart_calls_the_command_that_the_image_starts() -> None:
    assert instructions("ENTRYPOINT") == ['["millrace"]']
    for name, spec in pods(objects()):
        container = spec["containers"][0]
        component = name.removeprefix("demo-millrace-")
        if component in ("gateway", "logger", "judge", "trainer"):
            assert "command" not in container
            assert container["args"] == ["serve", component, "--config", "/etc/millrace/millrace.yaml"]


def test_the_chart_is_of_the_release_that_the_package_is() -> None:
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == release
