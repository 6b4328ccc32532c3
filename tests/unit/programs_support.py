# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of programs share: interfaces of the default kernel, and the guest's decoder compiled for the host."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path

import numpy as np

from harness import protocol
from harness.build.guest_tables import constants_header, tables_header
from harness.build.guests import SOURCES, build_interface, configuration_macros
from harness.build.kernel import KernelBuild, build_kernel
from harness.configs import load_config
from harness.programs.interfaces import Interface
from harness.programs.population import Population

LABELS = {"TCBWriteRegisters": 3, "DomainSetSet": 4, "ARMPageGetAddress": 5}
"""Numbers that differ, as the decoder does not care which."""


@cache
def kernel() -> KernelBuild:
    """The debug kernel of the default config."""
    return build_kernel(load_config())


@cache
def interface() -> Interface:
    """The interface that programs have now."""
    return build_interface(kernel())


@cache
def small_interface() -> Interface:
    """An interface with a few calls: other sizes of all tables."""
    names = ("CNode_Copy", "Untyped_Retype", "TCB_Configure", "Send", "NBSend", "Recv", "Yield", "Load")
    return Interface.generate(
        kernel().source, configuration_macros(kernel()), population=Population.load(), names=names
    )


@cache
def two_worlds_interface() -> Interface:
    """An interface with the calls of a normal world."""
    config = load_config("trusted-os")
    names = ("CNode_Copy", "Untyped_Retype", "Send", "NBSend", "Recv", "Yield", "Load", "ARM_SMC_Call")
    return Interface.generate(kernel().source, configuration_macros(kernel()), names=names, config=config)


class HostDecoder:
    """The victims' decoder as a library of the host."""

    def __init__(self, interface: Interface, directory: Path) -> None:
        """Compile it with the tables of `interface`."""
        (directory / "protocol.h").write_text(protocol.header())
        (directory / "tables.h").write_text(tables_header(interface))
        (directory / "constants.h").write_text(constants_header(interface, LABELS))
        library = directory / "decoder.so"
        command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{directory}", f"-I{SOURCES}"]
        subprocess.run([*command, "-o", str(library), str(SOURCES / "decoder.c")], check=True)
        self._write = ctypes.CDLL(str(library)).write_decoded
        self._write.argtypes = [ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]

    def decode_table(self, program: bytes) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """What a victim writes for a program: protocol.DECODED[calls]."""
        calls = min(len(program) // protocol.CALL_BYTES, protocol.MAXIMUM_CALLS)
        table = bytearray()
        for index in range(calls):
            entry = ctypes.create_string_buffer(protocol.DECODED.itemsize)
            self._write(program, index, entry)
            table += entry.raw
        return np.frombuffer(bytes(table), protocol.DECODED)
