/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QEMU plugin: where the guest parks, its memory is restored, and its coverage is counted.
 *
 * The firmware loops at its label `park_pc`. Before that instruction the vCPU's thread comes
 * here and sleeps on a futex in the control file until the host has the next message. All
 * layouts come from harness/protocol.py through protocol.h.
 *
 * Code is told apart by the host address it is fetched from, not only by its virtual address:
 * whatever a program maps at the firmware's or the kernel's addresses is neither.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "plugin.h"

EXPORT int qemu_plugin_version = PLUGIN_API;

#define LEAVE_POLL_NS 200000

struct parameters given;
#define PARAMETER(name) {#name, &given.name}
static const struct { const char *name; uint64_t *value; } parameters[] = {
    PARAMETER(control), PARAMETER(secure), PARAMETER(normal), PARAMETER(lifeline), PARAMETER(code), PARAMETER(coverage),
    PARAMETER(blocks), PARAMETER(leaders), PARAMETER(watched), PARAMETER(secure_base), PARAMETER(secure_size),
    PARAMETER(normal_base), PARAMETER(normal_size), PARAMETER(window), PARAMETER(firmware_ram),
    PARAMETER(message_offset), PARAMETER(firmware_bytes), PARAMETER(park), PARAMETER(trusted),
    PARAMETER(trusted_bytes), PARAMETER(normal_code), PARAMETER(normal_code_bytes), PARAMETER(exchange),
};

uint8_t *control;
static uint8_t *firmware_host;                   /* the flash image, in QEMU's own address space */

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("bothworlds plugin: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    fflush(stderr);
    _exit(70);
}

static long futex(uint32_t *word, int operation, uint32_t value)
{
    return syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

/* ---- park ---- */

static bool parked, ever_parked;
static uint32_t served;                          /* value of `go` that was answered last */

static void publish_report(void)
{
    const uint8_t *report = secure_host + (given.firmware_ram - given.secure_base);
    uint64_t calls = *(const uint64_t *)(report + BW_REPORT_SMC_COUNT);
    if (calls > BW_SMC_LOG_ENTRIES)
        calls = BW_SMC_LOG_ENTRIES;
    memcpy(control + BW_CONTROL_REPORT, report, BW_REPORT_SMC_LOG + calls * BW_SMC_LOG_BYTES);
}

static void answer(void)
{
    __atomic_store_n(&WORD(DONE), served, __ATOMIC_SEQ_CST);
    futex((uint32_t *)(control + BW_CONTROL_DONE), FUTEX_WAKE, 1);
}

static void on_park(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    if (!secure_host)
        fail("the firmware parked before the kernel ran");
    if (!parked) {
        parked = ever_parked = true;
        publish_report();
        publish_coverage();
        if (WORD(TRACK))
            find_changed();
        LONG(PARKS)++;
        answer();
    }
    for (;;) {
        while (__atomic_load_n(&WORD(GO), __ATOMIC_SEQ_CST) == served) {
            if (__atomic_load_n(&WORD(LEAVE), __ATOMIC_SEQ_CST)) {
                /* Back to the firmware's loop, which comes here again: QEMU's main thread gets its turn. */
                nanosleep(&(struct timespec){0, LEAVE_POLL_NS}, NULL);
                return;
            }
            futex((uint32_t *)(control + BW_CONTROL_GO), FUTEX_WAIT, served);
        }
        served = WORD(GO);
        begin_program_memory();
        if (!WORD(STAY))
            break;
        answer();
    }
    memcpy(secure_host + (given.firmware_ram - given.secure_base) + given.message_offset, control + BW_CONTROL_MESSAGE,
           WORD(MESSAGE_BYTES));
    parked = false;
}

/* ---- translation ---- */

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        uint64_t address = qemu_plugin_insn_vaddr(instruction);
        uint8_t *host = qemu_plugin_insn_haddr(instruction);
        if (!firmware_host) {                    /* the very first instruction: the reset vector in flash */
            if (!host || address >= given.firmware_bytes)
                fail("the CPU starts at %#" PRIx64 ", outside the firmware", address);
            firmware_host = host - address;
            find_normal_memory();
            WORD(STAGE) = BW_STAGE_FIRMWARE;
        }
        bool firmware = address < given.firmware_bytes && host == firmware_host + address;
        bool kernel = address - given.window < given.secure_size;
        if (kernel && !secure_host && host) {
            share_secure_memory(host - (address - given.window));
            WORD(STAGE) = BW_STAGE_KERNEL;
        }
        kernel = kernel && host == secure_host + (address - given.window);
        if (!firmware && !kernel && WORD(STAGE) == BW_STAGE_KERNEL)
            WORD(STAGE) = BW_STAGE_ROOT_TASK;
        if (address == given.park) {
            if (firmware)
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_park, CALLBACK_NO_REGISTERS, NULL);
            else
                WORD(REFUSED)++;
        }
        bool trusted = !firmware && !kernel && is_trusted_code(address, host);
        if (firmware || kernel || trusted)
            cover_instruction(instruction, address);
        if (firmware || kernel || is_normal_code(address, host))
            watch_instruction(instruction, address);
        if (trusted)
            watch_load(instruction);
        if (ever_parked && !firmware)
            mark_code(host);
    }
}

/* ---- start ---- */

/* Ends QEMU as soon as no process holds the other end of the pipe: the host died. */
static void *watch_host(void *data)
{
    (void)data;
    char byte;
    while (read(given.lifeline, &byte, 1) > 0 || errno == EINTR)
        errno = 0;
    _exit(71);
}

static void start_watch(void)
{
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, watch_host, NULL))
        fail("no thread: %s", strerror(errno));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_detach(thread);
}

void *map_file(uint64_t fd, size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        fail("cannot map descriptor %" PRIu64 ": %s", fd, strerror(errno));
    return memory;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    const size_t known = sizeof parameters / sizeof *parameters;
    for (int i = 0; i < argc; i++) {
        size_t length = strcspn(argv[i], "=");
        size_t k = 0;
        while (k < known && (strlen(parameters[k].name) != length || strncmp(parameters[k].name, argv[i], length)))
            k++;
        if (k == known || !argv[i][length])
            fail("unknown parameter %s", argv[i]);
        *parameters[k].value = strtoull(argv[i] + length + 1, NULL, 0);
    }
    /* A crash leaves no dump of the guest's memory. */
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    control = map_file(given.control, BW_CONTROL_BYTES);
    served = WORD(GO);
    start_coverage();
    start_watch();
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
