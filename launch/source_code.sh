# shellcheck shell=bash disable=SC2154  # to be sourced: variables of others
# The code that is trained with: one commit, as the launchers send it. To be sourced, after command.sh.

repository=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)

# check_bucket VALUE: VALUE is a bucket, or a folder of one, in a form that needs no quotes anywhere.
check_bucket() {
  [[ $1 != "" ]] || fail "Give the bucket of the runs: --bucket=gs://BUCKET or gs://BUCKET/FOLDER."
  [[ $1 =~ ^gs://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*$ ]] ||
    fail "--bucket=$1 is no bucket; give gs://BUCKET or gs://BUCKET/FOLDER."
}

# find_commit NAME: sets commit to the full hash, and tells of changes that will not go along.
find_commit() {
  commit=$(git -C "$repository" rev-parse --verify --quiet "$1^{commit}") ||
    fail "--commit=$1 is no commit of $repository."
  if [[ $1 == HEAD && $(git -C "$repository" status --porcelain) != "" ]]; then
    echo "${0##*/}: $repository has changes that are not committed; the commit $commit is sent without them." >&2
  fi
}

# send_archive COMMIT WORD...: gives the files of a commit, as a compressed tar, to a command. Prints both in a dry run.
send_archive() {
  local archive=(git -C "$repository" archive --format=tar.gz "$1")
  shift
  if $dry_run; then
    echo "$(quoted "${archive[@]}") | $(quoted "$@")"
  else
    "${archive[@]}" | "$@"
  fi
}

# upload_code BUCKET COMMIT: puts the archive to BUCKET/code, where every host gets it.
upload_code() {
  send_archive "$2" gcloud storage cp - "$1/code/$2.tar.gz"
}
