# SPDX-License-Identifier: BSD-2-Clause
"""Ways to spoil a kernel's memory; each is a function of a random generator, and so of a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from harness.kernel_state.layout import Layout
from tests.corruption.places import ALL, Places, Scratch

SLOT_WORDS = 4
PAGE_WORDS = 512


class Damage:
    """Spoils one memory; `places` are those of the memory when it was whole."""

    def __init__(self, memory: Scratch, places: Places, layout: Layout) -> None:
        self.memory, self.places, self.layout = memory, places, layout
        self._kinds: dict[str, Callable[[random.Random], None]] = {
            "one bit": self.one_bit,
            "one word": self.one_word,
            "several words": self.several_words,
            "another pointer": self.another_pointer,
            "a copied word": self.copied_word,
            "another type": self.another_type,
            "a moved slot": self.moved_slot,
            "a loop of derivations": self.derivation_loop,
            "a loop of threads": self.thread_loop,
            "a table in itself": self.table_loop,
            "a CNode over memory": self.wide_cnode,
            "a page of noise": self.noise,
            "a page of copies": self.copies,
            "anything anywhere": self.anywhere,
            "a crowd": self.crowd,
            "a chain of CNodes": self.chain,
            "everything": self.everything,
        }
        self._names = list(self._kinds)
        self._weights = [1 if name in ("a crowd", "a chain of CNodes", "everything") else 4 for name in self._names]
        self._groups = list(places.groups)

    @property
    def kinds(self) -> list[str]:
        """Names of the ways."""
        return self._names

    def spoil(self, choice: random.Random, kind: str = "") -> str:
        """Spoil the memory in one way; returns its name."""
        kind = kind or choice.choices(self._names, self._weights)[0]
        self._kinds[kind](choice)
        return kind

    # Where and what

    def _word(self, choice: random.Random) -> int:
        return choice.choice(self.places.groups[choice.choice(self._groups)])

    def _value(self, choice: random.Random) -> int:
        way = choice.randrange(8)
        if way == 0:
            return choice.getrandbits(64)
        if way == 1:
            return choice.choice((0, 1, ALL, 1 << 63, 1 << 48, 0xFFF, choice.getrandbits(12)))
        if way == 2:
            return int(self.memory.words[self._word(choice)])
        if way == 3:
            return choice.choice(self.places.pointers) & ALL >> 16 | choice.getrandbits(16) << 48
        if way == 4:
            return choice.choice(self.places.pointers) + choice.choice((1, 2, 3, 4, 8, 16, 32, -8, -32))
        return choice.choice(self.places.pointers)

    def _address(self, word: int) -> int:
        return self.memory.base + 8 * word

    # Ways

    def one_bit(self, choice: random.Random) -> None:
        """A flipped bit."""
        at = self._word(choice)
        self.memory.poke(at, int(self.memory.words[at]) ^ 1 << choice.randrange(64))

    def one_word(self, choice: random.Random) -> None:
        """A word of any value."""
        self.memory.poke(self._word(choice), self._value(choice))

    def several_words(self, choice: random.Random) -> None:
        """Several words, each of any value."""
        for _ in range(choice.randint(2, 12)):
            self.one_word(choice)

    def another_pointer(self, choice: random.Random) -> None:
        """A pointer becomes another one; where a field holds only part of it, that part."""
        at = self._word(choice)
        old, mask = int(self.memory.words[at]), ((1 << 48) - 1) & -(1 << choice.choice((0, 4, 5, 12)))
        self.memory.poke(at, old & ~mask | choice.choice(self.places.pointers) & mask)

    def copied_word(self, choice: random.Random) -> None:
        """A word of a kind takes the value of another one of that kind."""
        words = self.places.groups[choice.choice(self._groups)]
        self.memory.poke(choice.choice(words), int(self.memory.words[choice.choice(words)]))

    def another_type(self, choice: random.Random) -> None:
        """A capability's type changes and its other bits stay."""
        tag = self.layout.union("cap").tag
        at = choice.choice(self.places.slots)
        words = [int(word) for word in self.memory.words[at : at + 2]]
        tag.put(words, choice.choice((*self.places.types, choice.randrange(32))))
        self.memory.poke(at, *words)

    def moved_slot(self, choice: random.Random) -> None:
        """A capability, with its node or without, is in another slot too."""
        size = choice.choice((2, SLOT_WORDS))
        source, target = choice.choice(self.places.slots), choice.choice(self.places.slots)
        target += SLOT_WORDS * choice.choice((0, 0, 1, 2))
        self.memory.fill(target, self.memory.words[source : source + size].copy())

    def derivation_loop(self, choice: random.Random) -> None:
        """A link of the mapping database leads back: to the same slot, or round a few."""
        node = self.layout.block("mdb_node")
        slots = choice.sample(self.places.slots, min(len(self.places.slots), choice.choice((1, 1, 2, 3, 50))))
        field = node[choice.choice(("mdbNext", "mdbPrev"))]
        for at, following in zip(slots, [*slots[1:], slots[0]], strict=True):
            words = [int(word) for word in self.memory.words[at + 2 : at + SLOT_WORDS]]
            field.put(words, self.layout.virtual(self._address(following)))
            self.memory.poke(at + 2, *words)

    def thread_loop(self, choice: random.Random) -> None:
        """Queue links of threads lead back: to the same thread, or round a few."""
        members = self.layout.struct("tcb").members
        links = [name for name in ("tcbSchedNext", "tcbSchedPrev", "tcbEPNext", "tcbEPPrev") if name in members]
        threads = choice.sample(self.places.threads, min(len(self.places.threads), choice.choice((1, 1, 2, 3))))
        for at, following in zip(threads, [*threads[1:], threads[0]], strict=True):
            for name in links or ("",):
                offset = members[name].offset // 8 if name else choice.randrange(64)
                self.memory.poke(at + offset, self.layout.virtual(self._address(following)))
        if choice.randrange(2):
            self.memory.poke(self._word(choice), self.layout.virtual(self._address(threads[0])))

    def table_loop(self, choice: random.Random) -> None:
        """Entries of a table lead to a table of an upper level, or to itself: few, or all of them."""
        table = choice.choice(self.places.tables)
        target = self._address(choice.choice((table, choice.choice(self.places.tables)))) | 3
        count = choice.choice((1, 1, 2, 24, PAGE_WORDS))
        start = choice.randrange(PAGE_WORDS - count + 1)
        self.memory.fill(table + start, np.full(count, target, np.uint64))

    def wide_cnode(self, choice: random.Random) -> None:
        """CNode and zombie capabilities of any size, so that slots overlap with everything."""
        for _ in range(choice.choice((1, 2, 20))):
            at = choice.choice(self.places.slots)
            name = choice.choice(("cnode_cap", "cnode_cap", "zombie_cap"))
            block = self.layout.block(name)
            words = [0] * block.words
            for field in block.fields.values():
                field.put(words, choice.getrandbits(field.bits) << field.left)
            pointer = block["capCNodePtr" if name == "cnode_cap" else "capZombieID"]
            bits = choice.randrange(9, 24)
            inside = self.memory.base + (choice.randrange(1 << 24) & -(1 << bits))
            pointer.put(words, choice.choice((*self.places.pointers, self.layout.virtual(inside))))
            if name == "cnode_cap":
                block["capCNodeRadix"].put(words, bits - self.layout.slot_bits)
            block["capType"].put(words, self.layout.cap_types[name])
            self.memory.poke(at, *words)

    def noise(self, choice: random.Random) -> None:
        """A run of random words over something that matters, up to a whole CNode or more."""
        count = choice.choice((8, 64, PAGE_WORDS, 8 * PAGE_WORDS, 64 * PAGE_WORDS))
        words = np.frombuffer(choice.randbytes(8 * count), np.uint64)
        self.memory.fill(self._word(choice) & -SLOT_WORDS, words)

    def copies(self, choice: random.Random) -> None:
        """A run of copies of one slot, table entry or word."""
        size = choice.choice((1, 1, 2, SLOT_WORDS))
        source = self._word(choice) & -size
        piece = self.memory.words[source : source + size]
        count = choice.choice((8, PAGE_WORDS // size, 16 * PAGE_WORDS // size))
        self.memory.fill(self._word(choice) & -size, np.tile(piece, count))

    def anywhere(self, choice: random.Random) -> None:
        """Words anywhere in secure RAM."""
        for _ in range(choice.choice((1, 10, 200))):
            self.memory.poke(choice.randrange(len(self.memory.words)), self._value(choice))

    def everything(self, choice: random.Random) -> None:
        """All memory, or all behind the kernel's own data, is noise, one word, or copies of one slot or page."""
        memory = self.memory
        start = choice.choice((0, min(self.places.slots) & -PAGE_WORDS, min(self.places.tables) & -PAGE_WORDS))
        count = len(memory.words) - start
        way = choice.randrange(4)
        if way == 0:
            noise = np.random.default_rng(choice.getrandbits(32))
            memory.fill(start, noise.integers(0, ALL, count, np.uint64))
        elif way == 1:
            memory.fill(start, np.full(count, choice.choice((0, ALL, self._value(choice) & ALL)), np.uint64))
        else:
            size = SLOT_WORDS if way == 2 else PAGE_WORDS
            source = self._word(choice) & -size
            memory.fill(start, np.resize(memory.words[source : source + size], count))

    def crowd(self, choice: random.Random) -> None:
        """A CNode that is reached and holds nothing but variations of one slot, up to 8 MiB of them."""
        memory, source = self.memory, choice.choice(self.places.slots)
        bits = choice.randrange(12, 24)
        start = (choice.randrange(1 << 24) & -(1 << bits)) >> 3
        count = min(1 << bits - 3, len(memory.words) - start)
        slots = np.resize(memory.words[source : source + SLOT_WORDS], count).reshape(-1, SLOT_WORDS).copy()
        for column in choice.sample(range(SLOT_WORDS), choice.randrange(3)):
            steps = np.arange(len(slots), dtype=np.uint64)
            slots[:, column] += steps << np.uint64(choice.choice((0, 4, 5, 12)))
        memory.fill(start, slots.reshape(-1))
        block = self.layout.block("cnode_cap")
        words = [0] * block.words
        block["capCNodePtr"].put(words, self.layout.virtual(self._address(start)))
        block["capCNodeRadix"].put(words, bits - self.layout.slot_bits)
        block["capType"].put(words, self.layout.cap_types["cnode_cap"])
        for _ in range(8):
            memory.poke(choice.choice(self.places.slots), *words)

    def chain(self, choice: random.Random) -> None:
        """CNodes that each hold a capability to the next one, up to 65,536 of them."""
        memory, bits = self.memory, choice.choice((6, 6, 7, 9))
        count = choice.choice((4, 100, 100, 1 << 22 >> bits))
        start = (choice.randrange(1 << 23) & -(1 << bits)) >> 3
        block = self.layout.block("cnode_cap")
        words = [0] * block.words
        block["capCNodePtr"].put(words, self.layout.virtual(self._address(start)))
        block["capCNodeRadix"].put(words, bits - self.layout.slot_bits)
        block["capType"].put(words, self.layout.cap_types["cnode_cap"])
        memory.poke(choice.choice(self.places.slots), *words)
        nodes = np.zeros((count, 1 << bits - 3), np.uint64)
        nodes[:, :2] = words
        pointer = block["capCNodePtr"].word
        nodes[:, pointer] += np.arange(1, count + 1, dtype=np.uint64) << np.uint64(bits)
        memory.fill(start, nodes.reshape(-1))
