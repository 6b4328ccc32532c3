/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory of the population, from the untyped memory that the kernel hands out at boot.
 *
 * Small objects of each world lie side by side in one untyped, so that what a program can change is
 * a few ranges. Everything else comes from the smallest untyped that has room. The supervisor
 * follows the kernel's allocation, so that it knows the physical address of each object.
 */
#include "supervisor.h"

#define SMALL_BITS 14 /* objects up to this size share the small pool of their world */

struct source {
    word address;
    word used;
    word slot; /* in the supervisor's own space, 0: not used yet */
    word boot_slot;
    byte bits;
    byte device;
    byte non_secure;
};

static struct source sources[CONFIG_MAX_NUM_BOOTINFO_UNTYPED_CAPS];
static word source_count, slots_used;
static struct source *small[2]; /* by world */

/* The supervisor's own capability table is the first object of the secure pool. */
void memory_report(void)
{
    report(small[0]->address, 1ul << (VAULT_BITS + seL4_SlotBits), BW_KIND_KERNEL_OBJECT, 0, BW_NO_OBJECT);
}

void memory_init(const seL4_BootInfo *info)
{
    source_count = info->untyped.end - info->untyped.start;
    for (word i = 0; i < source_count; i++) {
        const seL4_UntypedDesc *u = &info->untypedList[i];
        sources[i] = (struct source){
            .address = u->paddr,
            .boot_slot = info->untyped.start + i,
            .bits = u->sizeBits,
            .device = u->isDevice,
            .non_secure = u->isNonSecure,
        };
    }
}

word object_bits(word type, word bits)
{
    switch (type) {
    case OBJECT_UNTYPED:
        return bits;
    case OBJECT_TCB:
        return seL4_TCBBits;
    case OBJECT_ENDPOINT:
        return seL4_EndpointBits;
    case OBJECT_NOTIFICATION:
        return seL4_NotificationBits;
    case OBJECT_CNODE:
        return bits + seL4_SlotBits;
    case OBJECT_PAGE_1G:
        return seL4_HugePageBits;
    case OBJECT_PAGE_2M:
        return seL4_LargePageBits;
    default:
        return seL4_PageBits;
    }
}

static word place(const struct source *s, word bits)
{
    return (s->used + (1ul << bits) - 1) & -(1ul << bits);
}

/* Whether the memory is the normal world's own, or what it shares: no object of the population lies there. */
static word of_normal_world(const struct source *s)
{
#ifdef NORMAL_MEMORY
    word end = s->address + (1ul << s->bits);
    return (s->address < NORMAL_MEMORY + NORMAL_MEMORY_BYTES && NORMAL_MEMORY < end) ||
           (s->address < NORMAL_SHARED + NORMAL_SHARED_BYTES && NORMAL_SHARED < end);
#else
    (void)s;
    return 0;
#endif
}

static struct source *smallest(word bits, word non_secure, word device, word address)
{
    struct source *best = 0;
    for (struct source *s = sources; s < sources + source_count; s++) {
        if (s->device != device || (device ? s->address != address : s->non_secure != non_secure))
            continue;
        if (s == small[0] || s == small[1] || of_normal_world(s))
            continue;
        if (place(s, bits) + (1ul << bits) <= 1ul << s->bits && (!best || s->bits < best->bits))
            best = s;
    }
    return best;
}

/* Makes objects side by side and returns the physical address of the first. */
static word take(struct source *s, word type, word bits, word slot, word count)
{
    word size_bits = object_bits(type, bits);
    if (!s->slot) {
        s->slot = V_UNTYPED + slots_used++;
        if (s->slot >= V_OBJECT)
            stop(ERROR_NO_UNTYPED, slots_used);
        move(V_SELF, s->slot, 64, V_BOOT_CNODE, s->boot_slot);
    }
    word first = place(s, size_bits);
    retype(s->slot, type, bits, V_SELF, slot, count);
    s->used = first + (count << size_bits);
    return s->address + first;
}

word allocate(word type, word bits, word non_secure, word slot, word count)
{
    word size_bits = object_bits(type, bits);
    struct source *s = small[non_secure];
    if (size_bits > SMALL_BITS || !s || place(s, size_bits) + (count << size_bits) > 1ul << s->bits)
        s = smallest(size_bits, non_secure, 0, 0);
    if (!s)
        stop(ERROR_NO_UNTYPED, size_bits | non_secure << 8);
    return take(s, type, bits, slot, count);
}

/* Non-secure objects at a physical address, which has to be the next in its untyped */
word allocate_at(word type, word address, word slot, word count)
{
    for (struct source *s = sources; s < sources + source_count; s++) {
        word start = s->address + place(s, object_bits(type, 0));
        if (!s->device && s->non_secure && start == address && s->address + (1ul << s->bits) > address)
            return take(s, type, 0, slot, count);
    }
    stop(ERROR_ADDRESS, address);
}

word allocate_device(word type, word bits, word device, word slot)
{
    word size_bits = object_bits(type, bits);
    struct source *s = smallest(size_bits, 0, 1, device);
    if (!s)
        stop(ERROR_NO_DEVICE, device);
    return take(s, type, bits, slot, 1);
}

/*
 * Moves the initial thread into a capability space of its own making. The boot CNode lies in memory
 * that nobody compares with the snapshot; in the new one, all capabilities that the victims'
 * capabilities are derived from lie where the other small objects do.
 */
void memory_own_space(const seL4_BootInfo *info)
{
    struct source *pool = 0;
    for (struct source *s = sources; s < sources + source_count; s++) {
        if (!s->device && !s->non_secure && s->bits >= SMALL_POOL_BITS && (!pool || s->bits < pool->bits))
            pool = s;
        if (!s->device && s->non_secure && s->address == EXCHANGE_ADDRESS)
            small[1] = s;
    }
    if (!pool || !small[1])
        stop(ERROR_NO_UNTYPED, SMALL_POOL_BITS);
    word root = seL4_CapInitThreadCNode;
    word vault = info->empty.start;
    word mr[] = {seL4_CapTableObject, VAULT_BITS, 0, 0, vault, 1};
    require(invoke(pool->boot_slot, UntypedRetype, 1, &root, 6, mr), vault);
    pool->used = 1ul << (VAULT_BITS + seL4_SlotBits);
    small[0] = pool;

    word guard = (64 - VAULT_BITS) << CNODE_GUARD_SHIFT;
    require(invoke(vault, CNodeMint, 1, &root, 6, (word[]){V_SELF, VAULT_BITS, vault, 64, 7, guard}), V_SELF);
    require(invoke(vault, CNodeCopy, 1, &root, 5, (word[]){V_BOOT_CNODE, VAULT_BITS, root, 64, 7}), V_BOOT_CNODE);
    word spaces[] = {vault, seL4_CapInitThreadVSpace};
    require(invoke(seL4_CapInitThreadTCB, TCBSetSpace, 2, spaces, 3, (word[]){0, guard, 0}), 0);

    move(V_SELF, V_VAULT, 64, V_BOOT_CNODE, vault);
    move(V_SELF, V_TCB, 64, V_BOOT_CNODE, seL4_CapInitThreadTCB);
    move(V_SELF, V_VSPACE, 64, V_BOOT_CNODE, seL4_CapInitThreadVSpace);
    move(V_SELF, V_IRQ_CONTROL, 64, V_BOOT_CNODE, seL4_CapIRQControl);
    move(V_SELF, V_ASID_CONTROL, 64, V_BOOT_CNODE, seL4_CapASIDControl);
    move(V_SELF, V_DOMAIN, 64, V_BOOT_CNODE, seL4_CapDomain);
#ifdef CONFIG_ALLOW_SMC_CALLS
    move(V_SELF, V_SMC, 64, V_BOOT_CNODE, seL4_CapSMC);
#endif
    pool->slot = V_UNTYPED + slots_used++;
    move(V_SELF, pool->slot, 64, V_BOOT_CNODE, pool->boot_slot);
}
