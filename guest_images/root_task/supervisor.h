/* SPDX-License-Identifier: BSD-2-Clause */
/* The root task: makes the population, then waits for ever. */
#pragma once

#include "system_call.h"
#include "kernel_interface.h"
#include "protocol.h"

/* One object of the population, or one of what each victim has of itself */
struct object {
    byte type;       /* enum object_type */
    byte size_bits;  /* of untyped memory and capability tables; 1: a thread that stays as it is made */
    byte non_secure; /* world of its memory */
    byte irq;
    byte notification; /* 1 + number of the notification that it signals or is bound to, or 0 */
    word device;       /* physical address of the device that it covers, or 0 */
};

enum object_type {
    OBJECT_UNTYPED,
    OBJECT_TCB,
    OBJECT_ENDPOINT,
    OBJECT_NOTIFICATION,
    OBJECT_CNODE,
    OBJECT_PAGE_1G,
    OBJECT_PAGE_UPPER_DIRECTORY,
    OBJECT_PAGE_GLOBAL_DIRECTORY,
    OBJECT_PAGE_4K,
    OBJECT_PAGE_2M,
    OBJECT_PAGE_TABLE,
    OBJECT_PAGE_DIRECTORY,
    /* not made by Retype */
    OBJECT_ASID_POOL,
    OBJECT_IRQ_HANDLER,
};

enum slot_action { SLOT_COPY, SLOT_MINT, SLOT_MOVE };

struct population_slot {
    byte victim;
    byte number;
    byte action;
    byte rights;
    unsigned short source; /* slot of the supervisor */
    byte type;             /* enum object_type, for what is mapped */
    byte attributes;       /* of the mapping */
    byte signalled;
    word badge;
    word mapped; /* address + 1, or 0 */
};

/* Indices in the victims' table of entries */
enum entry {
    HELPER_SEND = 1,
    HELPER_CALL,
    HELPER_RECEIVE,
    HELPER_VM_FAULT,
    HELPER_UNKNOWN_SYSCALL,
    HELPER_USER_EXCEPTION,
    NURSE,
    RESUME, /* where a victim goes on that was not in a call */
};

struct helper {
    byte victim;
    byte kind;          /* enum entry */
    byte replied;       /* the supervisor receives its call and keeps the reply capability */
    byte fault_handler; /* slot of the victim, or 0 */
    byte notification;  /* 1 + number of the notification that it is bound to, or 0 */
    byte space;         /* 1 + number of the capability table that is the root of its space, or 0 for the victim's */
    byte handler;       /* number of the object that is its fault handler, with a space of its own */
    word x0;            /* the slot or the address that it uses */
};

#include "population.h"
#ifdef NORMAL_MEMORY
#include "layout.h"
#define NORMAL_FRAME (1ul << seL4_LargePageBits)
#endif

/* The supervisor's own capability space */
enum {
    V_TCB = 1,
    V_VSPACE,
    V_IRQ_CONTROL,
    V_ASID_CONTROL,
    V_DOMAIN,
    V_SMC,
    V_BOOT_CNODE,
    V_SELF,
    V_VAULT,
    V_ENDPOINT,
    V_TEMPORARY,
    V_POOL_MEMORY,
    V_WARDEN,
    V_WARDEN_BUFFER,
    V_OTHER_DOMAIN,                /* the thread that ends the other domain's time */
#ifdef NORMAL_MEMORY
    V_DISPATCHER_TURN, /* the trusted OS: what gives the normal world its turn (write only) */
    V_DISPATCHER_EVENTS,
    V_FOREIGN_SIGNAL,
    V_FOREIGN_INTERRUPT,
    V_TRUSTED_OS_FAULTS,
    V_TRUSTED_OS_CNODE,
    V_TRUSTED_OS_VSPACE,
    V_TRUSTED_OS_PUD,
    V_TRUSTED_OS_PD,    /* of its image, and of the normal world's memory */
    V_TRUSTED_OS_TABLE = V_TRUSTED_OS_PD + 2,    /* of its image, and of the shared pages */
    V_TRUSTED_OS_THREAD = V_TRUSTED_OS_TABLE + 2, /* the dispatcher and those that serve its yielding calls */
    V_TRUSTED_OS_RELEASE = V_TRUSTED_OS_THREAD + 1 + THREADS,
    V_TRUSTED_OS_IMAGE = V_TRUSTED_OS_RELEASE + THREADS,
    V_NORMAL_MEMORY = V_TRUSTED_OS_IMAGE + TRUSTED_OS_PAGES, /* 2 MiB frames, and 4 KiB frames that it shares */
    V_NORMAL_SHARED = V_NORMAL_MEMORY + NORMAL_MEMORY_BYTES / NORMAL_FRAME,
    V_NORMAL_END = V_NORMAL_SHARED + NORMAL_SHARED_BYTES / BW_PAGE - 1,
#endif
    V_UNTYPED,                     /* boot untypeds in use */
    V_OBJECT = V_UNTYPED + 24,     /* the population's objects */
    V_HELPER = V_OBJECT + OBJECTS, /* the helpers' threads, then reply capabilities */
    V_REPLY = V_HELPER + HELPERS,
    V_EXCHANGE = V_REPLY + HELPERS,
    V_VICTIM = V_EXCHANGE + EXCHANGE_PAGES,
};
/* What a victim has of itself, from V_VICTIM + victim * VICTIM_SLOTS */
enum {
    OWN_CNODE,
    OWN_VSPACE,
    OWN_PUD,
    OWN_PD,
    OWN_TCB,
    OWN_CNODE_WITHOUT_GUARD,
    OWN_TABLE,
    OWN_FAULTS, /* endpoint of the victim's faults */
    OWN_NURSE,
    OWN_NURSE_CNODE,
    OWN_TURN, /* notification by which the victim gets its turn */
    OWN_STATE,
    OWN_CODE,
    OWN_EXCHANGE = OWN_CODE + CODE_PAGES,
    VICTIM_SLOTS = OWN_EXCHANGE + EXCHANGE_PAGES,
};
#define OWN(victim, what) (V_VICTIM + (victim) * VICTIM_SLOTS + (what))
_Static_assert(OWN(VICTIMS, 0) <= 1 << VAULT_BITS, "the supervisor's capability space is too small");

/* Errors of the root task itself, in POPULATION.error */
enum {
    ERROR_NO_UNTYPED = 0x100, /* detail: size bits, and bit 8 for the non-secure world */
    ERROR_NO_DEVICE,          /* detail: physical address */
    ERROR_ADDRESS,            /* a frame does not lie where it was expected; detail: its address */
    ERROR_IMAGE,              /* the image does not leave room for the supervisor's windows */
};

/* invoke.c */
extern volatile word *ipc_buffer;
extern word message[4]; /* message registers of the last answer */
word invoke(word target, word label, word caps, const word *cap, word length, const word *mr);
void require(word error, word detail);
void stop(word error, word detail) __attribute__((noreturn));
void begin(word step);
void print(const char *text);
void map_report(volatile byte *page);
void report(word address, word size, word kind, word victim, word object);
void retype(word untyped, word type, word bits, word root, word slot, word count);
void copy(word to_root, word to, word to_depth, word from, word rights);
void mint(word to_root, word to, word to_depth, word from, word rights, word data);
void move(word to_root, word to, word to_depth, word from_root, word from);
void erase(word root, word slot);
void map_frame(word frame, word vspace, word address, word rights, word attributes);
void map_table(word table, word label, word vspace, word address);

/* memory.c */
void memory_init(const seL4_BootInfo *info);
void memory_report(void);
void memory_own_space(const seL4_BootInfo *info);
word allocate(word type, word bits, word non_secure, word slot, word count);
word allocate_at(word type, word address, word slot, word count);
word allocate_device(word type, word bits, word device, word slot);
word object_bits(word type, word bits);

void set_registers(word tcb, word resume, word pc, word sp, word x0);
void set_priority(word tcb, word priority);

/* supervisor.c */
#define EXCHANGE_WINDOW (SUPERVISOR_IMAGE + 0x1e0000ul)
#define WARDEN_BUFFER (SUPERVISOR_IMAGE + 0x1f1000ul)
void mark_frame(word frame, word type, word address);
void fill_frame(word frame, const byte *image, const byte *end);

/* warden.c */
void find_own_pages(const seL4_BootInfo *info);
void report_own_pages(void);
void start_wardens(void);

/* trusted_os.c: only of configs with a normal world */
void take_normal_memory(void);
void make_trusted_os(void);
void start_trusted_os(void);

/* victims.c */
void make_objects(void);
void make_thread(word slot);
void make_victim(word victim);
word turn_of(word performer);
void fill_slots(void);
void start_helpers(void);
void start_victims(void);
