#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Boots the machine, lets it run the program in its flash, and shows the failure.
# Exit codes: 0 it shows, 1 it does not, 3 a program is missing.
cd "$(dirname "$0")" || exit 3
for program in "${QEMU:-qemu-system-aarch64}" gdb-multiarch; do
    if ! command -v "$program" > /dev/null; then
        echo "$program is missing: install the packages qemu-system-arm and gdb-multiarch" >&2
        exit 3
    fi
done
WORK=$(mktemp -d) || exit 3
export CONSOLE="file:$WORK/console" PIDFILE="$WORK/pid"
trap 'kill "$(cat "$WORK/pid" 2> /dev/null)" 2> /dev/null; rm -rf "$WORK"' EXIT
trap 'exit 143' HUP INT TERM
gdb-multiarch -nx -q -batch -x show.py
code=$?
echo
echo "The console:"
cat "$WORK/console"
exit $code
