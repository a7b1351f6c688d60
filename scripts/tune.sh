#!/usr/bin/env bash
# Tunes networks for one target, each at the sparsities below and dense, on each of THREADS threads [1 2]. Every measurement goes into
# runs/tuning/TARGET, where a run that was stopped goes on; the fastest of each kernel into tuning_logs/TARGET, which is shipped.
# TRIALS [16]: tiles measured a kernel. TUNE_OPTIONS: further options of 'subp tune'.
#   scripts/tune.sh TARGET [NETWORK ...]
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?usage: scripts/tune.sh TARGET [NETWORK ...]}
shift
subp=$([ -x .venv/bin/subp ] && echo .venv/bin/subp || echo subp)
[ $# -gt 0 ] || set -- resnet18 resnet34 resnet50 mobilenet_v1 mobilenet_v2
for network in "$@"; do
    for sparsity in 0.75 0.9 0 0.5; do
        for threads in ${THREADS:-1 2}; do
            echo "== $network, 1x16, sparsity $sparsity, threads $threads"
            "$subp" tune "$network" --sparsity "$sparsity" --target "$target" --threads "$threads" --trials "${TRIALS:-16}" \
                --records "runs/tuning/$target" --best "tuning_logs/$target" ${TUNE_OPTIONS:-}
        done
    done
done
