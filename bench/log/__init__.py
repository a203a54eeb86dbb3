# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.log``: what the log costs and carries."""
