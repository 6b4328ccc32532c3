# SPDX-License-Identifier: BSD-2-Clause
"""A night: kept findings and planted programs first, then campaigns, then what is new and what has changed since."""
