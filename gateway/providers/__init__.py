# SPDX-License-Identifier: Apache-2.0
"""External providers: models that answer elsewhere, behind the same keys, meter, log and prices.

litellm speaks to them, and `gateway.providers.sdk` alone imports it, where the settings declare a provider. What it
hands over becomes the JSON that an engine would have sent, so that all behind it is one path.
"""

from gateway.providers.backend import Provider, open_providers
from gateway.providers.feed import Feed

__all__ = ["Feed", "Provider", "open_providers"]
