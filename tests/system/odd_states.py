# SPDX-License-Identifier: BSD-2-Clause
"""Each odd state that docs/invariants.md calls legal: a program that leads to it, and how to see that it did.

Programs are those of legal_states.yaml; None is the snapshot. Three states last only as long as an operation that was
preempted, which its caller then finishes, or are nothing that a kernel does: they are made by changing words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.kernel_state.state import ContainerKind
from tests.system.odd_view import (
    ANOTHER_CHUNK,
    View,
    badges,
    boot_part,
    bound_and,
    buffers,
    containers,
    empty_zombie,
    free_index,
    full,
    handed_out,
    has_invalid_entry,
    has_nothing,
    idle,
    invalid_entry,
    kept_caller,
    large_buffers,
    leaves,
    named_by_own_zombie,
    names_place_of,
    odd_ctable,
    old_links,
    only_in_itself,
    other_root,
    restarting,
    spare_root,
    unanswerable,
    without_window,
)

Seen = Callable[[View], Any]


@dataclass(frozen=True)
class OddState:
    """`program`: its name, or None for the snapshot; `pokes`: addresses and values of words to change then."""

    program: str | None
    seen: Seen
    pokes: Callable[[View], dict[int, int]] = field(default=lambda view: {})


ODD_STATES: dict[tuple[str, str], OddState] = {
    ("ns_bit_matches_world", "an address space that no thread uses"): OddState(
        "an address space has an ASID, tables and a page, and no thread", spare_root
    ),
    ("ns_bit_matches_world", "a mapping whose capability was copied or moved"): OddState(
        "the capabilities of mapped pages are copied and moved",
        lambda v: len(leaves(v, 0x10002000)) and v.row("page-n-mapped") < 0,
    ),
    ("ns_bit_matches_world", "an entry whose lowest bit is 0, whatever else it holds"): OddState(
        None, has_invalid_entry, invalid_entry
    ),
    ("ipc_buffer_not_device", "a frame of the non-secure world as IPC buffer"): OddState(
        None, lambda v: v.state.caps.non_secure[buffers(v)].any()
    ),
    ("ipc_buffer_not_device", "a buffer that is mapped nowhere"): OddState(
        "an IPC buffer is mapped nowhere",
        lambda v: not np.isin(v.state.caps.base[buffers(v)], v.state.user_walk.base).all(),
    ),
    ("ipc_buffer_not_device", "a buffer of 2 MiB or 1 GiB"): OddState("IPC buffers lie in large frames", large_buffers),
    ("smc_authority", "x4 to x7 that are not what the program said, after an operation on a thread"): OddState(
        "an SMC whose x4 to x7 come from another IPC buffer than the caller wrote",
        lambda v: int(v.observation.smc_log["arguments"][0][7]) != 3,
    ),
    ("smc_authority", "SMCs by Send and NBSend"): OddState(
        "secure monitor calls are sent", lambda v: len(v.observation.smc_log) == 2
    ),
    ("smc_authority", "badge 0 minted from badge 0"): OddState(
        "a capability for any function is made of one for any function, and used",
        lambda v: badges(v, 0) >= 3 and len(v.observation.smc_log) == 1,
    ),
    ("smc_authority", "several capabilities with one badge"): OddState(None, lambda v: badges(v) >= 2),
    ("valid_untyped", "a free index that stands behind objects that are gone"): OddState(
        "an object is made and deleted", lambda v: v.arena_is_empty and v.free_indices[0]
    ),
    (
        "valid_untyped",
        "a free index that a preempted reset left at any multiple of its chunk, as long as no object lies behind it",
    ): OddState(
        "an object is made and deleted", lambda v: v.arena_is_empty and v.free_indices[0] == ANOTHER_CHUNK, free_index
    ),
    ("valid_untyped", "a full untyped without any object"): OddState(
        "an untyped is copied and the copy deleted",
        lambda v: v.arena_is_empty and int(v.free_indices[0]) << 4 == 1 << int(v.state.caps.bits[v.row("arena")]),
    ),
    ("untyped_inc", "a copied untyped"): OddState(
        "an untyped is copied",
        lambda v: (v.state.caps.base[v.state.caps.of("untyped_cap")] == v.state.caps.base[v.row("arena")]).sum() >= 2,
    ),
    ("mdb_cte_at", "a capability without any link"): OddState(
        None, lambda v: ((v.state.caps.next == 0) & (v.state.caps.previous == 0)).any()
    ),
    ("untyped_mdb", "an object that lies in no untyped"): OddState(
        None,
        lambda v: (v.state.derivation.innermost(v.state.caps.base, v.state.caps.last) < 0)[v.state.caps.physical].any(),
    ),
    ("untyped_mdb", "an ASID pool, whose untyped is full"): OddState(
        "an ASID pool is made", lambda v: full(v, "asid_pool_cap").sum() >= 2
    ),
    ("descendants_inc", "copies in any order among themselves, moved to any slot"): OddState(
        "capabilities of one endpoint are copied and moved", lambda v: len(containers(v)) >= 6
    ),
    ("valid_vspace_objs", "a table or frame whose capability says mapped though the mapping is gone"): OddState(
        "a page directory is unmapped with tables and pages below it", lambda v: len(v.mapped_table)
    ),
    ("valid_vspace_objs", "a table that no ASID reaches, whatever it holds"): OddState(
        "a page directory is unmapped with tables and pages below it", lambda v: v.entries(v.mapped_table)
    ),
    ("valid_vs_lookup", "a capability that names a place where nothing is mapped"): OddState(
        "a page directory is unmapped with tables and pages below it", lambda v: len(v.mapped_table)
    ),
    ("valid_vs_lookup", "a capability that names a place where something else is mapped"): OddState(
        "another page takes the place of one whose table was unmapped",
        lambda v: (names_place_of(v) != v.state.caps.base[v.row("page-s-mapped")]).all() and len(names_place_of(v)),
    ),
    ("valid_vs_lookup", "a root in TTBR0 that no ASID leads to"): OddState(
        "the only ASID pool is deleted",
        lambda v: not v.state.vspaces.asids[v.state.vspaces.roots.index(v.state.vspaces.live or 0)],
    ),
    ("valid_table_caps", "a table that says it is mapped, is not, and still has its entries"): OddState(
        "a page directory is unmapped with tables and pages below it", lambda v: v.entries(v.mapped_table)
    ),
    ("valid_arch_state", "an FPU owner that does not run"): OddState(
        "another thread runs than the owner of the FPU", lambda v: v.fpu_owner != v.current
    ),
    ("valid_arch_state", "an FPU owner that cannot run"): OddState(
        "the owner of the FPU faults and nobody sets it going again",
        lambda v: not v.state.threads.runnable[v.fpu_owner],
    ),
    ("valid_arch_state", "a pool and a root that no thread uses"): OddState(
        "an address space has another ASID pool, and no thread",
        lambda v: spare_root(v) and len(v.state.asid_pools) >= 3,
    ),
    ("pspace_distinct", "a zombie in a slot of the CNode or thread that it stands for"): OddState(
        "a CNode that holds the only capability of another one is deleted", lambda v: len(v.own_zombies)
    ),
    ("pspace_in_kernel_window", "a device frame, which need not be in the window"): OddState(
        None, lambda v: without_window(v).any()
    ),
    ("valid_global_refs", "an untyped of the image's boot part, which the kernel gives away"): OddState(
        None, lambda v: boot_part(v).any()
    ),
    ("valid_objs", "a frame without ASID that still names an address"): OddState(
        "frames are copied without a right and without their mapping",
        lambda v: (
            v.state.caps.field("frame_cap", "capFMappedAddress", v.of("frame_cap", capFMappedASID=0)) != 0
        ).any(),
    ),
    ("valid_objs", "a frame without rights"): OddState(
        "frames are copied without a right and without their mapping", lambda v: len(v.of("frame_cap", capFVMRights=0))
    ),
    ("valid_objs", "a zombie that has 0 slots left"): OddState(
        "a CNode is made",
        lambda v: (v.state.caps.zombie_number(v.state.caps.of("zombie_cap")) == 0).any(),
        empty_zombie,
    ),
    ("valid_objs", "anything in tcbCTable"): OddState(
        "a CNode that holds the only capability of a thread is deleted", lambda v: odd_ctable(v).any()
    ),
    ("valid_objs", "a caller's reply capability while its receiver waits for a notification"): OddState(
        "a caller's reply capability is kept while its receiver waits for a notification",
        lambda v: kept_caller(v).any(),
    ),
    ("valid_objs", "a thread without address space, capability space or buffer that can run"): OddState(
        "a thread that has nothing can run", lambda v: has_nothing(v).any()
    ),
    ("valid_objs", "an IPC buffer address without a frame"): OddState(
        "the memory of an IPC buffer is taken back",
        lambda v: ((v.state.threads.member("tcbIPCBuffer") != 0) & (v.held("tcbBuffer") < 0)).any(),
    ),
    ("if_live_then_nonz_cap", "an active notification that nobody waits for"): OddState(
        None, lambda v: "NtfnState_Active" in map(v.state.notifications.state_name, range(len(v.state.notifications)))
    ),
    ("if_live_then_nonz_cap", "an idle endpoint"): OddState(
        None, lambda v: "EPState_Idle" in map(v.state.endpoints.state_name, range(len(v.state.endpoints)))
    ),
    ("if_live_then_nonz_cap", "an inactive thread that only its zombie names"): OddState(
        "a CNode that holds the only capability of a thread is deleted", lambda v: len(named_by_own_zombie(v))
    ),
    ("if_unsafe_then_cap", "a CNode that only a capability in itself names"): OddState(
        "a CNode that holds itself is deleted elsewhere", only_in_itself
    ),
    ("if_unsafe_then_cap", "a zombie in the CNode that it stands for"): OddState(
        "a CNode that holds the only capability of another one is deleted", lambda v: len(v.own_zombies)
    ),
    ("boot_information", "an empty slot in one of the regions"): OddState(None, handed_out),
    ("cur_tcb", "a current thread in state Restart"): OddState("the system is switched off", restarting),
    ("cur_tcb", "the idle thread while all others are blocked"): OddState("nobody runs", idle),
    ("cur_tcb", "another address space in TTBR0 than the current thread's"): OddState(
        "a thread gives itself another address space", other_root
    ),
    ("valid_queues", "old values in tcbSchedNext or tcbSchedPrev of a thread that is in no queue"): OddState(
        "one of two threads in a ready queue is suspended",
        lambda v: (old_links(v, "tcbSched") & (v.state.threads.state("tcbQueued") == 0)).any(),
    ),
    (
        "sym_refs",
        "old values in tcbEPNext or tcbEPPrev and blockingObject of a thread that waits for neither",
    ): OddState(
        "a blocked thread is suspended",
        lambda v: (
            old_links(v, "tcbEP")
            & v.state.threads.in_state("Inactive")
            & (v.state.threads.state("blockingObject") != 0)
        ).any(),
    ),
    ("sym_refs", "a bound thread that waits for another notification"): OddState(
        "a bound thread waits for another notification", lambda v: bound_and(v, "BlockedOnNotification")
    ),
    ("sym_refs", "a bound thread that waits for an endpoint"): OddState(
        None, lambda v: bound_and(v, "BlockedOnReceive")
    ),
    ("valid_reply_caps", "a reply capability in a slot of a CNode"): OddState(
        "a reply capability is saved in a capability space",
        lambda v: any(
            v.state.containers[int(container)].kind == ContainerKind.CNODE
            for container in v.state.caps.container[v.of("reply_cap", capReplyMaster=0)]
        ),
    ),
    ("valid_reply_caps", "a thread that is BlockedOnReply though nobody has its reply capability any more"): OddState(
        "the only reply capability of a thread is gone", lambda v: unanswerable(v).any()
    ),
    ("valid_reply_masters", "a thread that never ran, without a master"): OddState(
        None, lambda v: (v.state.threads.in_state("Inactive") & (v.held("tcbReply") < 0)).any()
    ),
    ("valid_reply_masters", "a thread that is being deleted, without a master"): OddState(
        "a CNode that holds the only capability of a thread is deleted",
        lambda v: (v.held("tcbReply")[named_by_own_zombie(v)] < 0).any(),
    ),
}
