#!/usr/bin/env bash
# Snakemake runs this in the root of the project, with the new environment active.
set -euo pipefail
accelerator=$(command -v nvidia-smi > /dev/null && echo cuda || echo cpu)
python -m pip install --require-hashes -r "containers/locks/run-${accelerator}.txt" \
  || python -m pip install --require-hashes -r containers/locks/run-cuda.txt
python -m pip install --no-deps --no-build-isolation -e .
