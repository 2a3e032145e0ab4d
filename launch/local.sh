#!/usr/bin/env bash
# Trains on this machine: launch/local.sh CONFIG WORKDIR [--config.key=value ...]
# DEVICES=8 launch/local.sh ... splits the CPU into 8 devices, to try a mesh without an accelerator.
set -euo pipefail
if (( $# < 2 )); then
  echo "usage: launch/local.sh CONFIG WORKDIR [--config.key=value ...]" >&2
  exit 2
fi
config=$1
workdir=$2
shift 2
if [[ -n "${DEVICES:-}" ]]; then
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$DEVICES"
fi
exec python -m flamingo_jax.train --config="$config" --workdir="$workdir" "$@"
