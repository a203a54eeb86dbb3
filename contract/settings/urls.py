# SPDX-License-Identifier: Apache-2.0
"""URLs as the settings take them."""

import re
from urllib.parse import urlsplit


def http_url(url: str, what: str) -> str:
    """Without the slash at its end; refused where ``what`` cannot be reached by it."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError(f"must hold no user and password: none is sent to {what}")
    try:
        real = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:  # of parts.port
        real = False
    if not real or parts.query or parts.fragment:
        raise ValueError(f"is no http://host:port of {what}: a host, a port of 1 to 65535, no ? and no #")
    return url.rstrip("/")
