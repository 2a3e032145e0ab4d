#!/usr/bin/env bash
# What tpu_vm.sh calls on every host of a TPU VM, in the folder of one commit of the code. Not for typing.
#
#   worker.sh setup            installs Cloud Storage FUSE, and the package into a virtual environment of this folder
#   worker.sh run LOG BUCKET [NAME=VALUE ...] -- ARGS
#                              starts `python -m flamingo_jax.train ARGS` as a systemd service, which outlives the
#                              connection, restarts it when it fails, and starts it again when the machine reboots, each
#                              time with BUCKET mounted; NAME=VALUE are environment variables
#   worker.sh keep_log LOG     copies the end of the service's log into the folder LOG, gs://...
#   worker.sh --dry-run ...    prints the commands instead
set -euo pipefail
# shellcheck source=command.sh
source "${BASH_SOURCE[0]%/*}/command.sh"
code=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
units=${UNITS:-/etc/systemd/system}

# try_often WORD...: the package index and the metadata server refuse some of many hosts that ask at once.
try_often() {
  local attempt
  for attempt in 1 2 3 4 5; do
    execute "$@" && return
    echo "worker.sh: attempt $attempt of 5 failed: $(quoted "$@")" >&2
    $dry_run || sleep $((attempt * 5))
  done
  return 1
}

# The images of TPU VMs have an older Python than the package needs; uv brings its own, without apt and its locks.
setup() {
  [[ ! -e $code/.venv/complete ]] || return 0
  # By its help, as an image may have one that is too old for with_bucket.sh.
  [[ $(gcsfuse --help 2>&1) == *--enable-streaming-writes* ]] || try_often sudo "$code/launch/install_gcsfuse.sh"
  execute sudo install --directory --owner="$(id -un)" "$gcs" # one mounts only on what one may write to
  try_often env PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  try_often "$HOME/.local/bin/uv" venv --quiet --clear --python=3.12 "$code/.venv"
  try_often "$HOME/.local/bin/uv" pip install --quiet --python="$code/.venv/bin/python" --editable="${code}[tpu]"
  execute touch "$code/.venv/complete"
}

command_file() {
  local setting
  echo "cd $(quoted "$code")"
  for setting in "${settings[@]}"; do
    echo "export $(quoted "$setting")"
  done
  echo "exec launch/with_bucket.sh $(quoted "$bucket") .venv/bin/python -m flamingo_jax.train $(quoted "$@")"
}

# KillMode=mixed: SIGTERM goes to the trainer alone, not to its data workers or gcsfuse, which it needs until it ends. They
# are killed then; every start of the service, and so every boot, mounts the bucket anew.
# The user of the ssh connection mounts, too: FUSE lets users do that, and what root mounts it keeps to itself.
# libtpu leaves its lock file behind when it is killed, and then takes the TPU to be in use.
# The limit on starts ends a job that cannot run; hosts that lost a peer start again and meet it. 65: a training that
# diverged would diverge again (docs/operation.md).
unit_file() {
  cat << UNIT
[Unit]
Description=flamingo_jax
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=3600
StartLimitBurst=10

[Service]
User=$(id -un)
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin
ExecStartPre=-+/bin/rm -f /tmp/libtpu_lockfile
ExecStart=/bin/bash $code/command.sh
ExecStopPost=-+/bin/bash $code/launch/worker.sh keep_log $log
Restart=on-failure
RestartPreventExitStatus=65
RestartSec=20
KillMode=mixed
TimeoutStopSec=600
LimitNOFILE=1048576
LimitMEMLOCK=infinity

[Install]
WantedBy=multi-user.target
UNIT
}

run() {
  log=$1 bucket=$2
  shift 2
  settings=(PYTHONUNBUFFERED=1 'JAX_PLATFORMS=tpu,cpu') # without the second a broken TPU means training on the CPU
  while [[ $1 != -- ]]; do
    settings+=("$1")
    shift
  done
  shift
  local text
  text=$(command_file "$@")
  if ! $dry_run && systemctl is-active --quiet flamingo; then
    local started
    started=$(systemctl show flamingo --property=ExecStart)
    [[ $started == *"$code/command.sh"* && $text == "$(< "$code/command.sh")" ]] && return
    echo "worker.sh: Another command is at work on $(hostname); stop it first: launch/tpu_vm.sh stop." >&2
    return 1
  fi
  write "$code/command.sh" "$text"
  write "$units/flamingo.service" "$(unit_file)" sudo
  execute sudo systemctl daemon-reload
  execute sudo systemctl reset-failed flamingo || true # counts starts anew; fails when there was none
  execute sudo systemctl enable --quiet flamingo
  execute sudo systemctl restart --no-block flamingo
}

keep_log() {
  local name
  name=$(hostname)-$(date +%Y%m%d-%H%M%S).log
  if $dry_run; then
    echo "journalctl --unit=flamingo --output=cat --lines=5000 | $(quoted gcloud storage cp - "$1/$name")"
  else
    journalctl --unit=flamingo --output=cat --lines=5000 | gcloud storage cp - "$1/$name"
  fi
}

if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
case ${1:-} in
  setup | run | keep_log) "$@" ;;
  *)
    usage >&2
    exit 2
    ;;
esac
