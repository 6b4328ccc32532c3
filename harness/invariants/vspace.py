# SPDX-License-Identifier: BSD-2-Clause
"""Address spaces: what their tables hold, and the capabilities behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.attributes import judge_user_attributes
from harness.invariants.capabilities import TABLES, table_field
from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant
from harness.invariants.registers import judge_registers
from harness.kernel_state.capabilities import CapTable, Indices
from harness.kernel_state.layout import PAGE_BITS, TABLE_BITS
from harness.kernel_state.memory import Words, contains
from harness.kernel_state.state import TTBR_ADDRESS, TTBR_ASID_SHIFT

Array = np.ndarray[Any, Any]

FAMILY = "vspace"
# The capability type of the table that an entry of each level points to.
FPU_PATH = (("tcb", "tcbArch"), ("arch_tcb", "tcbContext"), ("user_context", "fpuState"))
_NEXT = ("page_upper_directory_cap", "page_directory_cap", "page_table_cap")


@invariant("valid_vspace_objs", family=FAMILY, reference="l4v ARM_HYP/ArchInvariants_AI: valid_vspace_objs, valid_pte")
def valid_vspace_objs(context: Context) -> Judgement:
    """Every entry that an address space reaches points to a table of the next level or to a frame."""
    state = context.state
    caps, walk = state.caps, state.user_walk
    judgement = Judgement(len(walk) + len(walk.roots))

    def fail(rows: Array, message: str, expected: str) -> None:
        for row in rows.tolist()[:MAXIMUM_VIOLATIONS]:
            entry = walk.describe(row)
            place = f"{entry['table']}[{entry['index']}]"
            judgement.fail(
                f"{place} = {entry['entry']}: {message}",
                "page table entry",
                **entry,
                field=place,
                found=entry["entry"],
                expected=expected,
            )

    fail(np.flatnonzero(walk.malformed), "this encoding is reserved", "an encoding of the architecture")
    fail(np.flatnonzero(walk.stray), "the table lies outside of secure memory", "a table in secure memory")
    table = ~walk.leaf & ~walk.malformed & ~walk.stray
    for level, name in enumerate(_NEXT):
        rows = np.flatnonzero(table & (walk.level == level))
        known = np.sort(caps.base[caps.of(name)])
        missing = rows[~contains(known, walk.base[rows])]
        fail(missing, f"no {name} has the table that it points to", f"the object of a {name}")
    rows = np.flatnonzero(walk.leaf)
    frames = caps.of("frame_cap")
    known = np.sort(caps.base[frames] | caps.bits[frames])
    unknown = rows[~contains(known, walk.base[rows] | walk.bits[rows])]
    fail(unknown, "no frame has this base and size", "the object of a frame_cap")
    roots = set(caps.base[caps.of("page_global_directory_cap")].tolist())
    roots.add(state.global_address("armKSGlobalUserPGD"))
    for root, asids in zip(state.vspaces.roots, state.vspaces.asids, strict=True):
        if root not in roots:
            leads = f"ASID {asids[0]}" if asids else "TTBR0"
            judgement.fail(
                f"{leads} leads to {root:#x}, which is no page global directory",
                "asid_pool",
                root=hex(root),
                asids=list(asids[:MAXIMUM_VIOLATIONS]),
                field=leads,
                found=hex(root),
                expected="the object of a page_global_directory_cap",
            )
    judge_user_attributes(context, judgement)
    if walk.overflow:
        judgement.fail("the tables have no end", "page table", tables=walk.tables)
    return judgement


def _mapping(caps: CapTable, name: str) -> tuple[Indices, Words, Words]:
    """Rows of table or frame capabilities that say that they are mapped, the ASID and the address that they name."""
    rows = caps.of(name)
    if name == "frame_cap":
        asid = caps.field(name, "capFMappedASID", rows)
        mapped, address = asid != 0, caps.field(name, "capFMappedAddress", rows)
    else:
        asid = caps.field(name, table_field(name, "MappedASID"), rows)
        mapped = caps.field(name, table_field(name, "IsMapped"), rows) != 0
        field = table_field(name, "MappedAddress")
        address = caps.field(name, field, rows) if field in caps.layout.block(name) else np.zeros(len(rows), np.uint64)
    asids: Words = asid[mapped]
    addresses: Words = address[mapped]
    return rows[mapped], asids, addresses


def _key(base: Words, kind: Words, asid: Words, virtual: Words) -> Words:
    """One word for an object at a place: all of them are multiples of a page, or small."""
    place = (virtual & np.uint64((1 << 48) - 1)) | asid << np.uint64(48)
    # An odd factor keeps different objects apart at any place of one address space.
    key: Words = (base | kind) * np.uint64(0x9E3779B97F4A7C15) ^ place * np.uint64(0xD6E8FEB86659FD93)
    return key


@invariant("valid_vs_lookup", family=FAMILY, reference="l4v ArchInvariants_AI: valid_vs_lookup")
def valid_vs_lookup(context: Context) -> Judgement:
    """What an ASID leads to at an address has a capability that names this ASID and address."""
    state = context.state
    caps, walk = state.caps, state.user_walk
    asid_of = np.zeros(len(walk.roots) + 1, np.uint64)
    for index, own in enumerate(state.vspaces.asids):
        if own:
            asid_of[index] = own[0]
    asid = asid_of[walk.root]
    rows = np.flatnonzero((asid != 0) & ~walk.malformed & ~walk.stray)
    judgement = Judgement(len(rows) + len(state.asid_map) + len(state.asid_pools))
    keys = []
    for level, name in enumerate((*_NEXT, "frame_cap")):
        owners, asids, addresses = _mapping(caps, name)
        of_table = np.full(len(owners), level, np.uint64)
        kinds = caps.bits[owners].astype(np.uint64) if name == "frame_cap" else of_table
        keys.append(_key(caps.base[owners], kinds, asids, addresses))
    known = np.sort(np.concatenate(keys))
    kind = np.where(walk.leaf[rows], walk.bits[rows], walk.level[rows]).astype(np.uint64)
    wanted = _key(walk.base[rows], kind, asid[rows], walk.virtual[rows])
    for row in rows[~contains(known, wanted)].tolist()[:MAXIMUM_VIOLATIONS]:
        entry = walk.describe(row)
        name = "frame_cap" if walk.leaf[row] else _NEXT[int(walk.level[row])]
        judgement.fail_field(
            f"{entry['table']}[{entry['index']}] = {entry['entry']}",
            "page table entry",
            f"{name} for {entry['physical']}",
            "none that is mapped there",
            f"mapped at {entry['virtual']} of ASID {int(asid[row])}",
            **entry,
            asid=int(asid[row]),
        )
    _judge_roots(context, judgement)
    return judgement


def _judge_roots(context: Context, judgement: Judgement) -> None:
    """Each pool in the ASID table, and each root in a pool, has a capability that names its ASIDs."""
    state = context.state
    caps = state.caps
    pools = caps.of("asid_pool_cap")
    named = set(zip(caps.field("asid_pool_cap", "capASIDBase", pools).tolist(), caps.base[pools].tolist(), strict=True))
    entries = state.layout.struct("asid_pool")["array"].dimensions[0]
    for index, address in state.asid_pools:
        if (index * entries, address) not in named:
            judgement.fail_field(
                f"armKSASIDTable[{index}] = {address:#x}",
                "asid_pool",
                "asid_pool_cap",
                "none with this pool and capASIDBase",
                f"one with capASIDBase {index * entries}",
            )
    owners, asids, _ = _mapping(caps, "page_global_directory_cap")
    mapped = set(zip(asids.tolist(), caps.base[owners].tolist(), strict=True))
    for asid, root in state.asid_map.items():
        if (asid, root) not in mapped:
            judgement.fail_field(
                f"ASID {asid} -> {root:#x}",
                "asid_pool",
                "page_global_directory_cap",
                "none with this ASID and address",
                f"one with capPGDMappedASID {asid}",
                asid=asid,
                root=hex(root),
            )


@invariant("valid_table_caps", family=FAMILY, reference="l4v ArchInvariants_AI: valid_table_caps")
def valid_table_caps(context: Context) -> Judgement:
    """A table whose capability says that it is mapped nowhere is empty."""
    state = context.state
    caps, ram = state.caps, state.ram
    judgement = Judgement()
    for name in TABLES:
        rows = caps.of(name)
        judgement.judged += len(rows)
        unmapped = rows[caps.field(name, table_field(name, "IsMapped"), rows) == 0]
        pages = ((caps.base[unmapped] - np.uint64(ram.base)) >> np.uint64(PAGE_BITS)).astype(np.int64)
        inside = np.array([ram.holds(base, 1 << TABLE_BITS) for base in caps.base[unmapped].tolist()], np.bool_)
        unmapped, pages = unmapped[inside], pages[inside]
        for row in unmapped[ram.pages[pages].any(axis=1)].tolist()[:MAXIMUM_VIOLATIONS]:
            page = ram.pages[(int(caps.base[row]) - ram.base) >> PAGE_BITS]
            index = int(np.flatnonzero(page)[0])
            judgement.fail_cap(
                caps, row, f"entry {index} of its table", hex(int(page[index])), "0, as it is not mapped", index=index
            )
    return judgement


@invariant("unique_table_refs", family=FAMILY, reference="l4v ArchInvariants_AI: unique_table_refs, unique_table_caps")
def unique_table_refs(context: Context) -> Judgement:
    """All capabilities to one table name the same mapping, and a table that is not mapped has only one."""
    caps = context.state.caps
    judgement = Judgement()
    for name in TABLES:
        rows = caps.of(name)
        judgement.judged += len(rows)
        order = rows[np.argsort(caps.base[rows], kind="stable")]
        if len(order) < 2:
            continue
        same = np.flatnonzero(caps.base[order][1:] == caps.base[order][:-1])
        first, second = order[same], order[same + 1]
        mapped = caps.field(name, table_field(name, "IsMapped"), second) != 0
        agree = (caps.words[first, :2] == caps.words[second, :2]).all(axis=1)
        for index in np.flatnonzero(~agree | ~mapped).tolist()[:MAXIMUM_VIOLATIONS]:
            row, other = int(second[index]), caps.describe(int(first[index]))
            expected = (
                f"the same as that of the {name} at {other['slot']}" if mapped[index] else "mapped, or the only one"
            )
            judgement.fail_cap(caps, row, "mapping", _where(caps, name, row), expected, other=other)
    return judgement


def _where(caps: CapTable, name: str, row: int) -> str:
    words = [int(word) for word in caps.words[row, :2]]
    fields = caps.layout.block(name).decode(words)
    if not fields[table_field(name, "IsMapped")]:
        return "none"
    address = fields.get(table_field(name, "MappedAddress"), 0)
    return f"{address:#x} of ASID {fields[table_field(name, 'MappedASID')]}"


@invariant(
    "valid_arch_state",
    family=FAMILY,
    reference="l4v ArchInvariants_AI: valid_arch_state, valid_asid_table, valid_global_objs",
)
def valid_arch_state(context: Context) -> Judgement:
    """The ASID table and its pools name each pool and root once, TTBR0 one of them; FPU and stack have their owners."""
    state = context.state
    layout, ram = state.layout, state.ram
    judgement = Judgement(len(state.asid_pools) + len(state.asid_map) + 2)
    size = layout.struct("asid_pool").size
    seen: dict[int, str] = {}
    for index, address in state.asid_pools:
        place = f"armKSASIDTable[{index}]"
        if not ram.holds(address, size) or address % size:
            judgement.fail_field(place, "asid_pool", "pool", hex(address), f"a multiple of {size:#x} in secure RAM")
        elif address in seen:
            judgement.fail_field(place, "asid_pool", "pool", hex(address), f"another than that of {seen[address]}")
        seen[address] = place
    roots: dict[int, int] = {}
    for asid, root in state.asid_map.items():
        place = f"ASID {asid}"
        if not ram.holds(root, 1 << TABLE_BITS) or root & ((1 << TABLE_BITS) - 1):
            judgement.fail_field(place, "asid_pool", "root", hex(root), "a page of secure RAM", asid=asid)
        elif root in roots:
            judgement.fail_field(
                place, "asid_pool", "root", hex(root), f"another than that of ASID {roots[root]}", asid=asid
            )
        roots[root] = asid
    empty = state.global_words("armKSGlobalUserPGD")
    for index in np.flatnonzero(empty).tolist()[:1]:
        judgement.fail_field(
            "armKSGlobalUserPGD", "page global directory", f"entry {index}", hex(int(empty[index])), "0", index=index
        )
    _judge_live(context, judgement)
    _judge_fpu(context, judgement)
    judge_registers(context, judgement)
    return judgement


def _judge_live(context: Context, judgement: Judgement) -> None:
    """TTBR0 holds an ASID and the root that this ASID leads to, or the empty root."""
    state = context.state
    if state.report is None:
        return
    register = int(state.report["ttbr0_el1"])
    asid, root = register >> TTBR_ASID_SHIFT, register & TTBR_ADDRESS
    if state.asid_map.get(asid) != root and (asid, root) != (0, state.global_address("armKSGlobalUserPGD")):
        expected = "armKSGlobalUserPGD, or an ASID and its root"
        judgement.fail_field("TTBR0", "page global directory", "TTBR0_EL1", hex(register), expected, asid=asid)


def _judge_fpu(context: Context, judgement: Judgement) -> None:
    """The owner of the FPU, to whom its registers will be saved, is none or a thread that is there."""
    state = context.state
    layout = state.layout
    if "ksActiveFPUState" not in layout.types.variables:
        return
    owner = state.pointer("ksActiveFPUState")
    if owner:
        offset = sum(layout.struct(name)[member].offset for name, member in FPU_PATH)
        if owner - offset not in state.threads.row_of:
            judgement.fail_field("FPU", "tcb", "ksActiveFPUState", hex(owner), "null or the fpuState of a thread")
