# SPDX-License-Identifier: BSD-2-Clause
"""Build, boot, drive, look inside and judge seL4 in Arm TrustZone."""
