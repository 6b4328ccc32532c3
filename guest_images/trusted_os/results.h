/* SPDX-License-Identifier: BSD-2-Clause */
/* Results and origins of the GlobalPlatform TEE Client API, as services and interfaces answer with them. */
#pragma once

enum tee_result {
    TEE_SUCCESS = 0,
    TEE_CANCELLED = 0xffff0002,
    TEE_EXCESS_DATA = 0xffff0004,
    TEE_BAD_PARAMETERS = 0xffff0006,
    TEE_ITEM_NOT_FOUND = 0xffff0008,
    TEE_NOT_SUPPORTED = 0xffff000a,
    TEE_OUT_OF_MEMORY = 0xffff000c,
    TEE_BUSY = 0xffff000d,
    TEE_SHORT_BUFFER = 0xffff0010,
};

enum tee_origin {
    ORIGIN_TEE = 3,
    ORIGIN_SERVICE = 4, /* the trusted application, in the words of the interface */
};
