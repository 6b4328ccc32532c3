# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds check`."""

from __future__ import annotations


def check() -> None:
    """Not there yet."""
