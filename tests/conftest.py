# SPDX-License-Identifier: Apache-2.0
"""No example has to be fast: the machine may be busy with others."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
