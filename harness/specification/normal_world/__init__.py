# SPDX-License-Identifier: BSD-2-Clause
"""What the normal world's calls must be answered: by EL3, and by the Trusted OS with its services."""
