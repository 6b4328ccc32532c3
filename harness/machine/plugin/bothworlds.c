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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "protocol.h"
#include "qemu_api.h"

EXPORT int qemu_plugin_version = PLUGIN_API;

#define WORD(name) (*(volatile uint32_t *)(control + BW_CONTROL_##name))
#define LONG(name) (*(volatile uint64_t *)(control + BW_CONTROL_##name))
#define LEAVE_POLL_NS 200000

/* Given on the command line as name=number; descriptors are inherited. */
static uint64_t control_fd, secure_fd, normal_fd, lifeline_fd, code_fd, coverage_fd;
static uint64_t blocks, leader_count;            /* static basic blocks, and those of them to count */
static uint64_t watch_count;                     /* instructions that write to the interrupt controller */
static uint64_t secure_base, secure_size;        /* physical */
static uint64_t normal_base, normal_size;        /* physical */
static uint64_t window;                          /* virtual address at which the kernel sees secure_base */
static uint64_t firmware_ram;                    /* physical address of the firmware's RAM: report, then message */
static uint64_t message_offset;                  /* of the message in it */
static uint64_t firmware_bytes;                  /* the firmware's code lies in flash at [0, firmware_bytes) */
static uint64_t park_address;

static const struct { const char *name; uint64_t *value; } parameters[] = {
    {"control", &control_fd}, {"secure", &secure_fd}, {"normal", &normal_fd}, {"lifeline", &lifeline_fd},
    {"code", &code_fd}, {"coverage", &coverage_fd}, {"blocks", &blocks}, {"leaders", &leader_count},
    {"watched", &watch_count},
    {"secure_base", &secure_base}, {"secure_size", &secure_size},
    {"normal_base", &normal_base}, {"normal_size", &normal_size}, {"window", &window},
    {"firmware_ram", &firmware_ram}, {"message_offset", &message_offset},
    {"firmware_bytes", &firmware_bytes}, {"park", &park_address},
};

static uint8_t *control;
static uint8_t *firmware_host, *secure_host, *normal_host;  /* in QEMU's own address space */
static const uint8_t zeros[BW_PAGE] __attribute__((aligned(BW_PAGE)));

static __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("bothworlds plugin: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    fflush(stderr);
    _exit(70);
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

static long futex(uint32_t *word, int operation, uint32_t value)
{
    return syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

/* ---- memory ---- */

/* Calls `visit` for each line of this process's memory map until it returns true. */
static void each_mapping(bool (*visit)(uintptr_t start, uintptr_t end, const char *access, uint64_t inode, void *data),
                         void *data)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps)
        fail("cannot read /proc/self/maps: %s", strerror(errno));
    char line[512];
    while (fgets(line, sizeof line, maps)) {
        uintptr_t start, end;
        uint64_t inode;
        char access[8];
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s %*s %*s %" SCNu64, &start, &end, access, &inode) == 4 &&
            visit(start, end, access, inode, data))
            break;
    }
    fclose(maps);
}

static bool is_normal_memory(uintptr_t start, uintptr_t end, const char *access, uint64_t inode, void *data)
{
    if (inode != *(uint64_t *)data || access[3] != 's' || end - start < normal_size)
        return false;
    normal_host = (uint8_t *)start;
    return true;
}

static bool extends_secure_memory(uintptr_t start, uintptr_t end, const char *access, uint64_t inode, void *data)
{
    uintptr_t *covered = data;
    if (start <= *covered && *covered < end) {
        if (inode || strncmp(access, "rw-p", 4))
            return true;
        *covered = end;
    }
    return *covered >= (uintptr_t)secure_host + secure_size;
}

/* QEMU backs normal RAM with the host's file; find where it has mapped it. */
static void find_normal_memory(void)
{
    struct stat file;
    if (fstat(normal_fd, &file))
        fail("normal RAM: %s", strerror(errno));
    uint64_t inode = file.st_ino;
    each_mapping(is_normal_memory, &inode);
    if (!normal_host)
        fail("QEMU does not map the file of normal RAM");
}

/*
 * QEMU offers no way to share secure RAM with another process: replace its private pages by
 * the host's file, with the same content at the same address.
 */
static void share_secure_memory(uint8_t *host)
{
    secure_host = host;
    uintptr_t covered = (uintptr_t)host;
    each_mapping(extends_secure_memory, &covered);
    if (covered < (uintptr_t)host + secure_size)
        fail("secure RAM is not private memory of QEMU at %p", (void *)host);
    uint8_t *copy = mmap(NULL, secure_size, PROT_READ | PROT_WRITE, MAP_SHARED, secure_fd, 0);
    if (copy == MAP_FAILED)
        fail("secure RAM: %s", strerror(errno));
    for (uint64_t offset = 0; offset < secure_size; offset += BW_PAGE)
        if (memcmp(host + offset, zeros, BW_PAGE))
            memcpy(copy + offset, host + offset, BW_PAGE);
    munmap(copy, secure_size);
    if (mmap(host, secure_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, secure_fd, 0) != host)
        fail("secure RAM: %s", strerror(errno));
    LONG(SECURE_HOST_ADDRESS) = (uintptr_t)host;
}

static uint8_t *host_of(uint64_t physical)
{
    if (physical - secure_base < secure_size)
        return secure_host + (physical - secure_base);
    if (physical - normal_base < normal_size)
        return normal_host + (physical - normal_base);
    fail("restore range at %#" PRIx64 " is no RAM", physical);
}

/* ---- snapshot ---- */

struct page {
    uint8_t *live;
    const uint8_t *saved;
    uint64_t physical;
    bool code;                                   /* held code that ran since the snapshot */
};
static struct page *pages;
static uint32_t page_count, snapshot_taken;
static uint32_t changed[BW_CHANGED_PAGES];       /* indices of pages */

static void take_snapshot(void)
{
    static uint8_t *copy;
    free(pages);
    free(copy);
    page_count = 0;
    uint32_t ranges = WORD(RANGES);
    const uint64_t *range = (const uint64_t *)(control + BW_CONTROL_RANGE);
    for (uint32_t i = 0; i < ranges; i++)
        page_count += range[2 * i + 1] / BW_PAGE;
    pages = calloc(page_count + 1, sizeof *pages);
    copy = aligned_alloc(BW_PAGE, (size_t)(page_count + 1) * BW_PAGE);
    if (!pages || !copy)
        fail("no memory for the snapshot");
    struct page *page = pages;
    for (uint32_t i = 0; i < ranges; i++)
        for (uint64_t offset = 0; offset < range[2 * i + 1]; offset += BW_PAGE, page++) {
            page->physical = range[2 * i] + offset;
            page->live = host_of(page->physical);
            page->saved = memcpy(copy + (page - pages) * BW_PAGE, page->live, BW_PAGE);
            /* Most of an arena: one page of zeros stays in the host's nearest cache. */
            if (!memcmp(page->saved, zeros, BW_PAGE))
                page->saved = zeros;
        }
    WORD(CHANGED) = 0;
    WORD(CODE_CHANGED) = 0;
    snapshot_taken = WORD(SNAPSHOT_READY);
}

static void find_changed(void)
{
    uint64_t start = now_ns();
    uint64_t *physical = (uint64_t *)(control + BW_CONTROL_CHANGED_PAGE);
    uint32_t found = 0, overflow = 0, code = 0;
    for (uint32_t i = 0; i < page_count; i++) {
        if (!memcmp(pages[i].live, pages[i].saved, BW_PAGE))
            continue;
        code |= pages[i].code;
        if (found == BW_CHANGED_PAGES) {
            overflow++;
            continue;
        }
        physical[found] = pages[i].physical;
        changed[found++] = i;
    }
    WORD(CHANGED) = found;
    WORD(OVERFLOW) = overflow;
    if (code)
        WORD(CODE_CHANGED) = 1;
    LONG(COMPARE_NS) = now_ns() - start;
}

static void restore_memory(void)
{
    if (!snapshot_taken || WORD(RESTORE) == BW_RESTORE_NONE)
        return;
    if (WORD(RESTORE) == BW_RESTORE_COMPARED)
        find_changed();
    uint64_t start = now_ns();
    uint32_t omitted = WORD(OMIT_PAGE), count = WORD(CHANGED);
    for (;;) {
        for (uint32_t i = 0; i < count; i++)
            if (i + 1 != omitted)
                memcpy(pages[changed[i]].live, pages[changed[i]].saved, BW_PAGE);
        if (!WORD(OVERFLOW))
            break;
        find_changed();                          /* more pages had changed than the list holds */
        count = WORD(CHANGED);
        omitted = 0;
    }
    WORD(CHANGED) = 0;
    LONG(RESTORE_NS) = now_ns() - start;
}

static void mark_code(const uint8_t *host)
{
    for (uint32_t i = 0; i < page_count; i++)
        if ((uintptr_t)host - (uintptr_t)pages[i].live < BW_PAGE)
            pages[i].code = true;
}

/* ---- coverage ---- */

struct leader { uint64_t address, index; };      /* sorted by address */
static const struct leader *leaders;             /* behind them in the file: addresses that are watched */
static uint8_t *coverage;                        /* one saturated counter a block: of the last program */
static uint64_t *counters;                       /* what the guest's translated code increments */
#if PLUGIN_API >= 2
static struct qemu_plugin_scoreboard *scoreboard;
#endif

static const struct leader *find_leader(uint64_t address)
{
    uint64_t low = 0, high = leader_count;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (leaders[middle].address < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < leader_count && leaders[low].address == address ? &leaders[low] : NULL;
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
    const uint64_t *watched = (const uint64_t *)(leaders + leader_count);
    for (uint64_t i = 0; i < watch_count; i++)
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
static void publish_coverage(void)
{
#if PLUGIN_API >= 2
    counters = qemu_plugin_scoreboard_find(scoreboard, 0);
#endif
    for (uint64_t i = 0; i < blocks; i += 8) {
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

/* ---- park ---- */

static bool parked, ever_parked;
static uint32_t served;                          /* value of `go` that was answered last */

static void publish_report(void)
{
    const uint8_t *report = secure_host + (firmware_ram - secure_base);
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
        if (blocks)
            publish_coverage();
        if (snapshot_taken && WORD(TRACK))
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
        if (WORD(SNAPSHOT_READY) != snapshot_taken)
            take_snapshot();
        restore_memory();
        if (!WORD(STAY))
            break;
        answer();
    }
    memcpy(secure_host + (firmware_ram - secure_base) + message_offset, control + BW_CONTROL_MESSAGE,
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
            if (!host || address >= firmware_bytes)
                fail("the CPU starts at %#" PRIx64 ", outside the firmware", address);
            firmware_host = host - address;
            find_normal_memory();
            WORD(STAGE) = BW_STAGE_FIRMWARE;
        }
        bool firmware = address < firmware_bytes && host == firmware_host + address;
        bool kernel = address - window < secure_size;
        if (kernel && !secure_host && host) {
            share_secure_memory(host - (address - window));
            WORD(STAGE) = BW_STAGE_KERNEL;
        }
        kernel = kernel && host == secure_host + (address - window);
        if (!firmware && !kernel && WORD(STAGE) == BW_STAGE_KERNEL)
            WORD(STAGE) = BW_STAGE_ROOT_TASK;
        if (address == park_address) {
            if (firmware)
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_park, CALLBACK_NO_REGISTERS, NULL);
            else
                WORD(REFUSED)++;
        }
        if (blocks && (firmware || kernel)) {
            const struct leader *leader = find_leader(address);
            if (leader)
                count_executions(instruction, leader->index);
        }
        if (kernel && is_watched(address))
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_interrupt_write, CALLBACK_NO_REGISTERS, NULL);
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
    while (read(lifeline_fd, &byte, 1) > 0 || errno == EINTR)
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

static void *map_file(uint64_t fd, size_t bytes)
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
    control = map_file(control_fd, BW_CONTROL_BYTES);
    served = WORD(GO);
    if (leader_count + watch_count)
        leaders = map_file(code_fd, leader_count * sizeof *leaders + watch_count * sizeof(uint64_t));
    if (blocks) {
        size_t padded = (blocks + 7) & ~UINT64_C(7);
        coverage = map_file(coverage_fd, padded);
#if PLUGIN_API < 2
        counters = calloc(padded, sizeof *counters);
        if (!counters)
            fail("no memory for counters");
#else
        scoreboard = qemu_plugin_scoreboard_new(padded * sizeof *counters);
#endif
    }
    start_watch();
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
