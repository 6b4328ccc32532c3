/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Code of both worlds' user level, and memory that changes while the Trusted OS reads it.
 *
 * The root task, victims, the Trusted OS and the normal world may run at the same virtual addresses:
 * what tells them apart is where their code lies in physical memory.
 */
#include <inttypes.h>
#include <string.h>

#include "plugin.h"

#define EXCHANGE(name) \
    (*(volatile uint64_t *)(normal_host + (given.exchange - given.normal_base) + BW_EXCHANGE_CHANGE_##name))

/* Where the root task has put the code, by its report, in QEMU's own address space; NULL: it has not said so yet */
static const uint8_t *trusted_code(void)
{
    const uint8_t *report = normal_host + (given.exchange - given.normal_base) + BW_POPULATION_OFFSET;
    uint64_t entries = *(const uint64_t *)(report + BW_POPULATION_ENTRIES);
    for (uint64_t i = 0; i < entries && i < BW_MAXIMUM_POPULATION_ENTRIES; i++) {
        const uint8_t *entry = report + BW_POPULATION_ENTRY + i * BW_POPULATION_ENTRY_BYTES;
        uint64_t place = *(const uint64_t *)(entry + BW_POPULATION_ENTRY_ADDRESS) - given.secure_base;
        if (entry[BW_POPULATION_ENTRY_KIND] == BW_KIND_CODE && entry[BW_POPULATION_ENTRY_VICTIM] == BW_TRUSTED_OS &&
            place <= given.secure_size - given.trusted_bytes)
            return secure_host + place;
    }
    return NULL;
}

bool is_trusted_code(uint64_t address, const uint8_t *host)
{
    static const uint8_t *code;
    uint64_t offset = address - given.trusted;
    if (offset >= given.trusted_bytes || !secure_host)
        return false;
    if (!code)
        code = trusted_code();
    return code && host == code + offset;
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
    qemu_plugin_register_vcpu_mem_cb(instruction, on_trusted_load, CALLBACK_NO_REGISTERS, MEMORY_ACCESSES, NULL);
}
