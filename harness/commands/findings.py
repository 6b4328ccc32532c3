# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds repro` and `bothworlds minimise`."""

from __future__ import annotations


def repro() -> None:
    """Not there yet."""


def minimise() -> None:
    """Not there yet."""
