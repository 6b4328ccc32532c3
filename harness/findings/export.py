# SPDX-License-Identifier: BSD-2-Clause
"""A finding as a directory that shows it with plain QEMU and gdb, and nothing of this project.

The flash image holds the program, so the machine runs it at every boot. For a failure that stops
the kernel, gdb shows where. One that is silent is shown as words of memory: gdb reads them when
the program is over, and walks the page tables to them.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from harness import protocol
from harness.build.artefacts import PROJECT, Artefacts
from harness.build.kernel import SOURCE_NAME
from harness.build.patches import read_series
from harness.build.source import PACKAGE, pinned_package
from harness.errors import BothworldsError, FindingError, OutputError, StageTimeout
from harness.findings.bundle import FINDING_FILE, OWN, PATCHES, PROGRAM_YAML, Bundle
from harness.findings.judge import HARNESS_DEFECT, VIOLATION, Judge
from harness.findings.places import Places
from harness.findings.replay import FRAMES, lead_to_call
from harness.findings.reproduce import cold_build, symptoms_of_boot
from harness.findings.signature import Symptom
from harness.findings.words import number
from harness.kernel_state.elf import Elf
from harness.kernel_state.layout import Layout
from harness.machine.qemu import QemuSettings
from harness.programs.interfaces import Interface
from harness.programs.program import Program

if TYPE_CHECKING:
    from harness.execution.executor import Executor

TEMPLATES = Path(__file__).resolve().parent / "reproducer"
SECONDS = 20.0
"""After this a machine that has not come to the end of its program hangs; a whole run takes less than one."""
END_SYMBOL = "publish"
"""Where the firmware stands when the program is over and its line is on the console."""
HALT_SYMBOL = "halt"
"""Where the kernel stops for good."""
HALTING = frozenset({"assertion", "kernel-fault", "kernel-halt"})
_TRIES_SECONDS = 120.0
_WORDS_AT_AN_ADDRESS = 4
_MAXIMUM_ADDRESSES = 16
_WALKED = ("table", "physical")
"""Names of the evidence of a table's entry: the walk shows them, and what the page holds is nobody's business."""
_RESULT_FIELDS = "state and victim, error, message info, badge"
_REPORT_WORDS = 19
"""Words of the report before the general registers."""


@dataclass(frozen=True)
class Exported:
    """A reproducer that was written and tried: whether it shows the failure, and its last lines."""

    directory: Path
    shows: bool
    shown: str


def export_finding(bundle: Bundle, artefacts: Artefacts, directory: Path) -> Exported:
    """Write a reproducer and run it once, in an environment that has nothing but its PATH.

    Raises FindingError for a defect of the harness or a finding that does not show from a cold boot,
    OutputError if the directory is not empty or cannot be written.
    """
    if bundle.finding.kind == HARNESS_DEFECT:
        raise FindingError(f"{bundle.path}: a defect of the harness, not of the kernel: there is nothing to export")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OutputError(f"{directory}: is there already and not an empty directory; choose another")
    failure = _failure(bundle, artefacts)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=directory.resolve().parent) as work:
            made = Path(work, "export")
            _fill(made, bundle, artefacts, failure)
            if directory.is_dir():
                directory.rmdir()
            made.rename(directory)
        done = _try(directory)
        (directory / "expected.txt").write_text(done.stdout)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    shown = [line for line in done.stdout.splitlines() if "SHOWN" in line] or [done.stderr.strip() or "no answer"]
    return Exported(directory, done.returncode == 0, shown[-1])


def _failure(bundle: Bundle, artefacts: Artefacts) -> dict[str, Any]:
    """What `show.py` looks for, from a cold boot of this build."""
    finding = bundle.finding
    failure: dict[str, Any] = {
        "signature": finding.signature,
        "message": finding.message,
        "kind": finding.kind,
        "place": finding.place,
        "status": int(protocol.ParkStatus.EL3_PANIC),
        "end": END_SYMBOL,
        "stop": HALT_SYMBOL if finding.kind in HALTING else "",
        "seconds": SECONDS,
        "commands": _connect(),
        "regions": [[region.name, region.base, region.size, region.world] for region in artefacts.config.regions],
        "walks": [],
        "words": [],
    }
    if finding.kind == VIOLATION:
        symptom, failure["words"] = _evidence(bundle, artefacts)
        failure["message"] = symptom.message
        root, virtual = (_as_number(symptom.evidence.get(name)) for name in ("root", "virtual"))
        if root is not None and virtual is not None:
            failure["walks"] = [[root, virtual]]
    return failure


def _evidence(bundle: Bundle, artefacts: Artefacts) -> tuple[Symptom, list[dict[str, Any]]]:
    """What a cold boot shows of the finding, and the words of memory that tell it."""
    from harness.execution.executor import Executor

    wanted = (bundle.finding.invariant, bundle.finding.place)
    try:
        with (
            Executor(artefacts, coverage=False) as reference,
            Executor(cold_build(artefacts, bundle.program), coverage=False) as executor,
        ):
            judge = Judge.of(reference)
            judge.judge_start()
            symptoms = symptoms_of_boot(judge, executor, bundle)
            for symptom in symptoms:
                if symptom.key == wanted:
                    interface = Interface.load(artefacts)
                    layout, snapshot = judge.checker.layout, reference.snapshot
                    places = Places.of(artefacts.config, layout, interface.population, snapshot)
                    # What else the program breaks tells as much: the first thing to go wrong may be among it.
                    wrong = [symptom, *(other for other in symptoms if other is not symptom)]
                    words = [entry for one in wrong for entry in _words(one.evidence, executor, places)]
                    return symptom, _results(Program.from_bytes(bundle.program, interface), executor) + words
    except StageTimeout as error:
        raise FindingError(f"{bundle.path}: a cold boot with its program does not come to an end: {error}") from error
    found = ", ".join(f"{other.name}:{other.place}" for other in symptoms) or "nothing"
    raise FindingError(f"{bundle.path}: does not show from a cold boot, which shows {found}; see 'bothworlds repro'")


def _words(evidence: dict[str, Any], executor: Executor, places: Places) -> list[dict[str, Any]]:
    """Words of memory that some evidence is about, with their content now: the entry of a table, a slot, an object."""
    wanted: dict[int, tuple[str, int]] = {}
    table = next((a for a in places.addresses({"table": evidence.get("table", "")})), None)
    index = evidence.get("index")
    if table is not None and isinstance(index, int):
        wanted[table + 8 * index] = (f"entry {index} of {evidence['table']}", 1)
    for address, asid in _asid_entries(evidence, executor, places.layout):
        wanted[address] = (f"what ASID {asid} leads to", 1)
    for entry, words in _logged(evidence, executor):
        wanted[entry] = ("an SMC as EL3 logged it, x0 to x7 first", words)
    for address in places.addresses({name: value for name, value in evidence.items() if name not in _WALKED}):
        physical = address if places.describe(address) else places.layout.physical(address)
        if (described := places.describe(physical)) is not None:
            wanted.setdefault(physical & -8, (described, _WORDS_AT_AN_ADDRESS))
    if (thread := _as_number(evidence.get("tcb"))) is not None:
        shape = places.layout.struct("tcb")
        start = shape["tcbState"].offset
        what = f"the thread at {thread:#x}, from tcbState on"
        wanted[thread + start] = (what, (shape.size - start) // 8)
    if not wanted:
        wanted[executor.config.firmware_ram.base] = ("EL3's report of the end of the program", _REPORT_WORDS)
    return _read(wanted, executor)


def _results(program: Program, executor: Executor) -> list[dict[str, Any]]:
    """What the last calls of the program answered, as the victims left it in the exchange area."""
    base = executor.config.exchange.base + protocol.EXCHANGE_RESULTS
    wanted = {
        base + index * protocol.RESULT.itemsize: (f"result of call {index} ({call.name}): {_RESULT_FIELDS}", 4)
        for index, call in list(enumerate(program.calls))[-_MAXIMUM_ADDRESSES:]
    }
    return _read(wanted, executor)


def _read(wanted: dict[int, tuple[str, int]], executor: Executor) -> list[dict[str, Any]]:
    found = []
    for address, (what, count) in list(wanted.items())[:_MAXIMUM_ADDRESSES]:
        try:
            content = np.frombuffer(executor.memory.read(address, 8 * count), np.uint64)
        except BothworldsError:
            continue  # a device: reading it may change it
        found.append({"address": address, "what": what, "words": [int(word) for word in content]})
    return found


def _logged(evidence: dict[str, Any], executor: Executor) -> list[tuple[int, int]]:
    """Where EL3 has logged the SMCs of the call that some evidence is about: (address, words)."""
    log = executor.observe_boot(0).smc_log
    fields = protocol.REPORT.fields
    assert fields is not None
    start, size = executor.config.firmware_ram.base + int(fields["smc_log"][1]), protocol.SMC_LOG.itemsize
    return [(start + size * row, size // 8) for row, entry in enumerate(log) if entry["call"] == evidence.get("call")]


def _asid_entries(evidence: dict[str, Any], executor: Executor, layout: Layout) -> list[tuple[int, int]]:
    """Where the ASIDs that some evidence names lead to their address spaces: (address of the entry, ASID)."""
    table = layout.physical(layout.variable("armKSASIDTable").address)
    entries = layout.struct("asid_pool").size // 8
    found = []
    for value in evidence.get("asids") or [evidence.get("asid")]:
        if (asid := _as_number(value)) is None:
            continue
        address = table + 8 * (asid // entries)
        pool = layout.physical(int.from_bytes(executor.memory.read(address, 8), "little"))
        inside = executor.config.secure_ram.covers(pool)
        found.append((pool + 8 * (asid % entries) if inside else address, asid))
    return found


def _as_number(value: Any) -> int | None:
    try:
        return int(value, 16) if isinstance(value, str) else int(value)
    except (TypeError, ValueError):
        return None


def _connect() -> list[str]:
    """Commands of gdb that load the symbols and start the machine, stopped."""
    return [
        "set confirm off",
        "set pagination off",
        FRAMES,
        "set width 0",
        f"set substitute-path {SOURCE_NAME} kernel",
        "directory sources",
        "file kernel.elf",
        "add-symbol-file firmware.elf",
        "add-symbol-file victim.elf",
        "add-symbol-file root_task.elf",
        "target remote | ./qemu.sh -S -gdb stdio",
    ]


def _fill(directory: Path, bundle: Bundle, artefacts: Artefacts, failure: dict[str, Any]) -> None:
    directory.mkdir()
    directory.chmod(0o755)
    finding = bundle.finding
    shutil.copyfile(cold_build(artefacts, bundle.program).flash, directory / "flash.bin")
    for path in (artefacts.kernel_elf, artefacts.firmware_elf, artefacts.root_task_elf, artefacts.victim_elf):
        shutil.copyfile(path, directory / path.name)
    for name in (FINDING_FILE, PROGRAM_YAML):
        shutil.copyfile(bundle.path / name, directory / name)
    _copy_sources(directory, artefacts)
    series = read_series()
    for name, patches in (("series", series), ("extra", bundle.patches)):
        (directory / PATCHES / name).mkdir(parents=True)
        for number_, patch in enumerate(patches):
            shutil.copyfile(patch, directory / PATCHES / name / _numbered(number_, patch, name))
    if (bundle.path / OWN).is_dir():
        shutil.copytree(bundle.path / OWN, directory / OWN)
    (directory / "failure.json").write_text(json.dumps(failure, indent=1) + "\n")
    lines = _connect()
    if finding.first_call is not None:
        lines += lead_to_call(artefacts, finding.first_call, finding.label)
    else:
        lines += [f"break *{END_SYMBOL}", "continue"]
    lines += ["define hook-quit", "kill", "end"]
    (directory / "debug.gdb").write_text("\n".join(lines) + "\n")
    version, checksum = pinned_package()
    values = {
        "finding": finding,
        "kind": finding.kind,
        "call": finding.first_call,
        "evidence": [(name, number(value)) for name, value in finding.evidence.items()],
        "regions": artefacts.config.regions,
        "seconds": int(SECONDS),
        "series": [_numbered(number_, patch, "series") for number_, patch in enumerate(series)],
        "kernel_version": (artefacts.kernel_source / "VERSION").read_text().strip(),
        "package": PACKAGE,
        "package_version": version,
        "checksum": checksum,
        "producer": _producer(artefacts.kernel_elf),
        "hashes": sorted(artefacts.hashes.items()),
        "qemu_options": _qemu_options(artefacts),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        autoescape=False,
    )  # fmt: skip
    for template in sorted(TEMPLATES.iterdir()):
        if template.suffix == ".j2":
            text = environment.get_template(template.name).render(values)
        elif template.is_file():
            text = template.read_text()
        else:
            continue
        made = directory / template.name.removesuffix(".j2")
        made.write_text(text)
        made.chmod(0o755 if made.suffix == ".sh" else 0o644)


def _numbered(index: int, patch: Path, group: str) -> str:
    """A patch's name such that names are in the order of application."""
    return f"{index:02}-{patch.name}" if group == "series" else patch.name


def _copy_sources(directory: Path, artefacts: Artefacts) -> None:
    """What gdb shows lines of: the patched kernel, the firmware and the guests."""
    kernel = directory / "kernel"
    for name in ("include", "src"):
        shutil.copytree(artefacts.kernel_source / name, kernel / "source" / name)
    for path in artefacts.kernel_source.glob("LICENSE*"):
        shutil.copyfile(path, kernel / "source" / path.name)
    shutil.copytree(artefacts.kernel_generated, kernel / "generated")
    shutil.copytree(PROJECT / "guest_images", directory / "sources" / "guest_images")


def _producer(elf: Path) -> str:
    """Compiler and options, as the kernel's debug information tells them."""
    for unit in Elf(elf).dwarf.iter_CUs():
        producer = unit.get_top_DIE().attributes.get("DW_AT_producer")
        if producer is not None and b"GNU C" in producer.value:
            return str(producer.value.decode())
    return "(the debug information does not say)"


def _qemu_options(artefacts: Artefacts) -> str:
    """The machine, without what only this project needs of it."""
    qemu = artefacts.config.qemu
    machine = "virt,secure=on,virtualization=on,gic-version=2,dtb-randomness=off"
    options = ["-nodefaults", "-no-user-config", "-display", "none", "-M", machine, "-cpu", qemu.cpu, "-smp", "1"]
    return shlex.join([*options, "-m", f"{qemu.memory_mib}M"])


def _try(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the reproducer as somebody else would."""
    environment = {"PATH": "/usr/bin:/bin"}
    settings = QemuSettings.from_environment()
    if settings.binary is not None:
        environment["QEMU"] = settings.binary
        if settings.modules is not None:
            environment["QEMU_MODULE_DIR"] = str(settings.modules)
    command = [str(directory.resolve() / "run.sh")]
    try:
        return subprocess.run(
            command, env={**environment, "HOME": os.path.sep}, capture_output=True, text=True, cwd="/",
            timeout=_TRIES_SECONDS, errors="backslashreplace", stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"run.sh did not end within {_TRIES_SECONDS:g} s")
