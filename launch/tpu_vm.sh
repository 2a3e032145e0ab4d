#!/usr/bin/env bash
# Trains on Cloud TPU VMs, by queued resources: launch/tpu_vm.sh COMMAND NAME [--option=value ...]
#
#   watch     create, setup and run; again after every preemption; deletes the TPUs when the run has ended
#   create    asks for the TPUs                      status    where the request and each worker are
#   setup     brings the code to every worker        logs      follows the log of one worker
#   run       starts the training on every worker    stop      ends the training; the TPUs stay, and cost
#                                                    delete    gives the TPUs back
# NAME is yours: of the request, and of its workdir unless --workdir is given. run and watch take train's own options:
# --config=configs/flamingo_3b.py --config.key=value --workdir=gs://B/... --accept_changed_config --traceback.
# The workdir's bucket is the folder /gcs/B on every host, also for --config.datasets.NAME.source=/gcs/B/...
# Options that a command has no use for are ignored, so that all can have the same ones:
#
#   --project=P --zone=Z     or CLOUDSDK_CORE_PROJECT and CLOUDSDK_COMPUTE_ZONE      (every command)
#   --tunnel-through-iap     or --internal-ip: how ssh reaches workers without an external address  (all that use ssh)
#   --tpu=v5p:4x4x4          or as Cloud TPU names it, v5p-128                       (create, watch)
#   --slices=2               of that size each, joined by the data center's network  (create, watch)
#   --spot | --reserved      cheaper, and preempted; from a reservation              (create, watch)
#   --service-account=EMAIL  which may read and write the bucket                     (create, watch)
#   --network=N --subnetwork=N --internal-ips --runtime-version=V                    (create, watch)
#   --bucket=gs://B          code goes to B/code, logs to B/logs, the workdir is B/runs/NAME  (setup, run, watch)
#   --commit=HEAD            what is trained with: committed code                    (setup, run, watch)
#   --env=NAME=VALUE         an environment variable of the training; may be repeated  (run, watch)
#   --poll=60 --keep         seconds between two looks; do not delete at the end     (watch)
#   --node=0 --worker=0      which slice, and which of its workers                   (logs)
#   --dry-run                prints the commands instead                             (every command)
set -euo pipefail
# shellcheck source=command.sh
source "${BASH_SOURCE[0]%/*}/command.sh"
# shellcheck source=accelerator.sh
source "${BASH_SOURCE[0]%/*}/accelerator.sh"
# shellcheck source=source_code.sh
source "${BASH_SOURCE[0]%/*}/source_code.sh"

read_command "watch, create, setup, run, status, logs, stop, delete" "$@"
shift 2

project=${CLOUDSDK_CORE_PROJECT:-} zone=${CLOUDSDK_COMPUTE_ZONE:-}
tpu="" slices=1 bucket="" commit=HEAD workdir="" config="" poll=60 keep=false node=0 worker=0 version=""
machine=() ssh=() environment=() train=()
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    --dry-run) dry_run=true ;;
    --project=*) project=$value ;;
    --zone=*) zone=$value ;;
    --tpu=*) tpu=$value ;;
    --slices=*) slices=$value ;;
    --runtime-version=*) version=$value ;;
    --spot | --reserved | --internal-ips | --service-account=* | --network=* | --subnetwork=*) machine+=("$argument") ;;
    --tunnel-through-iap | --internal-ip) ssh+=("$argument") ;;
    --bucket=*) bucket=${value%/} ;;
    --commit=*) commit=$value ;;
    --env=*) check_setting "$value" && environment+=("$value") ;;
    --poll=*) poll=$value ;;
    --keep) keep=true ;;
    --node=*) node=$value ;;
    --worker=*) worker=$value ;;
    --workdir=*) workdir=$value ;;
    --config=*) config=$value train+=("$argument") ;;
    --config.*=* | --accept_changed_config | --traceback) train+=("$argument") ;;
    *) fail "'$argument' is no option of launch/tpu_vm.sh; launch/tpu_vm.sh --help lists them." ;;
  esac
done
[[ $project != "" ]] || fail "Give the cloud project: --project=..., or CLOUDSDK_CORE_PROJECT."
[[ $zone != "" ]] || fail "Give the zone of the TPUs: --zone=..., or CLOUDSDK_COMPUTE_ZONE."
place=(--project="$project" --zone="$zone" --quiet)

if [[ $command == @(create|watch) ]]; then
  [[ $tpu != "" ]] || fail "Give the TPU to ask for, such as --tpu=v5p:4x4x4 or --tpu=v5p-128."
  find_accelerator "$tpu"
  [[ $runtime_version != - ]] || fail "--tpu=$tpu: $generation is not to be had as TPU VMs; use launch/gke.sh."
  check_count --slices "$slices"
  check_count --poll "$poll"
  [[ $version != "" ]] || version=$runtime_version
fi
if [[ $command == @(setup|run|watch) ]]; then
  check_bucket "$bucket"
  find_commit "$commit"
  code="\$HOME/flamingo/$commit"
fi
if [[ $command == @(run|watch) ]]; then
  workdir=${workdir:-$bucket/runs/$name}
  check_training "$config" "$workdir"
  train+=(--workdir="$workdir_folder")
fi

# The service's state on one line, as lines of many workers come interleaved.
show="systemctl show flamingo --property=LoadState,ActiveState,Result,NRestarts,ExecMainCode | sort | paste -sd' '"

create() {
  local nodes=(--node-id="$name")
  if ((slices > 1)); then nodes=(--node-count="$slices" --node-prefix="$name"); fi
  execute gcloud compute tpus queued-resources create "$name" "${place[@]}" --accelerator-type="$accelerator_type" \
    --runtime-version="$version" "${nodes[@]}" --scopes=https://www.googleapis.com/auth/cloud-platform "${machine[@]}"
}

delete() {
  # A request whose TPUs are gone still counts against the quota, so it is always deleted.
  execute gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force
}

# request_state: nothing when there is no such request
request_state() {
  execute gcloud compute tpus queued-resources list "${place[@]}" \
    --filter="name~/queuedResources/$name\$" --format="value(state.state)"
}

describe() {
  execute gcloud compute tpus queued-resources describe "$name" "${place[@]}" --format="value($1)"
}

# on NODE WORKER COMMAND: runs it by ssh
on() {
  execute gcloud compute tpus queued-resources ssh "$name" "${place[@]}" --node="$1" --worker="$2" "${ssh[@]}" \
    --command="$3"
}

setup() {
  upload_code "$bucket" "$commit"
  local fetch="gcloud storage cat $bucket/code/$commit.tar.gz | tar -xz -C $code"
  on all all "set -euo pipefail; mkdir -p $code; $fetch; bash $code/launch/worker.sh setup"
}

run() {
  local words=("$bucket/logs/$name" "$workdir_bucket" "${environment[@]}" -- "${train[@]}")
  on all all "bash $code/launch/worker.sh run $(quoted "${words[@]}")"
}

status() {
  local state
  if ! $dry_run; then
    state=$(request_state)
    echo "${state:-There is no request $name in $zone.}"
    [[ $state == ACTIVE ]] || return 0
  else
    request_state
  fi
  on all all "echo \$(hostname): \$($show)"
}

logs() {
  on "$node" "$worker" "sudo journalctl --unit=flamingo --output=cat --lines=100 --follow"
}

stop() {
  on all all "sudo systemctl disable --quiet flamingo; sudo systemctl stop flamingo"
}

# shellcheck source=watch.sh
source "${BASH_SOURCE[0]%/*}/watch.sh"

"$command"
