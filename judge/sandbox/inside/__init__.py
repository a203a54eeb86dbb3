# SPDX-License-Identifier: Apache-2.0
"""What the sandbox has of this project: one file, of which the outside imports nothing."""
