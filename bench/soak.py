# SPDX-License-Identifier: Apache-2.0
"""`make soak`: the long form of every test that has one, one at a time, resumable, with the results as JSON.

A long test is marked ``soak`` and reads its count from ``MILLRACE_SOAK``. Each result is written to
``bench/results/soak.json`` as soon as it is known; what passed for the same commit is not run again.

Usage: python -m bench.soak [--again]
"""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "soak.json"
HOURS = 12
SOAKING = {**os.environ, "MILLRACE_SOAK": "1000"}


@dataclass(frozen=True)
class Result:
    """How one long test went."""

    test: str
    passed: bool
    seconds: float
    commit: str
    machine: str
    tail: list[str]
    """The last lines of what it printed: figures where it passed, the cause where it did not."""


def collect() -> list[str]:
    """Node ids of every test marked ``soak``."""
    listing = pytest("--collect-only", "-q", "-m", "soak")
    if listing.returncode not in (0, 5):  # 5: none is marked
        raise SystemExit(f"collecting failed:\n{listing.stdout}{listing.stderr}")
    return [line for line in listing.stdout.splitlines() if "::" in line]


def soak(test: str, commit: str) -> Result:
    """Run one test in its long form."""
    started = time.monotonic()
    outcome = pytest("-q", "-s", f"--timeout={HOURS * 3600}", test)
    return Result(
        test=test,
        passed=outcome.returncode == 0,
        seconds=round(time.monotonic() - started, 1),
        commit=commit,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        tail=(outcome.stdout + outcome.stderr).strip().splitlines()[-20:],
    )


def pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Pytest with the long forms on."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env=SOAKING, capture_output=True, text=True, check=False)


def commit_id() -> str:
    """The checked-out commit, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def load() -> dict[str, Result]:
    """Results of earlier runs by test."""
    if not RESULTS.exists():
        return {}
    return {entry["test"]: Result(**entry) for entry in json.loads(RESULTS.read_text())}


def save(results: dict[str, Result]) -> None:
    """Replace the results file, whole or not at all."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    fresh = RESULTS.with_suffix(".partial")
    fresh.write_text(json.dumps([asdict(result) for result in results.values()], indent=2) + "\n")
    fresh.replace(RESULTS)


def main() -> int:
    """Run what has not passed for this commit; 1 where anything failed."""
    commit, results = commit_id(), load()
    tests = collect()
    for number, test in enumerate(tests, start=1):
        known = results.get(test)
        if known and known.passed and known.commit == commit and "--again" not in sys.argv:
            print(f"[{number}/{len(tests)}] {test}: passed before, {known.seconds:.0f} s", flush=True)
            continue
        print(f"[{number}/{len(tests)}] {test} ...", flush=True)
        results[test] = soak(test, commit)
        save(results)
        print(f"    {'passed' if results[test].passed else 'FAILED'} in {results[test].seconds:.0f} s", flush=True)
    failed = [test for test in tests if not results[test].passed]
    print(f"{len(tests) - len(failed)} of {len(tests)} passed; {RESULTS.relative_to(ROOT)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
