// SPDX-License-Identifier: BSD-2-Clause
// Empty: cargo wants a target, and only its downloads are used.
