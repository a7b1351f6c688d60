#!/usr/bin/env bash
# Compares a network's sparse build with our dense build, ONNX Runtime and PyTorch, in one interleaved run.
#   scripts/compare_dense.sh [NETWORK [SPARSITY [THREADS]]]
set -euo pipefail
cd "$(dirname "$0")/.."
network=${1:-resnet18} sparsity=${2:-0.75} threads=${3:-1}
subp=$([ -x .venv/bin/subp ] && echo .venv/bin/subp || echo subp)
folder=runs/compare
mkdir -p "$folder"
"$subp" compile "$network" --sparsity "$sparsity" --threads "$threads" -o "$folder/$network.so"
exec "$subp" bench "$folder/$network.so" --model "$network" --sparsity "$sparsity" --against torch,onnxruntime,dense --threads "$threads"
