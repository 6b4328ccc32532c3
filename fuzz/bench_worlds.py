# SPDX-License-Identifier: BSD-2-Clause
"""How fast the monitor is: calls that EL3 answers, the switch there and back, calls that the dispatcher answers.

The normal world measures by itself (guest_images/measuring/normal.S) while the machine boots: no host takes part,
nothing is counted, and the counter shows the host's time. The switch alone is measured with the least that can
stand at S-EL1 (secure.S) in the kernel's place; with a dispatcher it is the real system.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from harness import protocol
from harness.build.artefacts import PROJECT, Artefacts
from harness.build.cache import publish
from harness.build.firmware import COMPILER, FirmwareBuild, machine_header
from harness.build.flash import build_flash
from harness.build.system import build
from harness.configs import Level, MachineConfig, load_config
from harness.errors import BuildFailure
from harness.kernel_state.elf import Elf
from harness.machine.qemu import Qemu, Shared
from harness.packages import tool

CONFIG = "trusted-os"
SOURCES = PROJECT / "guest_images" / "measuring"
ECHO = 0xC2000001
"""A SiP call that EL3 answers."""
TRUSTED_CALL = 0xBF00FF01
"""A fast call that the dispatcher answers: the UID of the interface that the Trusted OS speaks."""
CALLS = {ECHO: 200_000, TRUSTED_CALL: 10_000}
TICKS_PER_SECOND = 62_500_000
"""Of QEMU's system counter."""
EXCHANGE_TICKS = protocol.EXCHANGE_RESULTS
TIMES = 5
_DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class WorldRate:
    """Calls a second, beside those of another kind."""

    name: str
    value: float
    baseline: float
    meaning: str


def world_rates(config: MachineConfig, core: int | None = None, *, release: bool = False) -> list[WorldRate]:
    """All rates, for a config with a normal world or for the project's; medians of several boots each.

    Raises MachineLost if a machine does not get as far as measuring.
    """
    config = config if config.normal_world is not None else load_config(CONFIG)
    plain, with_el2 = _at(config, Level.EL1, False), _at(config, Level.EL2, True)
    one, two = (build(each, release=release) for each in (plain, with_el2))
    el3 = _rate(one, ECHO, core)
    switch, switch_el2 = (_rate(_without_kernel(each), TRUSTED_CALL, core) for each in (one, two))
    trips, trips_el2 = (_rate(each, TRUSTED_CALL, core) for each in (one, two))
    return [
        WorldRate("el3_smc_per_second", el3, switch, "calls that lead to the other world and back"),
        WorldRate("world_switch_per_second", switch, el3, "calls that EL3 answers"),
        WorldRate("world_switch_el2_per_second", switch_el2, switch, "without the bank of EL2"),
        WorldRate("dispatcher_round_trips_per_second", trips, switch, "the switch there and back alone"),
        WorldRate("dispatcher_round_trips_el2_per_second", trips_el2, trips, "without the bank of EL2"),
    ]


def _at(config: MachineConfig, level: Level, save_el2: bool) -> MachineConfig:
    assert config.normal_world is not None
    normal = config.normal_world.model_copy(update={"level": level, "save_el2": save_el2})
    return config.model_copy(update={"normal_world": normal})


def _without_kernel(artefacts: Artefacts) -> Artefacts:
    """The same firmware with secure.S in the kernel's place."""
    kernel = Elf(artefacts.kernel_elf)
    base = min(segment.virtual for segment in kernel.segments if segment.memory_bytes)
    script = f"ENTRY(_start)\nSECTIONS {{ . = {base:#x}; .text : AT({kernel.physical(base):#x}) {{ *(.text) }} }}\n"
    files = {"protocol.h": protocol.header(), "secure.lds": script}
    return dataclasses.replace(artefacts, kernel_elf=_guest("secure.S", files, ["-T", "secure.lds"]))


def _guest(source: str, files: dict[str, str], options: list[str]) -> Path:
    """A guest of one source and some generated files, from the cache if it was built before."""
    text = (SOURCES / source).read_text()
    key = hashlib.sha256(repr((text, files, options)).encode()).hexdigest()

    def fill(work: Path) -> None:
        for name, content in files.items():
            (work / name).write_text(content)
        flags = ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", "-I."]
        command = [tool(COMPILER), *flags, *options, str(SOURCES / source), "-o", "guest.elf"]
        result = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildFailure(f"{SOURCES / source} does not build: {result.stderr.strip()}")

    return publish(f"measuring-{key[:32]}", fill) / "guest.elf"


def _rate(artefacts: Artefacts, function: int, core: int | None) -> float:
    """Calls of a function a second, as the normal world sees it."""
    config, calls = artefacts.config, CALLS[function]
    assert config.normal_world is not None
    values = {"MEASURED_FUNCTION": function, "MEASURED_CALLS": calls, "EXCHANGE_TICKS": EXCHANGE_TICKS}
    options = [f"-D{key}={value:#x}" for key, value in values.items()]
    options += [f"-Wl,-Ttext={config.normal_world.memory.base:#x}", "-Wl,-n"]
    normal = _guest("normal.S", {"machine.h": machine_header(config)}, options)
    elf = artefacts.firmware_elf
    firmware = FirmwareBuild(elf, elf.with_suffix(".bin"), artefacts.hashes["firmware"])
    kernel = SimpleNamespace(elf=artefacts.kernel_elf)
    root_task = SimpleNamespace(root_task_elf=artefacts.root_task_elf)
    flash = build_flash(config, kernel, root_task, firmware, normal_world=normal)
    measured = dataclasses.replace(artefacts, flash=flash)
    return statistics.median(calls * TICKS_PER_SECOND / _ticks(measured, core) for _ in range(TIMES))


def _ticks(artefacts: Artefacts, core: int | None) -> int:
    """Boot until the normal world has measured."""
    shared = Shared.create(artefacts)
    try:
        with Qemu(artefacts, shared, core=core) as qemu:
            qemu.launch()
            qemu.qmp("cont")
            place = artefacts.config.exchange.base + EXCHANGE_TICKS
            deadline = time.monotonic() + _DEADLINE_SECONDS
            while not (ticks := int.from_bytes(shared.memory.read(place, 8), "little")):
                if not qemu.running or time.monotonic() > deadline:
                    raise qemu.lost("the normal world has not measured anything")
                time.sleep(0.005)
            return ticks
    finally:
        shared.close()
