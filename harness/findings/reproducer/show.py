# SPDX-License-Identifier: BSD-2-Clause
"""Runs inside gdb: lets the machine run its program, and looks for the failure. Needs nothing but gdb itself.

`failure.json` beside this file says what to look for. gdb ends with exit code 0 if the failure
shows, 1 if it does not.
"""

import contextlib
import json
import os
import signal
import struct
import threading
from pathlib import Path
from typing import Any

import gdb

HERE = Path(__file__).resolve().parent
LEVELS = ("page global directory", "page upper directory", "page directory", "page table")
SHIFTS = (39, 30, 21, 12)


def say(text: str = "") -> None:
    """Print a line."""
    gdb.write(f"{text}\n")


def words(address: int, count: int) -> list[int]:
    """64-bit words of physical memory: EL3, where the machine stands then, runs with its MMU off."""
    data = gdb.selected_inferior().read_memory(address, 8 * count).tobytes()
    return list(struct.unpack(f"<{count}Q", data))


def run(seconds: float) -> None:
    """Let the machine run until it stops at a breakpoint, or for so long."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with contextlib.suppress(KeyboardInterrupt, gdb.error):
        gdb.execute("continue", to_string=True)
    timer.cancel()


def stands_at(symbol: str) -> bool:
    """Whether the CPU stands at a symbol."""
    return int(gdb.parse_and_eval("(unsigned long)$pc")) == int(gdb.parse_and_eval(f"(unsigned long)&{symbol}"))


def region(failure: dict[str, Any], address: int) -> str:
    """Name and world of the region that holds a physical address."""
    for name, base, size, world in failure["regions"]:
        if base <= address < base + size:
            return f"{name}, {world}"
    return "nothing"


def walk(failure: dict[str, Any], root: int, virtual: int) -> None:
    """Print the translation of a virtual address, entry by entry, with its NS bits."""
    say(f"\nTranslation of {virtual:#x} by the tables below {root:#x}:")
    table, non_secure = root, False
    for level, (name, shift) in enumerate(zip(LEVELS, SHIFTS)):  # noqa: B905
        index = virtual >> shift & 511
        (entry,) = words(table + 8 * index, 1)
        target = entry & 0xFFFF_FFFF_F000
        line = f"  {name:<20} {table:#x}[{index}] = {entry:#018x}"
        if not entry & 1:
            say(f"{line}: not valid")
            return
        if level < 3 and entry & 2:
            non_secure = non_secure or bool(entry >> 63)
            say(f"{line}: table at {target:#x}, NSTable={entry >> 63}")
            table = target
            continue
        target &= -(1 << shift)
        bit = entry >> 5 & 1
        say(f"{line}: {1 << shift >> 10} KiB at {target:#x} ({region(failure, target)}), NS={bit}")
        say(f"  effective NS={int(bit or non_secure)}")
        return


def compare(failure: dict[str, Any]) -> bool:
    """Print the words of memory that are wrong, and tell whether they are as they were when this was written."""
    same = True
    for entry in failure["words"]:
        found = words(entry["address"], len(entry["words"]))
        same = same and found == entry["words"]
        say(f"\n{entry['address']:#x}: {entry['what']}")
        for index, (now, then) in enumerate(zip(found, entry["words"])):  # noqa: B905
            note = "" if now == then else f"   (was {then:#018x})"
            say(f"  {entry['address'] + 8 * index:#x}: {now:#018x}{note}")
    return same


def halted(failure: dict[str, Any]) -> bool:
    """Print where the kernel gave up, and tell whether that is the place that this is about."""
    gdb.execute("backtrace")
    place: str = failure["place"]
    if failure["kind"] == "kernel-fault":
        esr, far = (int(gdb.parse_and_eval(f"(unsigned long)${name}")) for name in ("ESR_EL1", "FAR_EL1"))
        say(f"\nThe exception, ESR {esr:#x}, address {far:#x}, came from")
        where: str = gdb.execute("info symbol $ELR_EL1", to_string=True)
        gdb.write(where)
        return where.split(" ")[0] == place
    functions = []
    frame = gdb.newest_frame()
    while frame is not None and frame.is_valid():
        functions.append(frame.name())
        frame = frame.older()
    return place in functions or place == "-"


def look(failure: dict[str, Any]) -> bool:
    """Run the machine, print what there is to see, and tell whether the failure shows."""
    for command in failure["commands"]:
        gdb.execute(command, to_string=True)
    end, stop = failure["end"], failure["stop"]
    gdb.Breakpoint(f"*{end}")
    if stop:
        gdb.Breakpoint(f"*{stop}")
    run(failure["seconds"])
    if failure["kind"].startswith("hang"):
        gdb.execute("backtrace 12")
        return not stands_at(end)
    if stop and stands_at(stop):
        shown = halted(failure)
        run(failure["seconds"])
        return shown
    if stop or not stands_at(end):
        return False
    if failure["kind"] == "el3-panic":
        gdb.execute("info registers ELR_EL3 ESR_EL3 FAR_EL3")
        return bool(gdb.parse_and_eval("$x20") == failure["status"])
    for root, virtual in failure["walks"]:
        walk(failure, root, virtual)
    return compare(failure)


def main() -> None:
    """Look for the failure that `failure.json` describes."""
    failure = json.loads((HERE / "failure.json").read_text())
    shown = look(failure)
    say(f"\n{'SHOWN' if shown else 'NOT SHOWN'}: {failure['signature']}")
    if shown:
        say(f"  {failure['message']}")
    gdb.execute("kill")
    gdb.execute(f"quit {int(not shown)}")


main()
