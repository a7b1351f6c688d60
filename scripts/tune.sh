#!/usr/bin/env bash
# Tunes networks for one target into tuning_logs/TARGET, each at the sparsities below and dense, on one thread.
#   scripts/tune.sh TARGET [NETWORK ...]
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?usage: scripts/tune.sh TARGET [NETWORK ...]}
shift
subp=$([ -x .venv/bin/subp ] && echo .venv/bin/subp || echo subp)
for network in "${@:-resnet18}"; do
    for sparsity in 0.75 0.9 0.5 0; do
        echo "== $network, 1x16, sparsity $sparsity"
        "$subp" tune "$network" --sparsity "$sparsity" --target "$target" --threads 1 --trials 16 --records "tuning_logs/$target"
    done
done
