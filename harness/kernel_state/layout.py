# SPDX-License-Identifier: BSD-2-Clause
"""Where the kernel keeps what: symbols, C structures, bit fields, address translation.

Everything comes from the build: C structures and variables from the kernel's DWARF, bit
fields from its preprocessed `.pbf` files, addresses from its ELF file. Reading DWARF takes
seconds, so its result is kept in the cache by the content of the ELF file.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.build.artefacts import Artefacts, cache_directory
from harness.errors import ImageError
from harness.kernel_state.bitfields import BitfieldFile, Block, Field, TaggedUnion, parse_files
from harness.kernel_state.dwarf import Struct, Types, Variable, from_plain, read_types, to_plain
from harness.kernel_state.elf import Elf

_VERSION = 2
_ALL = (1 << 64) - 1
_TCB_CNODE_RADIX = 4

# Sizes of pages and tables are the architecture's, for the 4 KiB granule.
PAGE_BITS = 12
LARGE_PAGE_BITS = 21
HUGE_PAGE_BITS = 30
TABLE_BITS = 12
TABLE_ENTRIES = 512


@dataclass(frozen=True, eq=False)
class Layout:
    """Layouts of one kernel build."""

    elf: Elf
    types: Types
    bitfields: BitfieldFile

    @classmethod
    def from_artefacts(cls, artefacts: Artefacts) -> Layout:
        """The layout of a build's kernel."""
        return cls.from_elf(artefacts.kernel_elf, artefacts.kernel_generated)

    @classmethod
    def from_elf(cls, kernel_elf: Path, generated: Path) -> Layout:
        """The layout of a kernel ELF file and the directory of its generated headers.

        Raises ImageError if either cannot be read.
        """
        elf = Elf(kernel_elf)
        main = sorted(generated.rglob("structures.pbf"))
        if not main:
            raise ImageError(f"{generated}: no structures.pbf; it is not the directory of a kernel's generated headers")
        shared = [path for path in sorted(generated.rglob("shared_types.pbf")) if path.parent.name == "api"]
        return cls(elf, _cached_types(elf), parse_files([*shared[:1], main[0]]))

    def block(self, name: str) -> Block:
        """A block of bit fields by name, such as `mdb_node`."""
        if name not in self.bitfields.blocks:
            raise ImageError(f"{self.elf.path}: the kernel's bit-field files have no block '{name}'")
        return self.bitfields.blocks[name]

    def union(self, name: str) -> TaggedUnion:
        """A tagged union by name, such as `cap`."""
        if name not in self.bitfields.unions:
            raise ImageError(f"{self.elf.path}: the kernel's bit-field files have no tagged union '{name}'")
        return self.bitfields.unions[name]

    def struct(self, name: str) -> Struct:
        """A C structure by tag or typedef, such as `cte_t`."""
        if name not in self.types.structs:
            raise ImageError(f"{self.elf.path}: no structure '{name}' in the kernel's debug information")
        return self.types.structs[name]

    def variable(self, name: str) -> Variable:
        """A global variable of the kernel, such as `ksCurThread`."""
        if name not in self.types.variables:
            raise ImageError(f"{self.elf.path}: no variable '{name}' in the kernel's debug information")
        return self.types.variables[name]

    def constant(self, name: str) -> int:
        """An enumerator of the kernel, such as `ThreadState_Running`."""
        if name not in self.types.constants:
            raise ImageError(f"{self.elf.path}: no enumerator '{name}' in the kernel's debug information")
        return self.types.constants[name]

    def enumerator(self, prefix: str, value: int) -> str:
        """The enumerator of that value among those whose names begin with `prefix`; its number if there is none."""
        if prefix not in self._enumerators:
            named = [e for e in self.types.enumerations if any(name.startswith(prefix) for name in e)]
            self._enumerators[prefix] = {v: name for e in named for name, v in e.items() if name.startswith(prefix)}
        return self._enumerators[prefix].get(value, str(value))

    @cached_property
    def _enumerators(self) -> dict[str, dict[int, str]]:
        return {}

    @cached_property
    def error_names(self) -> dict[int, str]:
        """Names of seL4_Error by value."""
        errors = next((e for e in self.types.enumerations if "seL4_NoError" in e), {})
        return {value: name for name, value in errors.items() if name != "seL4_NumErrors"}

    @cached_property
    def cap_types(self) -> dict[str, int]:
        """Values of capType by name of the capability's block (`untyped_cap`)."""
        return self.union("cap").values

    def world_field(self, block: str) -> Field | None:
        """The field of untyped_cap or frame_cap that marks non-secure memory; None without the patch."""
        return next((f for name, f in self.block(block).fields.items() if "NonSecure" in name), None)

    @cached_property
    def offset(self) -> int:
        """Virtual minus physical address in the kernel's window, modulo 2^64."""
        return (self.elf.segments[0].virtual - self.elf.segments[0].physical) & _ALL

    def physical(self, pointer: int) -> int:
        """Physical address behind a kernel pointer (any 64-bit value in, modulo 2^64 out)."""
        return (pointer - self.offset) & _ALL

    def virtual(self, address: int) -> int:
        """Kernel pointer to a physical address."""
        return (address + self.offset) & _ALL

    @cached_property
    def image(self) -> tuple[int, int]:
        """Physical addresses of the first byte and behind the last one of the kernel's image without its boot part."""
        first, end = (self.elf.symbols.get(name) for name in ("ki_boot_end", "ki_end"))
        if first is None or end is None:
            raise ImageError(f"{self.elf.path}: no symbols ki_boot_end and ki_end; is it a seL4 kernel?")
        return self.physical(first.address), self.physical(end.address)

    @cached_property
    def slot_bytes(self) -> int:
        """Bytes of a capability slot (cte_t)."""
        return self.struct("cte").size

    @cached_property
    def slot_bits(self) -> int:
        """Binary logarithm of the bytes of a slot."""
        return self.slot_bytes.bit_length() - 1

    @property
    def tcb_slots_radix(self) -> int:
        """A thread's own capability slots: 2^radix of them lie in front of its tcb_t."""
        return _TCB_CNODE_RADIX

    @cached_property
    def tcb_offset(self) -> int:
        """Bytes from a thread object's start, where its slots lie, to its tcb_t."""
        return self.slot_bytes << _TCB_CNODE_RADIX

    @cached_property
    def tcb_bits(self) -> int:
        """Binary logarithm of the bytes of a thread object, slots included."""
        return (self.tcb_offset + self.struct("tcb").size - 1).bit_length()

    @cached_property
    def tcb_slots(self) -> int:
        """Slots of a thread object that the kernel uses."""
        return self.types.constants.get("tcbCNodeEntries", 5)

    @cached_property
    def object_bits(self) -> dict[str, int]:
        """Binary logarithm of the bytes of each kernel object of fixed size, by capability block."""
        words = {"endpoint_cap": self.block("endpoint").words, "notification_cap": self.block("notification").words}
        bits = {name: (8 * count - 1).bit_length() for name, count in words.items()}
        bits["thread_cap"] = self.tcb_bits
        bits["asid_pool_cap"] = (self.struct("asid_pool").size - 1).bit_length()
        for name in ("page_table_cap", "page_directory_cap", "page_upper_directory_cap", "page_global_directory_cap"):
            bits[name] = TABLE_BITS
        return bits


def _cached_types(elf: Elf) -> Types:
    path = cache_directory() / "layouts" / f"{elf.sha256[:32]}-{_VERSION}.json"
    if path.is_file():
        try:
            return from_plain(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            # Damaged: it is made again below.
            pass
    types = read_types(elf)
    # A cache that cannot be written costs time only.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(to_plain(types)))
        temporary.replace(path)
    return types
