# SPDX-License-Identifier: BSD-2-Clause
"""Nights made up for tests."""

from __future__ import annotations

from typing import Any, Literal

from fuzz.nightly.record import (
    BuildRecord,
    CampaignRecord,
    Caught,
    FindingRecord,
    Functions,
    Night,
    NightState,
    PlantedRecord,
    Ran,
    Retried,
    RetryRecord,
)

DEBUG, RELEASE = "spanning-el1-debug", "spanning-el1-release"
HASHES = {"kernel": "aa" * 32, "patches": "bb" * 32, "firmware": "cc" * 32}
VERSIONS = {"qemu": "7.2.22", "bothworlds": "0.1.0"}


def night(name: str = "0002-2026-03-15", **fields: Any) -> Night:
    """A complete night with two builds and nothing in it."""
    builds = {
        DEBUG: BuildRecord(config="spanning-el1", release=False, hashes=HASHES, versions=VERSIONS),
        RELEASE: BuildRecord(config="spanning-el1", release=True, hashes=HASHES, versions=VERSIONS),
    }
    start: dict[str, Any] = {"state": NightState.COMPLETE, "started": "2026-03-15T02:00:00+0000", "seed": 7}
    return Night(night=name, **{**start, "builds": builds, **fields})


def retried(
    signature: str,
    state: Retried = Retried.STILL_THERE,
    *shown: str,
    build: str = DEBUG,
    origin: Literal["kept", "known"] = "known",
    **fields: Any,
) -> RetryRecord:
    """A finding that was tried again."""
    if not shown and state is Retried.STILL_THERE:
        shown = (signature,)
    name = fields.pop("name", signature)
    start: dict[str, Any] = {"path": f"../known/{build}/{signature}", "finding_message": f"message of {signature}"}
    return RetryRecord(
        name=name,
        origin=origin,
        build=build,
        signature=signature,
        state=state,
        shown=list(shown),
        **{**start, **fields},
    )


def found(signature: str, *, build: str = DEBUG, target: str = "invocations", **fields: Any) -> FindingRecord:
    """A finding of a campaign."""
    start: dict[str, Any] = {"kind": "violation", "message": f"message of {signature}", "calls": 2, "count": 5}
    path = f"campaigns/{build}-{target}/{signature}"
    return FindingRecord(signature=signature, build=build, target=target, path=path, **{**start, **fields})


def campaign(
    *, build: str = DEBUG, target: str = "invocations", rate: float = 1000, executions: int = 5000,
    labels: dict[str, tuple[int, int]] | None = None, **fields: Any,
) -> CampaignRecord:  # fmt: skip
    """A campaign that was run; `labels`: attempted and succeeded."""
    counts = {name: {"attempted": a, "succeeded": s, "errors": {}} for name, (a, s) in (labels or {}).items()}
    result = {"executions": executions, "executions_per_second": rate, "labels": counts}
    start: dict[str, Any] = {"state": Ran.DONE, "seconds": 10.0, "results": [result]}
    return CampaignRecord(build=build, target=target, **{**start, **fields})


def caught(name: str, state: Caught = Caught.CAUGHT, **fields: Any) -> PlantedRecord:
    """A planted bug whose stored program was run."""
    return PlantedRecord(name=name, expected="ns_bit_matches_world", state=state, **fields)


def functions(**counts: tuple[int, int]) -> Functions:
    """Coverage of the kernel: hit and total by function."""
    return {"kernel": {name: {"hit": hit, "total": total, "unreachable": 0} for name, (hit, total) in counts.items()}}
