# SPDX-License-Identifier: BSD-2-Clause
"""The commands of `bothworlds`, one file each, and what they share: how a user is talked to."""
