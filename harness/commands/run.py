# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds run`."""

from __future__ import annotations


def run() -> None:
    """Not there yet."""
