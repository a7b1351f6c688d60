#!/usr/bin/env bash
# From a network to an archive that runs on a board without Python: MODEL -> NAME.so -> NAME.tar.gz, in runs/boards.
#   scripts/cross_compile.sh TARGET MODEL [OPTIONS of subp compile]        scripts/cross_compile.sh cortex-a76 resnet18 --sparsity 0.75
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?usage: scripts/cross_compile.sh TARGET MODEL [OPTIONS of subp compile]} model=${2:?usage: scripts/cross_compile.sh TARGET MODEL}
shift 2
subp=$([ -x .venv/bin/subp ] && echo .venv/bin/subp || echo subp)
name=$(basename "${model%.*}")-$target
mkdir -p runs/boards
"$subp" compile "$model" --target "$target" "$@" -o "runs/boards/$name.so"
exec "$subp" bundle "runs/boards/$name.so" -o "runs/boards/$name.tar.gz"
