/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The trusted OS (guest_images/trusted_os): a process of its own, whose threads come before all victims.
 * It gets capabilities to what it needs to serve calls, and no memory but its image and what the
 * machine config gives the normal world, which is mapped at virtual addresses equal to the physical ones.
 */
#include "supervisor.h"
#include "layout.h"

#define RIGHTS_WRITE 1
#define RIGHTS_READ 2
#define RIGHTS_GRANT 4
#define RIGHTS_ALL 7
/* It comes before the nurses, and what it runs for calls before all victims. */
#define DISPATCHER_PRIORITY (NURSE_PRIORITY + 2)
#define THREAD_PRIORITY (NURSE_PRIORITY + 1)

#define MEMORY_FRAMES (NORMAL_MEMORY_BYTES / NORMAL_FRAME)
#define SHARED_FRAMES (NORMAL_SHARED_BYTES / BW_PAGE)
_Static_assert(!(NORMAL_MEMORY % NORMAL_FRAME) && !(NORMAL_MEMORY_BYTES % NORMAL_FRAME), "whole 2 MiB frames");
_Static_assert(NORMAL_SHARED / NORMAL_FRAME == (NORMAL_SHARED + NORMAL_SHARED_BYTES - 1) / NORMAL_FRAME,
               "the shared pages need one page table");
_Static_assert(NORMAL_MEMORY >> seL4_HugePageBits == (NORMAL_SHARED + NORMAL_SHARED_BYTES - 1) >> seL4_HugePageBits,
               "the normal world's memory needs one page directory");

extern const byte trusted_os_image[], trusted_os_image_end[];

static word image(enum image_entry entry)
{
    return ((const word *)trusted_os_image)[entry];
}

/* Before anything else is made of the memory that these addresses are part of */
void take_normal_memory(void)
{
    allocate_at(OBJECT_PAGE_2M, NORMAL_MEMORY, V_NORMAL_MEMORY, MEMORY_FRAMES);
    allocate_at(OBJECT_PAGE_4K, NORMAL_SHARED, V_NORMAL_SHARED, SHARED_FRAMES);
}

/* Objects side by side, reported as one range */
static void make(word type, word bits, word slot, word count, word kind)
{
    word address = allocate(type, bits, 0, slot, count);
    report(address, count << object_bits(type, bits), kind, BW_TRUSTED_OS, BW_NO_OBJECT);
}

static void make_address_space(void)
{
    word vspace = V_TRUSTED_OS_VSPACE, root = vspace;
    make(OBJECT_PAGE_GLOBAL_DIRECTORY, 0, vspace, 1, BW_KIND_PAGE_TABLE);
    make(OBJECT_PAGE_UPPER_DIRECTORY, 0, V_TRUSTED_OS_PUD, 1, BW_KIND_PAGE_TABLE);
    make(OBJECT_PAGE_DIRECTORY, 0, V_TRUSTED_OS_PD, 2, BW_KIND_PAGE_TABLE);
    make(OBJECT_PAGE_TABLE, 0, V_TRUSTED_OS_TABLE, 2, BW_KIND_PAGE_TABLE);
    require(invoke(V_OBJECT + POOL_OBJECT, ARMASIDPoolAssign, 1, &root, 0, 0), vspace);
    map_table(V_TRUSTED_OS_PUD, ARMPageUpperDirectoryMap, vspace, TRUSTED_OS_IMAGE);
    map_table(V_TRUSTED_OS_PD, ARMPageDirectoryMap, vspace, TRUSTED_OS_IMAGE);
    map_table(V_TRUSTED_OS_PD + 1, ARMPageDirectoryMap, vspace, NORMAL_MEMORY);
    map_table(V_TRUSTED_OS_TABLE, ARMPageTableMap, vspace, TRUSTED_OS_IMAGE);
    map_table(V_TRUSTED_OS_TABLE + 1, ARMPageTableMap, vspace, NORMAL_SHARED);

    word code = (image(IMAGE_WRITABLE_START) - TRUSTED_OS_IMAGE) / BW_PAGE;
    for (word i = 0; i < MEMORY_FRAMES; i++)
        map_frame(V_NORMAL_MEMORY + i, vspace, NORMAL_MEMORY + i * NORMAL_FRAME, 3, ATTRIBUTES_DATA);
    for (word i = 0; i < SHARED_FRAMES; i++)
        map_frame(V_NORMAL_SHARED + i, vspace, NORMAL_SHARED + i * BW_PAGE, 3, ATTRIBUTES_DATA);
    make(OBJECT_PAGE_4K, 0, V_TRUSTED_OS_IMAGE, code, BW_KIND_CODE);
    make(OBJECT_PAGE_4K, 0, V_TRUSTED_OS_IMAGE + code, TRUSTED_OS_PAGES - code, BW_KIND_SUPERVISOR);
    for (word i = 0; i < TRUSTED_OS_PAGES; i++) {
        word frame = V_TRUSTED_OS_IMAGE + i, address = TRUSTED_OS_IMAGE + i * BW_PAGE;
        fill_frame(frame, trusted_os_image + i * BW_PAGE, trusted_os_image_end);
        map_frame(frame, vspace, address, i < code ? RIGHTS_READ : 3, i < code ? ATTRIBUTES_CODE : ATTRIBUTES_DATA);
    }
}

/* What signals the dispatcher; and the one line that stands for all interrupts of the normal world */
static void make_events(word root)
{
    word handler = V_FOREIGN_INTERRUPT, signal = V_FOREIGN_SIGNAL;
    make(OBJECT_NOTIFICATION, 0, V_DISPATCHER_EVENTS, 1, BW_KIND_NOTIFICATION);
    copy(root, SLOT_EVENTS, 64, V_DISPATCHER_EVENTS, RIGHTS_READ);
    mint(root, SLOT_THREAD_EVENT, 64, V_DISPATCHER_EVENTS, RIGHTS_WRITE, EVENT_THREAD);
    mint(V_SELF, V_DISPATCHER_TURN, 64, V_DISPATCHER_EVENTS, RIGHTS_WRITE, EVENT_TURN);
    mint(V_SELF, signal, 64, V_DISPATCHER_EVENTS, RIGHTS_WRITE, EVENT_FOREIGN_INTERRUPT);
    require(invoke(V_IRQ_CONTROL, IRQIssueIRQHandler, 1, (word[]){V_SELF}, 3, (word[]){FOREIGN_LINE, handler, 64}), handler);
    require(invoke(handler, IRQSetIRQHandler, 1, &signal, 0, 0), handler);
}

static void make_trusted_thread(word thread, word priority, word buffer_frame, word buffer)
{
    word caps[] = {V_TRUSTED_OS_CNODE, V_TRUSTED_OS_VSPACE, buffer_frame};
    word mr[] = {SLOT_FAULTS, priority << 8 | priority, 0, 0, buffer};
    require(invoke(thread, TCBConfigure, 3, caps, 5, mr), thread);
}

void make_trusted_os(void)
{
    word root = V_TRUSTED_OS_CNODE, ipc_frame = V_TRUSTED_OS_IMAGE;
    if (image(IMAGE_WRITABLE_END) != TRUSTED_OS_IMAGE + TRUSTED_OS_PAGES * BW_PAGE)
        stop(ERROR_IMAGE, image(IMAGE_WRITABLE_END));
    make_address_space();

    make(OBJECT_CNODE, TRUSTED_OS_CNODE_BITS, V_TEMPORARY, 1, BW_KIND_CNODE);
    mint(V_SELF, root, 64, V_TEMPORARY, RIGHTS_ALL, (64 - TRUSTED_OS_CNODE_BITS) << CNODE_GUARD_SHIFT);
    erase(V_SELF, V_TEMPORARY);
    mint(root, SLOT_READY, 64, V_SMC, RIGHTS_ALL, BW_DISPATCHER_READY);
    mint(root, SLOT_DONE, 64, V_SMC, RIGHTS_ALL, BW_DISPATCHER_DONE);
    mint(root, SLOT_RESUME, 64, V_SMC, RIGHTS_ALL, BW_DISPATCHER_RESUME);
    make_events(root);
    make(OBJECT_ENDPOINT, 0, V_TRUSTED_OS_FAULTS, 1, BW_KIND_ENDPOINT);
    copy(root, SLOT_FAULTS, 64, V_TRUSTED_OS_FAULTS, RIGHTS_WRITE | RIGHTS_GRANT);
    for (word v = 0; v < VICTIMS; v++)
        copy(root, SLOT_TURN + v, 64, OWN(v, OWN_TURN), RIGHTS_WRITE);

    for (word i = 0; i < 1 + THREADS; i++)
        make(OBJECT_TCB, 0, V_TRUSTED_OS_THREAD + i, 1, BW_KIND_TCB);
    make(OBJECT_NOTIFICATION, 0, V_TRUSTED_OS_RELEASE, THREADS, BW_KIND_NOTIFICATION);
    ipc_frame += (image(IMAGE_WRITABLE_START) - TRUSTED_OS_IMAGE) / BW_PAGE;
    make_trusted_thread(V_TRUSTED_OS_THREAD, DISPATCHER_PRIORITY, ipc_frame, image(IMAGE_WRITABLE_START));
    for (word i = 0; i < THREADS; i++) {
        word thread = V_TRUSTED_OS_THREAD + 1 + i;
        make_trusted_thread(thread, THREAD_PRIORITY, V_SELF, 0);
        copy(root, SLOT_THREAD + i, 64, thread, RIGHTS_ALL);
        copy(root, SLOT_RELEASE + i, 64, V_TRUSTED_OS_RELEASE + i, RIGHTS_READ | RIGHTS_WRITE);
    }
}

/* Once the supervisor waits: the dispatcher's first call lets the normal world begin. */
void start_trusted_os(void)
{
    word stack = image(IMAGE_THREAD_STACKS);
    set_registers(V_TRUSTED_OS_THREAD, 1, image(IMAGE_DISPATCHER), image(IMAGE_DISPATCHER_STACK), 0);
    for (word i = 0; i < THREADS; i++, stack += STACK_BYTES)
        set_registers(V_TRUSTED_OS_THREAD + 1 + i, 1, image(IMAGE_THREAD), stack, i);
}
