# SPDX-License-Identifier: BSD-2-Clause
"""`python -m tests.corruption`: boot, take the parked machine's memory, spoil and judge it many times."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

from harness.build.system import build
from harness.configs import load_config
from harness.execution.executor import Executor
from harness.kernel_state.layout import Layout
from tests.corruption.cases import Cases, Summary


def main() -> int:
    """Run the cases, print their summary; exit code 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.corruption")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--release", action="store_true")
    parser.add_argument("--first", type=int, default=0, help="number of the first case; with --cases 1, only that one")
    chosen = parser.parse_args()
    artefacts = build(load_config(), release=chosen.release)
    with Executor(artefacts, coverage=False) as executor:
        executor.run(b"")
        image = executor.memory.image()
    cases = Cases(Layout.from_artefacts(artefacts), artefacts.config, image)
    summary = Summary()
    told = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        for number in range(chosen.first, chosen.first + chosen.cases):
            failures = len(summary.failures)
            cases.one(number, chosen.seed, summary)
            if len(summary.failures) > failures:
                print(summary.failures[-1], file=sys.stderr, flush=True)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(f"{summary.cases} cases, {len(summary.failures)} failures", file=sys.stderr, flush=True)
    print(summary.text())
    return int(bool(summary.failures))


if __name__ == "__main__":
    sys.exit(main())
