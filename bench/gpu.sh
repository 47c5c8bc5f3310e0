#!/usr/bin/env bash
# On a machine with a GPU: parity of every family on CUDA, engine and training throughput. Writes JSON under bench/results (or $OUT).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON:-python3}" -m bench.gpu "$@"
