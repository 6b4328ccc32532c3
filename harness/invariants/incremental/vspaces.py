# SPDX-License-Identifier: BSD-2-Clause
"""Address spaces, around the entries of tables, the ASIDs and the capabilities that changed.

An address space reaches a table either by entries none of which changed, then the snapshot knows the place; or by one
that changed, and then all below that one is walked. So each entry that could have become wrong is met: it changed, it
lies below one that changed, or a capability to what it maps changed.
"""

from __future__ import annotations

from harness.invariants.attributes import TABLE_RULES, USER_RULES, odd, of_known_memory
from harness.invariants.incremental import snapshot as roles
from harness.invariants.incremental.decoding import Unclear
from harness.invariants.incremental.delta import Delta
from harness.invariants.incremental.snapshot import TABLE_NAMES, WORD, Mapping
from harness.kernel_state.layout import PAGE_BITS
from harness.kernel_state.memory import PAGE_WORDS
from harness.kernel_state.page_tables import LEVEL_SHIFT, LEVELS
from harness.kernel_state.state import TTBR_ADDRESS, TTBR_ASID_SHIFT

_ADDRESS = ((1 << 48) - 1) & -(1 << PAGE_BITS)
_MANY = 1 << 8
"""Tables below entries that changed from which on the whole check is faster."""
_PAGE_WORD_BITS = PAGE_BITS - 3
_FRAME = "frame_cap"


class AddressSpaces:
    """The address spaces of one state; `ttbr0`: the register as it is."""

    def __init__(self, delta: Delta, ttbr0: int) -> None:
        self._delta = delta
        self._index = delta.index
        self._live, self._live_asid = ttbr0 & TTBR_ADDRESS, ttbr0 >> TTBR_ASID_SHIFT
        self._ram = delta.ram
        self._entries = delta.index.pool_entries
        self._memory = delta.index.memory_types
        self._tables = 0
        self._reached: dict[int, bool] = {}
        self._changed = set(delta.words.get(roles.TABLE, ()))
        self._empty_root = delta.index.empty_root
        self.asids = self._index.asids
        """Root of each ASID."""
        self._fresh: set[int] = set()
        """ASIDs whose root is another one than in the snapshot."""

    def judge(self) -> None:
        """All that concerns address spaces."""
        delta = self._delta
        if roles.POOLS in delta.words:
            self._find_asids()
        elif roles.POOL in delta.words:
            self._change_asids(delta.words[roles.POOL])
        if self.asids is not self._index.asids:
            if len(set(self.asids.values())) != len(self.asids):
                raise Unclear("an address space with two ASIDs")
            known = self._index.asids
            self._fresh = {asid for asid, root in self.asids.items() if known.get(asid) != root}
        self._judge_tables()
        self._judge_roots()
        for word in self._changed:
            page = word >> _PAGE_WORD_BITS
            for place in self._index.places.get(page, ()):
                if self._is_reached(page):
                    index = word & (PAGE_WORDS - 1)
                    virtual = place.virtual + (index << LEVEL_SHIFT[place.level])
                    self._entry(word, place.level, virtual, self._asid(place.root), follow=True)
        mapped = self._index.mapped_types
        for key in delta.members:
            if key & 31 in mapped:
                for mapping in self._index.mappings.get(key >> 5, ()):
                    self._judge_again(mapping)

    # ASIDs

    def _find_asids(self) -> None:
        """The ASID table and its pools."""
        index, words, layout = self._index, self._delta.ram.words, self._index.layout
        size = layout.struct("asid_pool").size
        entries = self._entries
        first = index.word_of(index.state.global_address("armKSASIDTable"))
        table = words[first : first + layout.variable("armKSASIDTable").size // WORD]
        pools: dict[int, int] = {}
        for number in table.nonzero()[0].tolist():
            address = layout.physical(int(table[number]))
            if address % size or not self._ram.holds(address, size) or address in pools.values():
                raise Unclear("an odd ASID pool")
            pools[number] = address
        self.asids = {}
        for number, address in pools.items():
            self._pool(number * entries, address)
            start = index.word_of(address)
            pool = words[start : start + entries]
            for low in pool.nonzero()[0].tolist():
                self.asids[number * entries + low] = layout.physical(int(pool[low]))

    def _change_asids(self, changed: list[int]) -> None:
        """Words of the snapshot's pools that changed."""
        index, words, layout = self._index, self._delta.ram.words, self._index.layout
        self.asids = index.asids.copy()
        for number, address in index.pools.items():
            first = index.word_of(address)
            for word in changed:
                if 0 <= word - first < self._entries:
                    asid = number * self._entries + word - first
                    if root := int(words[word]):
                        self.asids[asid] = layout.physical(root)
                    else:
                        self.asids.pop(asid, None)

    def _pool(self, first: int, address: int) -> None:
        delta = self._delta
        holders = delta.holders(self._index.decoder.key("asid_pool_cap", address))
        if not any(delta.cap(slot).address == first for slot in holders):
            raise Unclear("an ASID pool without its capability")

    def _asid(self, root: int) -> int:
        """The ASID of a root; 0 if it has none."""
        if self.asids is self._index.asids:
            return self._index.asid_of.get(root, 0)
        return next((asid for asid, other in self.asids.items() if other == root), 0)

    def _judge_roots(self) -> None:
        delta, index = self._delta, self._index
        decoder, types = index.decoder, index.layout.cap_types
        wanted = set(self._fresh)
        for key in delta.members:
            place = key >> 5
            if key & 31 == types["page_global_directory_cap"]:
                if asid := self._asid(place):
                    wanted.add(asid)
            elif key & 31 == types["asid_pool_cap"] and roles.POOLS not in delta.words:
                for number, address in index.pools.items():
                    if address == place:
                        self._pool(number * self._entries, place)
        for asid in wanted:
            root = self.asids[asid]
            holders = delta.holders(decoder.key("page_global_directory_cap", root))
            if not any(cap.mapped and cap.asid == asid for cap in map(delta.cap, holders)):
                raise Unclear("an ASID whose address space has no capability for it")
            if asid in self._fresh and root & ((1 << PAGE_BITS) - 1):
                raise Unclear("an ASID that leads to what is no table")
        live = self._live
        if live != self._empty_root and not delta.holders(decoder.key("page_global_directory_cap", live)):
            raise Unclear("TTBR0 holds what is no address space")
        if self.asids.get(self._live_asid) != live and (self._live_asid, live) != (0, self._empty_root):
            raise Unclear("TTBR0 holds an ASID that leads elsewhere")
        for asid in self._fresh:
            self._below(self.asids[asid], 0, 0, asid)
        known = index.places.get(index.page(live), ())
        if not self._asid(live) and not any(place.level == 0 for place in known):
            self._below(live, 0, 0, 0)

    # Tables

    def _judge_tables(self) -> None:
        """unique_table_refs, valid_table_caps."""
        delta, index = self._delta, self._index
        decoder, ram = index.decoder, self._ram
        types = index.table_types
        keys = [key for key in delta.members if key & 31 in types]
        for key in keys:
            caps = [delta.cap(slot) for slot in delta.members[key]]
            if len(caps) > 1:
                first = caps[0]
                if not first.mapped or any((cap.low, cap.high) != (first.low, first.high) for cap in caps):
                    raise Unclear("capabilities to one table that do not agree")
            if caps and not caps[0].mapped and ram.pages[index.page(caps[0].base)].any():
                raise Unclear("a table that is not mapped and not empty")
        for page in {word >> _PAGE_WORD_BITS for word in self._changed}:
            address = index.base + (page << PAGE_BITS)
            for name in TABLE_NAMES:
                for slot in delta.holders(decoder.key(name, address)):
                    if not delta.cap(slot).mapped and ram.pages[page].any():
                        raise Unclear("a table that is not mapped and not empty")

    def _is_reached(self, page: int) -> bool:
        """Whether the entries that led to a table in the snapshot still do."""
        known = self._reached.get(page)
        if known is None:
            place = self._index.places[page][0]
            if place.level == 0:
                known = place.root in (self._live, self._empty_root) or self._asid(place.root) != 0
            else:
                known = place.entry not in self._changed and self._is_reached(place.parent)
            self._reached[page] = known
        return known

    def _judge_again(self, mapping: Mapping) -> None:
        """An entry of the snapshot that maps what a changed capability stands for."""
        if mapping.word not in self._changed and self._is_reached(mapping.page):
            root = self._index.places[mapping.page][0].root
            self._entry(mapping.word, mapping.level, mapping.virtual, self._asid(root), follow=False)

    def _below(self, table: int, level: int, virtual: int, asid: int) -> None:
        """All entries of a table, and of those below."""
        self._tables += 1
        if self._tables > _MANY:
            raise Unclear("many new tables", suspect=False)
        if not self._ram.holds(table, 1 << PAGE_BITS) or table & ((1 << PAGE_BITS) - 1):
            raise Unclear("a table that cannot be one")
        page = self._index.page(table)
        first = page << _PAGE_WORD_BITS
        for number in self._ram.pages[page].nonzero()[0].tolist():
            self._entry(first + number, level, virtual + (number << LEVEL_SHIFT[level]), asid, follow=True)

    def _entry(self, word: int, level: int, virtual: int, asid: int, *, follow: bool) -> None:
        """An entry that maps from a virtual address of an ASID on (0: of none)."""
        entry = int(self._ram.words[word])
        if not entry & 1:
            return
        delta, key = self._delta, self._index.decoder.key
        address, last_level = entry & _ADDRESS, level == LEVELS - 1
        if not last_level and entry & 2:
            holders = delta.holders(key(TABLE_NAMES[level + 1], address))
            bits = PAGE_BITS
            wrong = odd(entry, TABLE_RULES)
        elif level > 0 and last_level == bool(entry & 2):
            bits = LEVEL_SHIFT[level]
            address &= -(1 << bits)
            holders = delta.holders(key(_FRAME, address))
            wrong = odd(entry, USER_RULES) or not of_known_memory(entry, self._memory)
        else:
            raise Unclear("an entry of a reserved encoding")
        if wrong:
            raise Unclear("an entry with odd attributes")
        if not any(
            cap.bits == bits and (not asid or (cap.mapped and (cap.asid, cap.address) == (asid, virtual)))
            for cap in map(delta.cap, holders)
        ):
            raise Unclear("an entry without its capability")
        if follow and not last_level and entry & 2:
            self._below(address, level + 1, virtual, asid)
