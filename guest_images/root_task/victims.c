/* SPDX-License-Identifier: BSD-2-Clause */
/* Objects, victims, their slots, and the threads that are blocked in the snapshot. */
#include "supervisor.h"

#define RIGHTS_WRITE 1
#define RIGHTS_READ 2
#define HELPER_PRIORITY 50ul
#define SUPERVISOR_PRIORITY ((word)CONFIG_NUM_PRIORITIES - 1)

extern const byte victim_image_end[];
extern const word victim_image[]; /* begins with the table of entries */

static const byte kind_of_type[] = {
    [OBJECT_UNTYPED] = BW_KIND_ARENA,
    [OBJECT_TCB] = BW_KIND_TCB,
    [OBJECT_ENDPOINT] = BW_KIND_ENDPOINT,
    [OBJECT_NOTIFICATION] = BW_KIND_NOTIFICATION,
    [OBJECT_CNODE] = BW_KIND_CNODE,
    [OBJECT_PAGE_1G] = BW_KIND_FRAME,
    [OBJECT_PAGE_UPPER_DIRECTORY] = BW_KIND_PAGE_TABLE,
    [OBJECT_PAGE_GLOBAL_DIRECTORY] = BW_KIND_PAGE_TABLE,
    [OBJECT_PAGE_4K] = BW_KIND_FRAME,
    [OBJECT_PAGE_2M] = BW_KIND_FRAME,
    [OBJECT_PAGE_TABLE] = BW_KIND_PAGE_TABLE,
    [OBJECT_PAGE_DIRECTORY] = BW_KIND_PAGE_TABLE,
    [OBJECT_ASID_POOL] = BW_KIND_KERNEL_OBJECT,
};

/* A kernel object of one victim, or of nobody */
static void make(word type, word bits, word slot, word kind, word victim)
{
    word address = allocate(type, bits, 0, slot, 1);
    report(address, 1ul << object_bits(type, bits), kind, victim, BW_NO_OBJECT);
}

/* An ASID pool or interrupt handler: not made by Retype alone */
static word make_special(const struct object *o, word slot)
{
    if (o->type == OBJECT_IRQ_HANDLER) {
        require(invoke(V_IRQ_CONTROL, IRQIssueIRQHandler, 1, (word[]){V_SELF}, 3, (word[]){o->irq, slot, 64}), slot);
        if (o->notification)
            require(invoke(slot, IRQSetIRQHandler, 1, (word[]){V_OBJECT + o->notification - 1}, 0, 0), slot);
        return 0;
    }
    word address = allocate(OBJECT_UNTYPED, seL4_ASIDPoolBits, 0, V_TEMPORARY, 1);
    word caps[] = {V_TEMPORARY, V_SELF};
    require(invoke(V_ASID_CONTROL, ARMASIDControlMakePool, 2, caps, 2, (word[]){slot, 64}), slot);
    move(V_SELF, V_POOL_MEMORY, 64, V_SELF, V_TEMPORARY);
    return address;
}

void make_thread(word slot)
{
    make(OBJECT_TCB, 0, slot, BW_KIND_TCB, 0);
}

void make_objects(void)
{
    make(OBJECT_ENDPOINT, 0, V_ENDPOINT, BW_KIND_ENDPOINT, 0);
    for (word i = 0; i < OBJECTS; i++) {
        const struct object *o = &objects[i];
        word slot = V_OBJECT + i, address, kind = kind_of_type[o->type];
        if (o->type >= OBJECT_ASID_POOL) {
            address = make_special(o, slot);
        } else if (o->device) {
            address = allocate_device(o->type, o->size_bits, o->device, slot);
            kind = BW_KIND_DEVICE;
        } else {
            address = allocate(o->type, o->size_bits, o->non_secure, slot, 1);
            if (kind == BW_KIND_FRAME)
                mark_frame(slot, o->type, address);
        }
        if (address)
            report(address, 1ul << object_bits(o->type, o->size_bits), kind, 0, i);
    }
    /* The first Retype of untyped memory from boot clears it; an arena that has been used once is as programs leave it. */
    for (word i = 0; i < OBJECTS; i++) {
        const struct object *o = &objects[i];
        if (o->type == OBJECT_UNTYPED && !o->device) {
            retype(V_OBJECT + i, OBJECT_PAGE_4K, 0, V_SELF, V_TEMPORARY, 1);
            erase(V_SELF, V_TEMPORARY);
        }
    }
}

static void make_frame(word victim, word what, word kind)
{
    word address = allocate(OBJECT_PAGE_4K, 0, victim_non_secure[victim], OWN(victim, what), 1);
    require(invoke(OWN(victim, what), ARMPageGetAddress, 0, 0, 0, 0), what);
    if (message[0] != address)
        stop(ERROR_ADDRESS, message[0]);
    report(address, BW_PAGE, kind, victim, BW_NO_OBJECT);
}

void make_victim(word v)
{
    word vspace = OWN(v, OWN_VSPACE);
    make(OBJECT_CNODE, CNODE_BITS, OWN(v, OWN_CNODE_WITHOUT_GUARD), BW_KIND_CNODE, v);
    mint(V_SELF, OWN(v, OWN_CNODE), 64, OWN(v, OWN_CNODE_WITHOUT_GUARD), 7, (64 - CNODE_BITS) << CNODE_GUARD_SHIFT);
    make(OBJECT_PAGE_GLOBAL_DIRECTORY, 0, vspace, BW_KIND_PAGE_TABLE, v);
    make(OBJECT_PAGE_UPPER_DIRECTORY, 0, OWN(v, OWN_PUD), BW_KIND_PAGE_TABLE, v);
    make(OBJECT_PAGE_DIRECTORY, 0, OWN(v, OWN_PD), BW_KIND_PAGE_TABLE, v);
    make(OBJECT_PAGE_TABLE, 0, OWN(v, OWN_TABLE), BW_KIND_PAGE_TABLE, v);
    make(OBJECT_TCB, 0, OWN(v, OWN_TCB), BW_KIND_TCB, v);
    make(OBJECT_TCB, 0, OWN(v, OWN_NURSE), BW_KIND_TCB, v);
    make(OBJECT_ENDPOINT, 0, OWN(v, OWN_FAULTS), BW_KIND_ENDPOINT, v);
    make(OBJECT_NOTIFICATION, 0, OWN(v, OWN_TURN), BW_KIND_NOTIFICATION, v);
    make(OBJECT_CNODE, NURSE_CNODE_BITS, OWN(v, OWN_NURSE_CNODE), BW_KIND_CNODE, v);
    require(invoke(V_OBJECT + POOL_OBJECT, ARMASIDPoolAssign, 1, &vspace, 0, 0), v);
    map_table(OWN(v, OWN_PUD), ARMPageUpperDirectoryMap, vspace, VICTIM_CODE);
    map_table(OWN(v, OWN_PD), ARMPageDirectoryMap, vspace, VICTIM_CODE);
    map_table(OWN(v, OWN_TABLE), ARMPageTableMap, vspace, VICTIM_CODE);

    for (word i = 0; i < CODE_PAGES; i++) {
        make_frame(v, OWN_CODE + i, BW_KIND_CODE);
        fill_frame(OWN(v, OWN_CODE + i), (const byte *)victim_image + i * BW_PAGE, victim_image_end);
        map_frame(OWN(v, OWN_CODE + i), vspace, VICTIM_CODE + i * BW_PAGE, RIGHTS_READ, ATTRIBUTES_CODE);
    }
    make_frame(v, OWN_STATE, BW_KIND_STATE);
    map_frame(OWN(v, OWN_STATE), vspace, VICTIM_STATE, 3, ATTRIBUTES_DATA);
    for (word i = 0; i < EXCHANGE_PAGES; i++) {
        copy(V_SELF, OWN(v, OWN_EXCHANGE + i), 64, V_EXCHANGE + i, 7);
        map_frame(OWN(v, OWN_EXCHANGE + i), vspace, VICTIM_EXCHANGE + i * BW_PAGE, 3, ATTRIBUTES_DATA);
    }
}

static void configure(word tcb, word cnode, word victim, word priority, word fault_handler, word buffer)
{
    word caps[] = {cnode, OWN(victim, OWN_VSPACE), OWN(victim, OWN_STATE)};
    require(invoke(tcb, TCBConfigure, 3, caps, 5, (word[]){fault_handler, priority << 8 | priority, 0, 0, buffer}), tcb);
}

/* Sets program counter, stack pointer and x0. */
void set_registers(word tcb, word resume, word pc, word sp, word x0)
{
    require(invoke(tcb, TCBWriteRegisters, 0, 0, 6, (word[]){resume, 4, pc, sp, 0, x0}), tcb);
}

static void fill_slot(const struct population_slot *s)
{
    word vspace = OWN(s->victim, OWN_VSPACE), root = OWN(s->victim, OWN_CNODE), source = s->source;
    if (s->mapped) {
        if (s->action != SLOT_MOVE && s->type != OBJECT_PAGE_TABLE) {
            copy(V_SELF, V_TEMPORARY, 64, source, s->rights);
            source = V_TEMPORARY;
        }
        if (s->type == OBJECT_PAGE_TABLE)
            map_table(source, ARMPageTableMap, vspace, s->mapped - 1);
        else
            map_frame(source, vspace, s->mapped - 1, s->rights, s->attributes);
    }
    if (s->signalled) {
        struct message m = {.target = source};
        system_call((word)SysSend, &m);
    }
    if (s->action == SLOT_MOVE || source == V_TEMPORARY)
        move(root, s->number, 64, V_SELF, source);
    else if (s->action == SLOT_MINT)
        mint(root, s->number, 64, source, s->rights, s->badge);
    else
        copy(root, s->number, 64, source, s->rights);
}

/* Slots that hold a reply capability are filled when there is one. */
static word holds_reply(const struct population_slot *s)
{
    return s->source >= V_REPLY && s->source < V_EXCHANGE;
}

static void bind(word tcb, word notification)
{
    word source = V_OBJECT + notification - 1;
    require(invoke(tcb, TCBBindNotification, 1, &source, 0, 0), tcb);
}

/*
 * A capability space without a guard at its root, of two bits: slot 1 leads back to the table with
 * a guard that leaves too few bits, slot 2 is the endpoint for faults.
 */
#define MAZE_BITS 2
#define MAZE_HANDLER (2ul << (64 - MAZE_BITS))
static word own_space(const struct helper *h)
{
    word root = V_OBJECT + h->space - 1;
    mint(root, 1, MAZE_BITS, root, 7, (64 - MAZE_BITS - 1) << CNODE_GUARD_SHIFT);
    copy(root, 2, MAZE_BITS, V_OBJECT + h->handler, 7);
    return root;
}

/* The notification by which a performer gets its turn; the normal world's is that of the dispatcher, which lets it run. */
word turn_of(word performer)
{
#ifdef NORMAL_WORLD
    if (performer == NORMAL_WORLD)
        return V_DISPATCHER_TURN;
#endif
    return OWN(performer, OWN_TURN);
}

/* What victims pass their turns with: each waits at its own notification and signals those of the others. */
static void fill_turn_slots(word v)
{
#ifdef NORMAL_WORLD
    const word performers = VICTIMS + 1;
#else
    const word performers = VICTIMS;
#endif
    for (word other = 0; other < performers; other++)
        copy(OWN(v, OWN_CNODE), FIRST_TURN_SLOT + other, 64, turn_of(other), other == v ? RIGHTS_READ : RIGHTS_WRITE);
}

void fill_slots(void)
{
    for (word v = 0; v < VICTIMS; v++)
        configure(OWN(v, OWN_TCB), OWN(v, OWN_CNODE), v, victim_priority[v], victim_fault_handler[v], VICTIM_STATE);
    for (word i = 0; i < HELPERS; i++) {
        const struct helper *h = &helpers[i];
        make(OBJECT_TCB, 0, V_HELPER + i, BW_KIND_TCB, h->victim);
        word root = OWN(h->victim, OWN_CNODE);
        if (h->space)
            root = own_space(h);
        word handler = h->space ? MAZE_HANDLER : h->fault_handler;
        configure(V_HELPER + i, root, h->victim, SUPERVISOR_PRIORITY, handler, 0);
        if (h->notification)
            bind(V_HELPER + i, h->notification);
    }
    for (word i = 0; i < OBJECTS; i++)
        if (objects[i].type == OBJECT_TCB && !objects[i].size_bits)
            configure(V_OBJECT + i, OWN(0, OWN_CNODE), 0, HELPER_PRIORITY, THREAD_FAULT_HANDLER, 0);
    for (const struct population_slot *s = slots; s < slots + SLOT_ENTRIES; s++)
        if (!holds_reply(s))
            fill_slot(s);
}

/* Lets a thread run at the supervisor's priority until it blocks. */
static void start_blocked(word tcb, word kind, word x0)
{
    struct message m = {0};
    set_registers(tcb, 1, victim_image[kind], 0, x0);
    system_call((word)SysYield, &m);
}

void set_priority(word tcb, word priority)
{
    require(invoke(tcb, TCBSetMCPriority, 0, 0, 1, &priority), tcb);
    require(invoke(tcb, TCBSetPriority, 0, 0, 1, &priority), tcb);
}

static void start_nurse(word v)
{
    word nurse = OWN(v, OWN_NURSE), guard = (64 - NURSE_CNODE_BITS) << CNODE_GUARD_SHIFT;
    mint(V_SELF, V_TEMPORARY, 64, OWN(v, OWN_NURSE_CNODE), 7, guard);
    copy(V_TEMPORARY, NURSE_ENDPOINT, 64, OWN(v, OWN_FAULTS), 7);
    copy(V_TEMPORARY, NURSE_THREAD, 64, OWN(v, OWN_TCB), 7);
    configure(nurse, V_TEMPORARY, v, SUPERVISOR_PRIORITY, 0, NURSE_BUFFER);
    erase(V_SELF, V_TEMPORARY);
    start_blocked(nurse, NURSE, v);
    set_priority(nurse, NURSE_PRIORITY);
}

void start_helpers(void)
{
    for (word v = 0; v < VICTIMS; v++)
        start_nurse(v);
    for (word i = 0; i < HELPERS; i++) {
        const struct helper *h = &helpers[i];
        word root = OWN(h->victim, OWN_CNODE), tcb = V_HELPER + i;
        if (h->replied)
            copy(root, h->x0, 64, V_ENDPOINT, 7);
        start_blocked(tcb, h->kind, h->x0);
        if (h->replied) {
            struct message m = {.target = V_ENDPOINT};
            system_call((word)SysRecv, &m);
            require(invoke(V_SELF, CNodeSaveCaller, 0, 0, 2, (word[]){V_REPLY + i, 64}), i);
            erase(root, h->x0);
        }
        set_priority(tcb, HELPER_PRIORITY);
    }
    for (const struct population_slot *s = slots; s < slots + SLOT_ENTRIES; s++)
        if (holds_reply(s))
            fill_slot(s);
}

void start_victims(void)
{
    for (word v = 0; v < VICTIMS; v++) {
        fill_turn_slots(v);
        set_registers(OWN(v, OWN_TCB), 1, victim_image[0], VICTIM_STATE + BW_PAGE, v);
    }
}
