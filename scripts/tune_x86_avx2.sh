#!/usr/bin/env bash
# Tunes the networks whose records are shipped, for CPUs with AVX2, on this machine: about 3 minutes a network and sparsity. What is
# recorded already is not measured again, so it can be stopped and started at will.
#   scripts/tune_x86_avx2.sh [NETWORK ...]
set -euo pipefail
cd "$(dirname "$0")/.."
exec scripts/tune.sh x86-avx2 "$@"
