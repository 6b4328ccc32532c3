#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Boots the machine under gdb and stops right before the call that fails. Arguments go to gdb: -batch, -x FILE.
cd "$(dirname "$0")" || exit 3
CONSOLE_FILE=$(mktemp) || exit 3
export CONSOLE="file:$CONSOLE_FILE"
echo "The console goes to $CONSOLE_FILE"
exec gdb-multiarch -nx -q -x debug.gdb "$@"
