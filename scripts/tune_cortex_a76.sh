#!/usr/bin/env bash
# Tunes networks (the five of the benchmark suite where none is named) for Cortex-A76, on the boards that a TVM RPC tracker lists under a key; see
# scripts/tune.sh and docs/boards_tuning.md.
#   scripts/tune_cortex_a76.sh HOST:PORT KEY [NETWORK ...]
set -euo pipefail
cd "$(dirname "$0")/.."
export TUNE_OPTIONS="--tracker ${1:?usage: scripts/tune_cortex_a76.sh HOST:PORT KEY [NETWORK ...]} --key ${2:?the key of the boards}"
shift 2
exec scripts/tune.sh cortex-a76 "$@"
