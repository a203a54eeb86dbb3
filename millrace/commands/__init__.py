# SPDX-License-Identifier: Apache-2.0
"""The subcommands, one file per noun."""
