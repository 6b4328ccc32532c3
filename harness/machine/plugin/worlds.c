/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Code of both worlds' user level, and memory that changes while the Trusted OS reads it.
 *
 * Victims, the Trusted OS and the normal world may run at the same virtual addresses. The normal
 * world's program uses physical ones. The Trusted OS's code is told by its place and its content: a
 * victim that had the same instruction at the same address would do what it does.
 */
#include <inttypes.h>
#include <string.h>

#include "plugin.h"

#define INSTRUCTION_BYTES 4
#define EXCHANGE(name) \
    (*(volatile uint64_t *)(normal_host + (given.exchange - given.normal_base) + BW_EXCHANGE_CHANGE_##name))

bool is_trusted_code(uint64_t address, const uint8_t *host)
{
    uint64_t offset = address - given.trusted;
    if (offset >= given.trusted_bytes || !secure_host || (uintptr_t)host - (uintptr_t)secure_host >= given.secure_size)
        return false;
    return !memcmp(host, trusted_code() + offset, INSTRUCTION_BYTES);
}

bool is_normal_code(uint64_t address, const uint8_t *host)
{
    return address - given.normal_code < given.normal_code_bytes && host == normal_host + (address - given.normal_base);
}

/*
 * A program has said (NormalChange) which bytes of shared memory change when the Trusted OS has read
 * their page so often: so a double fetch happens again with each run. The access is over.
 */
static void on_trusted_load(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
    (void)cpu;
    (void)data;
    uint64_t reads = EXCHANGE(READS);
    if (!reads || qemu_plugin_mem_is_store(info))
        return;
    const struct qemu_plugin_hwaddr *place = qemu_plugin_get_hwaddr(info, address);
    if (!place || qemu_plugin_hwaddr_is_io(place))
        return;
    uint64_t changes = EXCHANGE(ADDRESS), bytes = EXCHANGE(BYTES), value = EXCHANGE(VALUE);
    if ((qemu_plugin_hwaddr_phys_addr(place) ^ changes) & -(uint64_t)BW_PAGE)
        return;
    EXCHANGE(READS) = reads - 1;
    uint64_t offset = changes - given.normal_base;
    if (reads == 1 && bytes <= sizeof value && offset <= given.normal_size - bytes)
        memcpy(normal_host + offset, &value, bytes);
}

void watch_load(struct qemu_plugin_insn *instruction)
{
    qemu_plugin_register_vcpu_mem_cb(instruction, on_trusted_load, CALLBACK_NO_REGISTERS, MEMORY_READ, NULL);
}
