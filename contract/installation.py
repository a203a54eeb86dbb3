# SPDX-License-Identifier: Apache-2.0
"""One installation on disk: its secret and the layout of ``data_dir``. Every path is named here and nowhere else.

data_dir/
  secret                    32 random bytes in hex, mode 0600 (or MILLRACE_SECRET)
  millrace.db               the control database, unless `database` says otherwise
  spool/<producer>/         segments, one writer each
  store/log.duckdb          the log, owned by the logger process
  blobs/adapters/<version>/ immutable adapters
  jobs/<job>/               the work of a training job, stage by stage
  logs/<process>.log        what each process printed under `millrace up`
  run/                      locks and marks of live processes
"""

import hmac
import logging
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from contract.errors import OperatorError, SettingsError

SECRET_VARIABLE = "MILLRACE_SECRET"
_log = logging.getLogger(__name__)
_SECRET_PATTERN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Installation:
    """The folder that holds everything an installation owns."""

    data_dir: Path

    @property
    def database(self) -> Path:
        return self.data_dir / "millrace.db"

    @property
    def spool(self) -> Path:
        return self.data_dir / "spool"

    @property
    def store(self) -> Path:
        return self.data_dir / "store" / "log.duckdb"

    @property
    def adapters(self) -> Path:
        return self.data_dir / "blobs" / "adapters"

    @property
    def jobs(self) -> Path:
        return self.data_dir / "jobs"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def run(self) -> Path:
        return self.data_dir / "run"

    def secret(self) -> bytes:
        """The installation's secret; made on first use, so that two processes starting at once agree on one.

        Where there is a database beside it, a secret that is missing was lost, and that is logged: so whoever may make
        the database asks for the secret before.

        Raises:
            SettingsError: the secret in the environment or in the file is not 64 hex digits.
            OperatorError: the file cannot be read or made.
        """
        given = os.environ.get(SECRET_VARIABLE)
        if given is not None:
            return _parse_secret(given, SECRET_VARIABLE)
        path = self.data_dir / "secret"
        used = self.database.exists()  # looked at before the secret is: another process may make both now
        try:
            if not path.exists():
                _make_secret(path)
                if used:
                    _log.warning(
                        "%s was gone and is made anew: feedback on earlier answers is refused from now on. "
                        "Where there is a copy of the old one, put it back and start everything again",
                        path,
                    )
            text = path.read_text().strip()
        except OSError as error:
            raise OperatorError(
                f"cannot read or make the secret {path}: {error.strerror}; "
                "data_dir and what is in it must belong to the user that runs Millrace"
            ) from error
        return _parse_secret(text, str(path))

    def token(self, audience: str) -> str:
        """The bearer token for a private API of this installation, such as ``logger``."""
        return hmac.digest(self.secret(), f"token\0{audience}".encode(), "sha256").hex()

    def key(self, project: str) -> str:
        """The API key with which this installation's own processes call the gateway, for one project of its own."""
        return "mr-" + hmac.digest(self.secret(), f"key\0{project}".encode(), "sha256").hex()


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"secret.{os.getpid()}")
    fresh.touch(mode=0o600)
    fresh.write_text(secrets.token_hex(32))
    try:
        os.link(fresh, path)  # fails where another process was first: then its secret is the one
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def _parse_secret(text: str, source: str) -> bytes:
    if not _SECRET_PATTERN.fullmatch(text):
        raise SettingsError(f"{source} must hold 64 hex digits; `openssl rand -hex 32` makes one")
    return bytes.fromhex(text)
