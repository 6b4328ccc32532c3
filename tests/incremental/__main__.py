# SPDX-License-Identifier: BSD-2-Clause
"""`python -m tests.incremental`: many programs, on the kernel as it is and on kernels with planted bugs."""

from __future__ import annotations

import argparse
import sys

from harness.build.planted import planted_bugs
from harness.findings.judge import LIVENESS_FINDINGS
from tests.incremental.compare import Summary, on_kernel


def main() -> int:
    """Run the programs, print their summary; exit code 1 if the judgements ever disagree."""
    parser = argparse.ArgumentParser(prog="python -m tests.incremental")
    parser.add_argument("--programs", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clean", type=float, default=0.4, help="share of the programs for the kernel as it is")
    chosen = parser.parse_args()
    # Where the snapshot itself is broken, or the kernel dies, there is nothing to compare.
    bugs = [
        bug for bug in planted_bugs() if bug.expected not in LIVENESS_FINDINGS and not bug.at_boot and not bug.config
    ]
    clean = round(chosen.programs * chosen.clean)
    share, rest = divmod(chosen.programs - clean, len(bugs))
    summary = Summary()
    for number, bug in enumerate([None, *bugs]):
        count = clean if bug is None else share + (number <= rest)
        on_kernel(bug, count, chosen.seed + number, summary)
        name = bug.name if bug is not None else "as it is"
        print(f"{name}: {summary.text().splitlines()[0]}", file=sys.stderr, flush=True)
    print(summary.text())
    return int(bool(summary.disagreements))


if __name__ == "__main__":
    sys.exit(main())
