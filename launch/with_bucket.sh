#!/usr/bin/env bash
# Runs a command where a bucket is a folder: launch/with_bucket.sh [--dry-run] BUCKET COMMAND [ARGUMENT ...]
#
# Mounts the bucket at /gcs/BUCKET by Cloud Storage FUSE, unless it is there, and becomes the command. The service of a
# TPU VM and the containers of GKE begin with it.
# --dry-run      prints the commands instead
set -euo pipefail
# shellcheck source=command.sh
source "${BASH_SOURCE[0]%/*}/command.sh"

if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
if (($# < 2)); then
  usage >&2
  exit 2
fi
bucket=${1#gs://}
shift
[[ $bucket =~ ^$bucket_pattern$ ]] || fail "'$bucket' is no bucket; give its name alone, without a folder."
folder=$gcs/$bucket

# For many hosts that share a run; gcsfuse 2.9.1 and later know these. The user who trains mounts, and owns all files.
# Nobody else needs them, so there is no allow_other, which a user may not say without root's leave.
options=(
  # Files that gcloud put into a bucket without hierarchical namespace have no object for their folder.
  --implicit-dirs
  # A host looks for what another has just written. On TPUs' hosts gcsfuse 3 never forgets what it knows of a file,
  # unless told to; 0 also ends its memory of files that were not there.
  --metadata-cache-ttl-secs=0
  # What is synced must be in the bucket: a checkpoint refers to metrics in files that stay open, and TensorBoard reads
  # such. gcsfuse 3 would show a new file once it is closed, and never where the host was preempted before.
  --enable-streaming-writes=false
  # A checkpoint is a folder that gets its name when it is complete. Without hierarchical namespace that is done object
  # by object, and for no folder that holds more of them than this; gcsfuse 3 takes the same for TPUs' hosts.
  --rename-dir-limit=200000
)

if ! mountpoint -q "$folder" 2> /dev/null; then
  $dry_run || command -v gcsfuse > /dev/null ||
    fail "gcsfuse is not installed; install it as root: launch/install_gcsfuse.sh"
  # A gcsfuse that was killed, as with the service that ended, leaves a folder that nothing else can be done with.
  execute fusermount3 -u -z "$folder" 2> /dev/null || true
  execute mkdir -p "$folder" || fail "$folder cannot be made; let $(id -un) write to $gcs."
  execute gcsfuse "${options[@]}" "$bucket" "$folder" ||
    fail "gs://$bucket cannot be mounted, see above; the account of this host needs roles/storage.objectUser on it."
fi
execute exec "$@"
