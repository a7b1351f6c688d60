#!/usr/bin/env bash
# Tunes networks (resnet18 where none is named) for CPUs with AVX-512, on this machine, into the records that are shipped. What is recorded
# already is not measured again, so it can be stopped and started at will.
#   scripts/tune_x86_avx512.sh [NETWORK ...]
set -euo pipefail
cd "$(dirname "$0")/.."
exec scripts/tune.sh x86-avx512 "$@"
