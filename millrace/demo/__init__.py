# SPDX-License-Identifier: Apache-2.0
"""`millrace demo`: the whole loop on this machine, told as it happens."""
