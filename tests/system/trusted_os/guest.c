/* SPDX-License-Identifier: BSD-2-Clause */
/* A normal world that performs a list of steps (__init__.py writes it) and then waits for ever. */
typedef unsigned long word;

enum kind { CALL, LOAD, STORE, BYTES };

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
        case BYTES:
            for (word i = 0; i < x[1]; i++)
                ((volatile unsigned char *)x[0])[i] = data[x[2] + i];
            break;
        }
    }
}
