/* SPDX-License-Identifier: BSD-2-Clause */
/* Registers of the interrupt controller (GICv2). Secure accesses see both groups. */
#pragma once

/* Distributor */
#define GICD_CTLR               0x000
#define GICD_TYPER              0x004
#define GICD_IGROUPR            0x080
#define GICD_ISENABLER          0x100
#define GICD_ISACTIVER          0x300
#define GICD_IPRIORITYR         0x400
#define GICD_ITARGETSR          0x800
#define GICD_ICFGR              0xc00
#define GICD_CPENDSGIR          0xf10
#define GICD_SPENDSGIR          0xf20
#define CLEAR_REGISTERS         0x080           /* from a register that sets bits to the one that clears them */
/* CPU interface */
#define GICC_CTLR               0x000
#define GICC_PMR                0x004
#define GICC_BPR                0x008
#define GICC_ABPR               0x01c
#define GICC_APR                0x0d0
#define GICC_NSAPR              0x0e0
/* In GICC_CTLR: interrupts of Group 1 are signalled. */
#define CONTROL_GROUP1          (1 << 1)
