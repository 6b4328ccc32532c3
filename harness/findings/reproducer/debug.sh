#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Boots the machine under gdb and stops right before the call that fails. Arguments go to gdb: -batch, -x FILE.
cd "$(dirname "$0")" || exit 3
WORK=$(mktemp -d) || exit 3
export CONSOLE="file:$WORK/console" PIDFILE="$WORK/pid"
trap 'kill "$(cat "$WORK/pid" 2> /dev/null)" 2> /dev/null; rm -rf "$WORK"' EXIT
trap 'exit 143' HUP TERM
trap : INT # it is gdb's
echo "The console goes to $WORK/console"
gdb-multiarch -nx -q -x debug.gdb "$@"
