#!/usr/bin/env bash
# Tunes networks (the five of the benchmark suite where none is named) for CPUs with AVX2, on this machine; see scripts/tune.sh.
#   scripts/tune_x86_avx2.sh [NETWORK ...]
set -euo pipefail
cd "$(dirname "$0")/.."
exec scripts/tune.sh x86-avx2 "$@"
