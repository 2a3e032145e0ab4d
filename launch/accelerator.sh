# shellcheck shell=bash disable=SC2034  # to be sourced: the variables are its result
# The TPU generations that the launchers know, and what follows from a name such as v5p-128 or v5p:4x4x4.
#
# cores: by which Cloud TPU counts in the names of its accelerator types, per chip
# one, many: chips of a slice that has one host, at most; chips of each host of a larger slice
#
#                  Cloud TPU: type and runtime            GKE: label and machine
# name   cores  type       runtime              label                machine         axes one many
accelerators="
  v4     2      v4         tpu-ubuntu2204-base  tpu-v4-podslice      ct4p-hightpu    3    4   4
  v5e    1      v5litepod  v2-alpha-tpuv5-lite  tpu-v5-lite-podslice ct5lp-hightpu   2    8   4
  v5p    2      v5p        v2-alpha-tpuv5       tpu-v5p-slice        ct5p-hightpu    3    4   4
  v6e    1      v6e        v2-alpha-tpuv6e      tpu-v6e-slice        ct6e-standard   2    8   4
  tpu7x  2      -          -                    tpu7x                tpu7x-standard  3    4   4
"

# find_accelerator NAME: sets generation, topology (empty in v5p-128), chips, hosts, accelerator_type, runtime_version,
# gke_label, gke_machine. NAME is GENERATION:TOPOLOGY or Cloud TPU's own.
find_accelerator() {
  local name=$1 asked count cores type axes one many axis known=""
  generation="" topology=""
  if [[ $name =~ ^([a-z0-9]+):([1-9][0-9]*(x[1-9][0-9]*)+)$ ]]; then
    asked=${BASH_REMATCH[1]} topology=${BASH_REMATCH[2]}
  elif [[ $name =~ ^([a-z0-9]+)-([1-9][0-9]*)$ ]]; then
    asked=${BASH_REMATCH[1]} count=${BASH_REMATCH[2]}
  else
    fail "--tpu='$name' is no TPU; give GENERATION:TOPOLOGY, such as v5p:4x4x4, or Cloud TPU's name, such as v5p-128."
  fi
  while read -r generation cores type runtime_version gke_label gke_machine axes one many; do
    [[ $generation == "" ]] && continue
    [[ $asked == "$generation" || $asked == "$type" ]] && break
    known+="${known:+, }$generation"
  done <<< "$accelerators"
  [[ $generation != "" ]] || fail "--tpu=$name: there is no TPU '$asked' in launch/accelerator.sh; known are $known."

  if [[ $topology != "" ]]; then
    chips=1 count=0
    for axis in ${topology//x/ }; do
      ((chips *= axis, count += 1))
    done
    ((count == axes)) || fail "--tpu=$name: a topology of $generation has $axes numbers, not $count."
  else
    ((count % cores == 0)) || fail "--tpu=$name: $generation has $cores cores a chip, and $count is odd."
    chips=$((count / cores))
  fi
  hosts=1
  if ((chips > one)); then
    ((chips % many == 0)) || fail "--tpu=$name: $chips chips are no whole hosts of $many."
    hosts=$((chips / many))
  fi
  accelerator_type=$type-$((chips * cores))
}
