/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's RAM: shared with the host, compared with the snapshot, restored. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "plugin.h"

uint8_t *secure_host, *normal_host;
static const uint8_t zeros[BW_PAGE] __attribute__((aligned(BW_PAGE)));

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

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
    if (inode != *(uint64_t *)data || access[3] != 's' || end - start < given.normal_size)
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
    return *covered >= (uintptr_t)secure_host + given.secure_size;
}

/* QEMU backs normal RAM with the host's file; find where it has mapped it. */
void find_normal_memory(void)
{
    struct stat file;
    if (fstat(given.normal, &file))
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
void share_secure_memory(uint8_t *host)
{
    secure_host = host;
    uintptr_t covered = (uintptr_t)host;
    each_mapping(extends_secure_memory, &covered);
    if (covered < (uintptr_t)host + given.secure_size)
        fail("secure RAM is not private memory of QEMU at %p", (void *)host);
    uint8_t *copy = map_file(given.secure, given.secure_size);
    for (uint64_t offset = 0; offset < given.secure_size; offset += BW_PAGE)
        if (memcmp(host + offset, zeros, BW_PAGE))
            memcpy(copy + offset, host + offset, BW_PAGE);
    munmap(copy, given.secure_size);
    if (mmap(host, given.secure_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, given.secure, 0) != host)
        fail("secure RAM: %s", strerror(errno));
    LONG(SECURE_HOST_ADDRESS) = (uintptr_t)host;
}

static uint8_t *host_of(uint64_t physical)
{
    if (physical - given.secure_base < given.secure_size)
        return secure_host + (physical - given.secure_base);
    if (physical - given.normal_base < given.normal_size)
        return normal_host + (physical - given.normal_base);
    fail("restore range at %#" PRIx64 " is no RAM", physical);
}

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
    WORD(CHANGED_WORDS) = 0;
    WORD(CODE_CHANGED) = 0;
    snapshot_taken = WORD(SNAPSHOT_READY);
}

/* Lists the words of a changed page of secure RAM that differ; returns how many words have been listed or left out. */
static uint32_t list_words(const struct page *page, uint32_t listed)
{
    if (page->physical - given.secure_base >= given.secure_size)
        return listed;
    uint32_t *number = (uint32_t *)(control + BW_CONTROL_CHANGED_WORD);
    const uint64_t *live = (const uint64_t *)page->live, *saved = (const uint64_t *)page->saved;
    uint32_t first = (page->physical - given.secure_base) / sizeof *live;
    for (uint32_t i = 0; i < BW_PAGE / sizeof *live; i++)
        if (live[i] != saved[i]) {
            if (listed < BW_CHANGED_WORDS)
                number[listed] = first + i;
            listed++;
        }
    return listed;
}

/* Lists the pages that differ from the snapshot, and the words of those of secure RAM. */
void find_changed(void)
{
    if (!snapshot_taken)
        return;
    uint64_t start = now_ns();
    uint64_t *physical = (uint64_t *)(control + BW_CONTROL_CHANGED_PAGE);
    uint32_t found = 0, overflow = 0, code = 0, words = 0;
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
        words = list_words(&pages[i], words);
    }
    WORD(CHANGED) = found;
    WORD(CHANGED_WORDS) = words;
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
    WORD(CHANGED_WORDS) = 0;
    LONG(RESTORE_NS) = now_ns() - start;
}

/* Code at this address is about to run: its page must not change any more. */
void mark_code(const uint8_t *host)
{
    for (uint32_t i = 0; i < page_count; i++)
        if ((uintptr_t)host - (uintptr_t)pages[i].live < BW_PAGE)
            pages[i].code = true;
}

/* A program begins: the snapshot is taken if the host has asked for one, or memory is brought back to it. */
void begin_program_memory(void)
{
    if (WORD(SNAPSHOT_READY) != snapshot_taken)
        take_snapshot();
    restore_memory();
}
