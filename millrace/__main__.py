# SPDX-License-Identifier: Apache-2.0
"""``python -m millrace`` is the ``millrace`` command."""

from millrace.cli import main

main()
