/* SPDX-License-Identifier: BSD-2-Clause */
/* The supervisor's invocations: any error ends the set-up, with the step that failed in the report. */
#include "supervisor.h"

volatile word *ipc_buffer;
word message[4];

static volatile byte *report_page; /* the first exchange page, once it is mapped */
static word entries, current_step;

#define REPORT(field) (*(volatile word *)(report_page + BW_POPULATION_OFFSET + (field)))

void print(const char *text)
{
#ifdef CONFIG_PRINTING
    for (; *text; text++) {
        struct message m = {.target = (word)*text};
        system_call((word)SysDebugPutChar, &m);
    }
#else
    (void)text;
#endif
}

static void print_number(word value)
{
    char text[17] = "0000000000000000";
    for (word i = 0; i < 16; i++)
        text[15 - i] = "0123456789abcdef"[value >> 4 * i & 15];
    print(text);
}

void stop(word error, word detail)
{
    print("root task: error ");
    print_number(error);
    print(" detail ");
    print_number(detail);
    print(" in step ");
    print_number(current_step);
    print("\n");
    if (report_page) {
        REPORT(BW_POPULATION_ERROR) = error;
        REPORT(BW_POPULATION_DETAIL) = detail;
    }
    for (;;)
        wait_for_host(~0ul); /* EL3 reports a park without the nonce */
}

void require(word error, word detail)
{
    if (error)
        stop(error, detail);
}

void begin(word step)
{
    current_step = step;
    if (report_page)
        REPORT(BW_POPULATION_STEP) = step;
}

void map_report(volatile byte *page)
{
    report_page = page;
    for (word i = 0; i < BW_POPULATION_BYTES / sizeof(word); i++)
        REPORT(i * sizeof(word)) = 0;
}

/* Tells the host about a range of physical memory. */
void report(word address, word size, word kind, word victim, word object)
{
    if (entries == BW_MAXIMUM_POPULATION_ENTRIES)
        stop(ERROR_ADDRESS, entries);
    volatile byte *entry = report_page + BW_POPULATION_OFFSET + BW_POPULATION_ENTRY + entries * BW_POPULATION_ENTRY_BYTES;
    *(volatile word *)(entry + BW_POPULATION_ENTRY_ADDRESS) = address;
    *(volatile half *)(entry + BW_POPULATION_ENTRY_SIZE) = (half)size;
    *(volatile byte *)(entry + BW_POPULATION_ENTRY_KIND) = (byte)kind;
    *(volatile byte *)(entry + BW_POPULATION_ENTRY_VICTIM) = (byte)victim;
    *(volatile unsigned short *)(entry + BW_POPULATION_ENTRY_OBJECT) = (unsigned short)object;
    REPORT(BW_POPULATION_ENTRIES) = ++entries;
}

word invoke(word target, word label, word caps, const word *cap, word length, const word *mr)
{
    struct message m = {.target = target, .info = INFO(label, caps, length)};
    for (word i = 0; i < length; i++) {
        if (i < 4)
            m.mr[i] = mr[i];
        else
            ipc_buffer[IPC_MESSAGE + i] = mr[i];
    }
    for (word i = 0; i < caps; i++)
        ipc_buffer[IPC_CAPS + i] = cap[i];
    system_call((word)SysCall, &m);
    for (word i = 0; i < 4; i++)
        message[i] = m.mr[i];
    return INFO_LABEL(m.info) ? 1 + INFO_LABEL(m.info) : 0;
}

void retype(word untyped, word type, word bits, word root, word slot, word count)
{
    require(invoke(untyped, UntypedRetype, 1, &root, 6, (word[]){type, bits, 0, 0, slot, count}), slot);
}

void copy(word to_root, word to, word to_depth, word from, word rights)
{
    require(invoke(to_root, CNodeCopy, 1, (word[]){V_SELF}, 5, (word[]){to, to_depth, from, 64, rights}), from << 16 | to);
}

void mint(word to_root, word to, word to_depth, word from, word rights, word data)
{
    word mr[] = {to, to_depth, from, 64, rights, data};
    require(invoke(to_root, CNodeMint, 1, (word[]){V_SELF}, 6, mr), from << 16 | to);
}

void move(word to_root, word to, word to_depth, word from_root, word from)
{
    require(invoke(to_root, CNodeMove, 1, &from_root, 4, (word[]){to, to_depth, from, 64}), from << 16 | to);
}

void erase(word root, word slot)
{
    require(invoke(root, CNodeDelete, 0, 0, 2, (word[]){slot, 64}), slot);
}

void map_frame(word frame, word vspace, word address, word rights, word attributes)
{
    require(invoke(frame, ARMPageMap, 1, &vspace, 3, (word[]){address, rights, attributes}), address);
}

void map_table(word table, word label, word vspace, word address)
{
    require(invoke(table, label, 1, &vspace, 2, (word[]){address, 3}), address);
}
