#!/usr/bin/env bash
# From a network to an archive that runs on a board without Python: MODEL -> runs/boards/NAME.so -> runs/boards/NAME.tar.gz.
#   scripts/cross_compile.sh TARGET MODEL NAME [OPTIONS of subp compile]
#   scripts/cross_compile.sh cortex-a76 resnet18 r18-75 --sparsity 0.75
set -euo pipefail
cd "$(dirname "$0")/.."
usage="usage: scripts/cross_compile.sh TARGET MODEL NAME [OPTIONS of subp compile]"
target=${1:?$usage} model=${2:?$usage} name=${3:?$usage}
shift 3
subp=$([ -x .venv/bin/subp ] && echo .venv/bin/subp || echo subp)
mkdir -p runs/boards
"$subp" compile "$model" --target "$target" "$@" -o "runs/boards/$name.so"
exec "$subp" bundle "runs/boards/$name.so" -o "runs/boards/$name.tar.gz"
