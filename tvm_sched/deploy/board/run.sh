#!/bin/sh
# Runs the compiled network beside this file; without arguments it says how. RUN_UNDER is a command to put before the program, such as
# "perf stat" or, on another machine, an emulator.
here=$(cd "$(dirname "$0")" && pwd) || exit 2
made_for=$(sed -n 's/^arch //p;/^arch /q' "$here/network.txt" | tr -cd '[:alnum:]_')
if [ -z "$RUN_UNDER" ] && [ "$(uname -m)" != "$made_for" ]; then
    echo "run.sh: this bundle is for $made_for, and this system is $(uname -m)" >&2
    exit 2
fi
exec $RUN_UNDER "$here/bin/runner" "$here" "$@"
