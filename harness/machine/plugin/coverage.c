/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What of the kernel, the firmware and the Trusted OS ran: executions of static basic blocks, and of the few
 * instructions that change the interrupt controller.
 */
#include <stdlib.h>

#include "plugin.h"

struct leader { uint64_t address, index; };      /* sorted by address */
static const struct leader *leaders;             /* behind them in the file: addresses that are watched */
static uint8_t *coverage;                        /* one saturated counter a block: of the last program */
static uint64_t *counters;                       /* what the guest's translated code increments */
#if PLUGIN_API >= 2
static struct qemu_plugin_scoreboard *scoreboard;
#endif

static const struct leader *find_leader(uint64_t address)
{
    uint64_t low = 0, high = given.leaders;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (leaders[middle].address < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < given.leaders && leaders[low].address == address ? &leaders[low] : NULL;
}

static void count_executions(struct qemu_plugin_insn *instruction, uint64_t index)
{
#if PLUGIN_API < 2
    qemu_plugin_register_vcpu_insn_exec_inline(instruction, INLINE_ADD_U64, counters + index, 1);
#else
    qemu_plugin_u64 counter = {scoreboard, index * sizeof(uint64_t)};
    qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(instruction, INLINE_ADD_U64, counter, 1);
#endif
}

static bool is_watched(uint64_t address)
{
    const uint64_t *watched = (const uint64_t *)(leaders + given.leaders);
    for (uint64_t i = 0; i < given.watched; i++)
        if (watched[i] == address)
            return true;
    return false;
}

static void on_interrupt_write(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    WORD(INTERRUPTS) = 1;
}

/* Moves the counts to the coverage file; both arrays are padded to a multiple of eight elements. */
void publish_coverage(void)
{
    if (!given.blocks)
        return;
#if PLUGIN_API >= 2
    counters = qemu_plugin_scoreboard_find(scoreboard, 0);
#endif
    for (uint64_t i = 0; i < given.blocks; i += 8) {
        uint64_t *from = counters + i, any = 0;
        for (int k = 0; k < 8; k++)
            any |= from[k];
        if (!any) {
            *(uint64_t *)(coverage + i) = 0;
            continue;
        }
        for (int k = 0; k < 8; k++) {
            coverage[i + k] = from[k] > 255 ? 255 : from[k];
            from[k] = 0;
        }
    }
}

void cover_instruction(struct qemu_plugin_insn *instruction, uint64_t address)
{
    const struct leader *leader = given.blocks ? find_leader(address) : NULL;
    if (leader)
        count_executions(instruction, leader->index);
}

void watch_instruction(struct qemu_plugin_insn *instruction, uint64_t address)
{
    if (is_watched(address))
        qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_interrupt_write, CALLBACK_NO_REGISTERS, NULL);
}

void start_coverage(void)
{
    if (given.leaders + given.watched)
        leaders = map_file(given.code, given.leaders * sizeof *leaders + given.watched * sizeof(uint64_t));
    if (!given.blocks)
        return;
    size_t padded = (given.blocks + 7) & ~UINT64_C(7);
    coverage = map_file(given.coverage, padded);
#if PLUGIN_API < 2
    counters = calloc(padded, sizeof *counters);
    if (!counters)
        fail("no memory for counters");
#else
    scoreboard = qemu_plugin_scoreboard_new(padded * sizeof *counters);
#endif
}
