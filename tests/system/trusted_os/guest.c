/* SPDX-License-Identifier: BSD-2-Clause */
/* A normal world that performs a list of steps (__init__.py writes it) and then waits for ever. */
typedef unsigned long word;

enum kind { CALL, LOAD, STORE, BYTES, TIMED_COPIES };

struct step {
    word kind;
    word x[8];
};

extern const struct step steps[], steps_end[];
extern const unsigned char data[];
word results[512][8];

static void call(const word *x, word *result)
{
    register word x0 __asm__("x0") = x[0];
    register word x1 __asm__("x1") = x[1];
    register word x2 __asm__("x2") = x[2];
    register word x3 __asm__("x3") = x[3];
    register word x4 __asm__("x4") = x[4];
    register word x5 __asm__("x5") = x[5];
    register word x6 __asm__("x6") = x[6];
    register word x7 __asm__("x7") = x[7];
    __asm__ volatile("smc #0"
                     : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3), "+r"(x4), "+r"(x5), "+r"(x6), "+r"(x7)
                     :
                     : "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "memory");
    const word after[] = {x0, x1, x2, x3, x4, x5, x6, x7};
    for (word i = 0; i < 8; i++)
        result[i] = after[i];
}

static word bytes_until_zero(const volatile unsigned char *p, word length)
{
    word count = 0;
    while (count < length && p[count])
        count++;
    return count;
}

/*
 * A call with a message (x0), again and again, with the timer set to expire ever later: from 0 ticks on in
 * steps (x1), as often as x2 says. The call writes x4 bytes, none of them zero, to x3. The interrupt controller's
 * CPU interface is at x5. Result: calls that went wrong, interruptions, and those that came when some of the bytes
 * were written and some not.
 */
static void timed_copies(const word *x, word *result)
{
    volatile unsigned char *destination = (volatile unsigned char *)x[3];
    volatile unsigned int *interface = (volatile unsigned int *)x[5];
    for (word i = 0; i < x[2]; i++) {
        for (word b = 0; b < x[4]; b++)
            destination[b] = 0;
        word registers[8] = {0x32000004, 0, x[0]};
        __asm__ volatile("msr cntp_tval_el0, %0\n\tmsr cntp_ctl_el0, %1\n\tisb" : : "r"(i * x[1]), "r"(1ul));
        for (;;) {
            call(registers, registers);
            if (registers[0] != 0xffff0004)
                break;
            word written = bytes_until_zero(destination, x[4]);
            result[1]++;
            result[2] += written && written < x[4];
            __asm__ volatile("msr cntp_ctl_el0, xzr\n\tisb");
            interface[4] = interface[3]; /* end of interrupt := acknowledge */
            registers[0] = 0x32000003;
        }
        __asm__ volatile("msr cntp_ctl_el0, xzr\n\tisb");
        result[0] += registers[0] || bytes_until_zero(destination, x[4]) != x[4];
    }
}

void perform_steps(void)
{
    word *result = results[0];
    for (const struct step *step = steps; step < steps_end; step++, result += 8) {
        const word *x = step->x;
        switch (step->kind) {
        case CALL:
            call(x, result);
            break;
        case LOAD:
            result[0] = x[1] == 4 ? *(volatile unsigned int *)x[0] : *(volatile word *)x[0];
            break;
        case STORE:
            *(volatile unsigned int *)x[0] = (unsigned int)x[1];
            break;
        case TIMED_COPIES:
            timed_copies(x, result);
            break;
        case BYTES:
            for (word i = 0; i < x[1]; i++)
                ((volatile unsigned char *)x[0])[i] = data[x[2] + i];
            break;
        }
    }
}
