#!/usr/bin/env bash
# Trains on this machine: launch/local.sh [--dry-run] CONFIG WORKDIR [--config.key=value ...]
#
# DEVICES=8      splits the CPU into 8 devices, to try a mesh without an accelerator
# PROCESSES=2    starts 2 processes that share the devices, as the hosts of a pod do; all end when one fails
# PORT=12345     where these processes find each other (a free port unless given)
# --dry-run      prints the commands instead
set -euo pipefail
# shellcheck source=command.sh
source "${BASH_SOURCE[0]%/*}/command.sh"

arguments=()
for argument in "$@"; do
  if [[ $argument == --dry-run ]]; then dry_run=true; else arguments+=("$argument"); fi
done
if ((${#arguments[@]} < 2)); then
  usage >&2
  exit 2
fi
processes=${PROCESSES:-1}
check_count PROCESSES "$processes"
train=(python -m flamingo_jax.train --config="${arguments[0]}" --workdir="${arguments[1]}" "${arguments[@]:2}")

settings=()
if [[ -n ${DEVICES:-} ]]; then
  check_count DEVICES "$DEVICES"
  ((DEVICES % processes == 0)) || fail "DEVICES=$DEVICES cannot be shared evenly by PROCESSES=$processes."
  settings=(JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$((DEVICES / processes)))
fi

if ((processes == 1)); then
  if ((${#settings[@]} > 0)); then train=(env "${settings[@]}" "${train[@]}"); fi
  $dry_run || exec "${train[@]}"
  quoted "${train[@]}"
  exit
fi

port_is_taken() {
  (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null
}
port=${PORT:-$((20000 + RANDOM % 10000))}
check_count PORT "$port"
while [[ -z ${PORT:-} ]] && port_is_taken "$port"; do
  port=$((20000 + RANDOM % 10000))
done
settings+=(PYTHONUNBUFFERED=1 "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$processes")

if $dry_run; then
  for ((i = 0; i < processes; i++)); do
    echo "$(quoted env "${settings[@]}" "JAX_PROCESS_ID=$i" "${train[@]}") &"
  done
  echo wait
  exit
fi

# prefix NUMBER: copies its input, each line marked. It outlives Ctrl-C, so that what the processes say then is seen.
prefix() {
  trap '' INT TERM
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[%s] %s\n' "$1" "$line"
  done
}

pids=()
end_all() {
  if ((${#pids[@]} > 0)); then kill "-$1" "${pids[@]}" 2> /dev/null || true; fi
}
# A first signal lets the processes end; a second one does not wait for that.
signals=0
# shellcheck disable=SC2329  # called by the traps
on_signal() {
  ((signals += 1))
  if ((signals == 1)); then end_all TERM; else end_all KILL; fi
}
trap on_signal INT TERM HUP

prefixes=()
for ((i = 0; i < processes; i++)); do
  exec {output}> >(prefix "$i")
  prefixes+=("$!")
  env "${settings[@]}" "JAX_PROCESS_ID=$i" "${train[@]}" >&"$output" 2>&1 &
  pids+=("$!")
  exec {output}>&-
done

status=0 deadline=""
while ((${#pids[@]} > 0)); do
  sleep 0.2 || true # a signal to all of the terminal's processes ends it early
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2> /dev/null && continue
    code=0
    wait "${pids[i]}" || code=$?
    unset "pids[i]"
    ((code == 0)) && continue
    echo "local.sh: process $i ended with exit code $code." >&2
    ((status == 0)) || continue
    status=$code
    if ((signals == 0)); then
      end_all TERM
      deadline=$((SECONDS + 30)) # peers that wait for it in a collective do not hear SIGTERM
    fi
  done
  if [[ $deadline != "" ]] && ((SECONDS >= deadline)); then end_all KILL; fi
done
wait "${prefixes[@]}" 2> /dev/null || true
exit "$status"
