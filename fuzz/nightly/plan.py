# SPDX-License-Identifier: BSD-2-Clause
"""Plans of nights: `nightly.yaml` in the project is the plan without a plan, and explains every field."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from fuzz.targets import load_target
from harness.build.artefacts import PROJECT
from harness.build.planted import planted_bugs
from harness.configs import DEFAULT_CONFIG, load_config
from harness.errors import InputError, PlanError
from harness.yaml_model import StrictModel, located_error, validate
from harness.yaml_source import read_yaml

DEFAULT_PLAN = PROJECT / "nightly.yaml"

Share = Annotated[float, Field(ge=0, le=1e6)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class FailOn(StrEnum):
    """What makes a night's exit code 1."""

    NEW = "new"
    STILL_THERE = "still-there"
    NO_LONGER_SUCCEED = "no-longer-succeed"
    LESS_COVERED = "less-covered"
    SLOWER = "slower"


class Kernels(StrictModel):
    """Shares of time by kernel."""

    debug: Share = 2
    release: Share = 1


class KeptFindings(StrictModel):
    """Findings that are tried again each night."""

    directories: tuple[Path, ...] = (Path("tests/findings"),)
    with_their_patches: bool = True


class Planted(StrictModel):
    """Which planted bugs take part."""

    programs: tuple[str, ...] = ("*",)
    campaigns: Count = 0
    campaign_seconds: Annotated[float, Field(ge=1, le=86400)] = 60


class Minimise(StrictModel):
    """What is done about each new finding."""

    seconds: Annotated[float, Field(ge=0, le=86400)] = 60
    times: Count = 3
    cold: Count = 1


class Retention(StrictModel):
    """How many nights things are kept."""

    nights: Annotated[int, Field(ge=1)] = 30
    fixed_findings: Annotated[int, Field(ge=1)] = 90


class Plan(StrictModel):
    """What a night does. `nightly.yaml` says what each field means."""

    nights: Path = Path("nights")
    seconds: Annotated[float, Field(ge=5, le=7 * 86400)] = 3600
    checks_share: Annotated[float, Field(ge=0, le=1)] = 0.35
    configs: Annotated[tuple[str, ...], Field(min_length=1)] = (DEFAULT_CONFIG,)
    kernels: Kernels = Kernels()
    targets: dict[str, Share] = Field(default_factory=lambda: {"invocations": 3.0, "smc": 1.0})
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    runs: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    check_every: Annotated[int, Field(ge=1)] = 500
    extra_patches: tuple[Path, ...] = ()
    kernel_source: Path | None = None
    firmware: Path | None = None
    findings: KeptFindings = KeptFindings()
    planted: Planted = Planted()
    minimise: Minimise = Minimise()
    fail_on: tuple[FailOn, ...] = (FailOn.NEW,)
    slower_below: Annotated[float, Field(ge=0, le=1)] = 0.7
    retention: Retention = Retention()

    @model_validator(mode="after")
    def _names_are_known(self) -> Plan:
        for name in self.targets:
            try:
                load_target(name)
            except InputError as problem:
                raise located_error(str(problem), "targets", name) from problem
        if not any(self.targets.values()):
            raise located_error("no target has a share of the time", "targets")
        if not (self.kernels.debug or self.kernels.release):
            raise located_error("no kernel has a share of the time", "kernels")
        names = [bug.name for bug in planted_bugs()]
        for index, pattern in enumerate(self.planted.programs):
            if not any(fnmatchcase(name, pattern) for name in names):
                message = f"no planted bug is called '{pattern}'; there are: {', '.join(names)}"
                raise located_error(message, "planted", "programs", index)
        return self

    def resolved(self, directory: Path) -> Plan:
        """The same plan with absolute paths; relative ones start at `directory`."""

        def absolute(path: Path) -> Path:
            return (directory / path.expanduser()).resolve()

        directories = tuple(absolute(path) for path in self.findings.directories)
        return self.model_copy(
            update={
                "nights": absolute(self.nights),
                "configs": tuple(str(absolute(Path(name))) if _is_path(name) else name for name in self.configs),
                "extra_patches": tuple(absolute(path) for path in self.extra_patches),
                "kernel_source": None if self.kernel_source is None else absolute(self.kernel_source),
                "firmware": None if self.firmware is None else absolute(self.firmware),
                "findings": self.findings.model_copy(update={"directories": directories}),
            }
        )


def _is_path(config: str) -> bool:
    """Whether a config is given by its file rather than its name; as `load_config` decides."""
    return "/" in config or config.endswith((".yaml", ".yml"))


def load_plan(path: Path | None = None) -> Plan:
    """Read a plan, the project's own without `path`; its paths become absolute.

    Raises PlanError, whose message names file, line and field of everything that is wrong.
    """
    path = path or DEFAULT_PLAN
    source = read_yaml(path, PlanError)
    if not isinstance(source.data, dict):
        raise PlanError(f"{path}:1: a plan is a list of fields, as in {DEFAULT_PLAN}")
    plan = validate(source, Plan, PlanError).resolved(path.resolve().parent)
    # Whether files are there is asked last, of the paths as they are used.
    for index, name in enumerate(plan.configs):
        try:
            load_config(name)
        except InputError as problem:
            where = ("configs", index)
            raise PlanError(f"{path}:{source.line(where)}: configs[{index}]: {problem}") from problem
    files = {("extra_patches", i): patch for i, patch in enumerate(plan.extra_patches)}
    for where, patch in files.items():
        if not patch.is_file():
            raise PlanError(f"{path}:{source.line(where)}: extra_patches[{where[1]}]: there is no file {patch}")
    directories = {("findings", "directories", i): d for i, d in enumerate(plan.findings.directories)}
    for place, directory in directories.items():
        if not directory.is_dir():
            field = f"findings.directories[{place[2]}]"
            raise PlanError(f"{path}:{source.line(place)}: {field}: there is no directory {directory}")
    for name, given in (("kernel_source", plan.kernel_source), ("firmware", plan.firmware)):
        if given is not None and not given.exists():
            raise PlanError(f"{path}:{source.line((name,))}: {name}: there is no {given}")
    return plan
