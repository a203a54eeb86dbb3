# SPDX-License-Identifier: Apache-2.0
"""What the gateway costs, beside its peers: ``python -m bench.gateway``."""
