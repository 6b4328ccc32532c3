/* SPDX-License-Identifier: BSD-2-Clause */
/* What the plugin's parts share. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"
#include "qemu_api.h"

#define WORD(name) (*(volatile uint32_t *)(control + BW_CONTROL_##name))
#define LONG(name) (*(volatile uint64_t *)(control + BW_CONTROL_##name))

/* Given on the command line as name=number; descriptors are inherited. */
struct parameters {
    uint64_t control, secure, normal, lifeline;  /* descriptors: control file, RAM of both worlds, pipe to the host */
    uint64_t code, coverage;                     /* descriptors: leaders and watched addresses, counters */
    uint64_t blocks;                             /* static basic blocks */
    uint64_t leaders;                            /* those of them to count */
    uint64_t watched;                            /* instructions that write to the interrupt controller */
    uint64_t secure_base, secure_size;           /* physical */
    uint64_t normal_base, normal_size;           /* physical */
    uint64_t window;                             /* virtual address at which the kernel sees secure_base */
    uint64_t firmware_ram;                       /* physical address of the firmware's RAM: report, then message */
    uint64_t message_offset;                     /* of the message in it */
    uint64_t firmware_bytes;                     /* the firmware's code lies in flash at [0, firmware_bytes) */
    uint64_t park;                               /* address at which the firmware waits */
    uint64_t trusted, trusted_bytes;             /* virtual: code of the Trusted OS's user level; 0 bytes: there is none */
    uint64_t normal_code, normal_code_bytes;     /* physical: that of the normal world's program */
    uint64_t exchange;                           /* physical: the exchange area */
};
extern struct parameters given;

extern uint8_t *control;                         /* the control file */
extern uint8_t *secure_host, *normal_host;       /* RAM, in QEMU's own address space */

void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void *map_file(uint64_t fd, size_t bytes);

/* memory.c */
void find_normal_memory(void);
void share_secure_memory(uint8_t *host);
void begin_program_memory(void);
void find_changed(void);
void mark_code(const uint8_t *host);

/* worlds.c */
bool is_trusted_code(uint64_t address, const uint8_t *host);
bool is_normal_code(uint64_t address, const uint8_t *host);
void watch_load(struct qemu_plugin_insn *instruction);

/* coverage.c */
void start_coverage(void);
void cover_instruction(struct qemu_plugin_insn *instruction, uint64_t address);
void watch_instruction(struct qemu_plugin_insn *instruction, uint64_t address);
void publish_coverage(void);
