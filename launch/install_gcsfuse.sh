#!/usr/bin/env bash
# Installs Cloud Storage FUSE on Ubuntu or Debian, as root: launch/install_gcsfuse.sh [--dry-run]
#
# worker.sh calls it, and the Dockerfile.
# --dry-run      prints the commands instead
set -euo pipefail
# shellcheck source=command.sh
source "${BASH_SOURCE[0]%/*}/command.sh"
if [[ ${1:-} == --dry-run ]]; then dry_run=true; fi
apt=${APT:-/etc/apt}
google=https://packages.cloud.google.com/apt
key=$apt/keyrings/gcsfuse.asc

# A machine that has just booted may be installing its updates.
get=(env DEBIAN_FRONTEND=noninteractive apt-get --quiet -o DPkg::Lock::Timeout=600)
install=("${get[@]}" install --yes --no-install-recommends)

release=$(source /etc/os-release && echo "$VERSION_CODENAME")
if ! command -v curl > /dev/null; then
  execute "${get[@]}" update
  execute "${install[@]}" ca-certificates curl
fi
execute mkdir -p "${key%/*}"
execute curl --fail --silent --show-error --location --output "$key" "$google/doc/apt-key.gpg"
write "$apt/sources.list.d/gcsfuse.list" "deb [signed-by=$key] $google gcsfuse-$release main"
execute "${get[@]}" update
execute "${install[@]}" gcsfuse fuse3 # fuse3 lets users mount
