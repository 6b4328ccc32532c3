/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The dispatcher of the Trusted OS: a thread that gives the normal world its turn and takes its calls,
 * one at a time, each by an SMC that returns with the next one (Dispatcher in harness/protocol.py).
 */
#include "supervisor.h"

#ifdef NORMAL_MEMORY

#define PRIORITY (NURSE_PRIORITY + 1)
#define SMC_REGISTERS 8
/* A yielding call of the OEM range: the normal world has nothing to do until it is its turn. */
#define PASS_TURN 0x03000001
#define NOT_SUPPORTED (~0ul)

static word stack[256];
static volatile word *buffer;

/* x0-x7 in, x0-x7 out */
static void call_el3(word x[SMC_REGISTERS])
{
    struct message m = {.target = V_SMC, .info = INFO(ARMSMCCall, 0, SMC_REGISTERS), .mr = {x[0], x[1], x[2], x[3]}};
    for (word i = 4; i < SMC_REGISTERS; i++)
        buffer[IPC_MESSAGE + i] = x[i];
    system_call((word)SysCall, &m);
    for (word i = 0; i < SMC_REGISTERS; i++)
        x[i] = i < 4 ? m.mr[i] : buffer[IPC_MESSAGE + i];
}

static void dispatch(void)
{
    word x[SMC_REGISTERS] = {BW_DISPATCHER_READY};
    for (;;) {
        call_el3(x);
        word function = x[0];
        if (function == BW_DISPATCHER_INTERRUPTED) {
            x[0] = BW_DISPATCHER_RESUME;
            continue;
        }
        x[0] = BW_DISPATCHER_DONE;
        x[1] = NOT_SUPPORTED;
        if (function == PASS_TURN) {
            struct message turn = {.target = V_DISPATCHER_TURN};
            system_call((word)SysRecv, &turn);
            x[1] = 0;
        }
    }
}

void start_dispatcher(void)
{
    make_thread(V_DISPATCHER);
    word notification = allocate(OBJECT_NOTIFICATION, 0, 0, V_DISPATCHER_TURN, 1);
    report(notification, 1ul << seL4_NotificationBits, BW_KIND_NOTIFICATION, 0, BW_NO_OBJECT);
    word frame = allocate(OBJECT_PAGE_4K, 0, 0, V_DISPATCHER_BUFFER, 1);
    report(frame, BW_PAGE, BW_KIND_SUPERVISOR, 0, BW_NO_OBJECT);
    map_frame(V_DISPATCHER_BUFFER, V_VSPACE, DISPATCHER_BUFFER, 3, ATTRIBUTES_DATA);
    buffer = (volatile word *)DISPATCHER_BUFFER;
    word caps[] = {V_SELF, V_VSPACE, V_DISPATCHER_BUFFER};
    word values[] = {0, PRIORITY << 8 | PRIORITY, 0, 0, DISPATCHER_BUFFER};
    require(invoke(V_DISPATCHER, TCBConfigure, 3, caps, 5, values), V_DISPATCHER);
    set_registers(V_DISPATCHER, 1, (word)dispatch, (word)(stack + 256), 0);
}

#endif
