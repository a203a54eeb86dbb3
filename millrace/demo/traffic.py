# SPDX-License-Identifier: Apache-2.0
"""The application's traffic and its users' feedback, each sent until the log has it, and only where it has not."""

import time
from collections import Counter
from collections.abc import Sequence

from openai import AsyncOpenAI, OpenAIError

from contract.errors import OperatorError
from logger.client import LoggerClient
from millrace.demo.app import APP, MODEL, ask, at_once, give_label
from millrace.demo.data import Row
from millrace.demo.log import answered, labelled, until_taken_in
from millrace.demo.teller import Teller

CONCURRENCY = 12
PASSES = 3
"""How often the application asks again for what failed."""


class Application:
    """Asks and corrects; ``failures`` holds every request that did not get a whole answer."""

    def __init__(self, client: AsyncOpenAI, log: LoggerClient, teller: Teller) -> None:
        self.failures: list[str] = []
        self._client = client
        self._log = log
        self._teller = teller

    async def ask(self, rows: Sequence[Row], app: str) -> Counter[str]:
        """Asks for every row that the log has no whole answer to; what all of them were answered."""
        for _ in range(PASSES):
            await until_taken_in(self._log)
            done = await answered(self._log, app)
            missing = [row for row in rows if row.id not in done]
            if not missing:
                return Counter(done[row.id].text for row in rows)
            self._teller.say(
                f"{len(missing)} of {len(rows)} sentences to {MODEL!r}, "
                f"every other one streamed, {CONCURRENCY} at a time"
            )
            await self._ask_all(missing, app)
        raise OperatorError(f"requests keep failing, such as: {self.failures[-1]}")

    async def _ask_all(self, rows: Sequence[Row], app: str) -> None:
        started, answers, every = time.monotonic(), 0, max(1, len(rows) // 5)

        async def one(numbered: tuple[int, Row]) -> None:
            nonlocal answers
            number, row = numbered
            try:
                await ask(self._client, row, stream=number % 2 == 0, app=app)
            except OpenAIError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                return
            answers += 1
            if answers % every == 0:
                self._teller.say(f"{answers} answered, {answers / (time.monotonic() - started):.0f} a second")

        await at_once(enumerate(rows), one, CONCURRENCY)

    async def label(self, rows: Sequence[Row]) -> None:
        """Posts the right label for every row's answer that has none yet."""
        answers = await answered(self._log, APP)
        known = await labelled(self._log)
        pairs = [(answers[row.id].invocation, row.label) for row in rows]
        to_label = [pair for pair in pairs if pair[0] not in known]
        self._teller.say(f"{len(to_label)} of {len(rows)} labels to give")

        async def one(pair: tuple[str, str]) -> None:
            await give_label(self._client, *pair)

        await at_once(to_label, one, CONCURRENCY)
        await until_taken_in(self._log)
