/* SPDX-License-Identifier: BSD-2-Clause */
/* The order of the set-up; its steps are those of harness/programs/population.py. */
#include "supervisor.h"

/* Pages of the supervisor's own address space behind its image, in the page table that the image uses */
#define WINDOW (SUPERVISOR_IMAGE + 0x1f0000ul)
/* The same for larger frames: the tables above are there */
#define LARGE_WINDOW (SUPERVISOR_IMAGE + 0x400000ul)
#define HUGE_WINDOW 0x40000000ul

static void map_exchange(void)
{
    word address = allocate(OBJECT_PAGE_4K, 0, 1, V_EXCHANGE, EXCHANGE_PAGES);
    require(invoke(V_EXCHANGE, ARMPageGetAddress, 0, 0, 0, 0), V_EXCHANGE);
    if (message[0] != EXCHANGE_ADDRESS || address != EXCHANGE_ADDRESS)
        stop(ERROR_ADDRESS, message[0]);
    for (word i = 0; i < EXCHANGE_PAGES; i++)
        map_frame(V_EXCHANGE + i, V_VSPACE, EXCHANGE_WINDOW + i * BW_PAGE, 3, ATTRIBUTES_DATA);
    map_report((volatile byte *)EXCHANGE_WINDOW);
}

/* Writes a frame's physical address into its first word, so that a program can tell what it reads. */
void mark_frame(word frame, word type, word address)
{
    word window = type == OBJECT_PAGE_4K ? WINDOW : type == OBJECT_PAGE_2M ? LARGE_WINDOW : HUGE_WINDOW;
    map_frame(frame, V_VSPACE, window, 3, ATTRIBUTES_DATA);
    *(volatile word *)window = address;
    require(invoke(frame, ARMPageUnmap, 0, 0, 0, 0), frame);
}

/* Writes a page of an image into a small frame. */
void fill_frame(word frame, const byte *image, const byte *end)
{
    map_frame(frame, V_VSPACE, WINDOW, 3, ATTRIBUTES_DATA);
    const word *from = (const word *)image;
    volatile word *to = (volatile word *)WINDOW;
    for (word i = 0; i < BW_PAGE / sizeof(word) && (const byte *)(from + i) < end; i++)
        to[i] = from[i];
    require(invoke(frame, ARMPageUnify_Instruction, 0, 0, 2, (word[]){0, BW_PAGE}), frame);
    require(invoke(frame, ARMPageUnmap, 0, 0, 0, 0), frame);
}

void supervisor_main(const seL4_BootInfo *info)
{
    print("root task\n");
    begin(1);
    ipc_buffer = (volatile word *)info->ipcBuffer;
    if ((word)info + 2 * BW_PAGE > EXCHANGE_WINDOW || (word)info->ipcBuffer + BW_PAGE > EXCHANGE_WINDOW)
        stop(ERROR_IMAGE, (word)info);
    memory_init(info);
    find_own_pages(info);
    begin(2);
    memory_own_space(info);
    begin(3);
    map_exchange();
    report(EXCHANGE_ADDRESS, EXCHANGE_PAGES * BW_PAGE, BW_KIND_EXCHANGE, 0, BW_NO_OBJECT);
    memory_report();
    report_own_pages();
#ifdef NORMAL_MEMORY
    take_normal_memory();
#endif
    begin(4);
    make_objects();
    begin(5);
    for (word v = 0; v < VICTIMS; v++)
        make_victim(v);
#ifdef NORMAL_MEMORY
    make_trusted_os();
#endif
    begin(6);
    fill_slots();
    begin(7);
    start_helpers();
    begin(8);
    start_victims();
    start_wardens();
#ifdef NORMAL_MEMORY
    start_trusted_os();
#endif
    begin(9);
    print("parking\n");
    for (;;) /* from here on the wardens go on */
        require(invoke(V_TCB, TCBSuspend, 0, 0, 0, 0), V_TCB);
}
