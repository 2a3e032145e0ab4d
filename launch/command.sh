# shellcheck shell=bash
# What the launchers share, to be sourced: errors of one sentence, and commands that --dry-run prints instead.

if ((BASH_VERSINFO[0] < 4 || (BASH_VERSINFO[0] == 4 && BASH_VERSINFO[1] < 4))); then
  echo "${0##*/}: This is bash $BASH_VERSION; install 4.4 or newer (macOS: brew install bash)." >&2
  exit 2
fi

shopt -s inherit_errexit # what fails in $(...) ends the script, too
dry_run=false
gcs=${GCS_FOLDER:-/gcs} # where buckets are folders, on the hosts of a cloud
bucket_pattern='[a-z0-9][a-z0-9._-]*'

# fail SENTENCE...: says what is wrong with the command line, and ends.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# usage: prints the comment at the top of the script.
usage() {
  sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"
}

# quoted WORD...: the words as a shell reads them back, on one line unless a word has several.
quoted() {
  local word escape="'\\''" text=""
  for word in "$@"; do
    case $word in
      "" | *[!a-zA-Z0-9_./:=@%+,-]*) word="'${word//\'/$escape}'" ;;
    esac
    text+="${text:+ }$word"
  done
  echo "$text"
}

# execute WORD...: runs the command, or prints it.
execute() {
  if $dry_run; then
    quoted "$@"
  else
    "$@"
  fi
}

# write FILE TEXT [WORD...]: writes a file, by the command WORD... tee FILE.
write() {
  local file=$1 text=$2
  shift 2
  if $dry_run; then
    echo "$(quoted "$@" tee "$file") << 'END'"$'\n'"$text"$'\nEND'
  else
    "$@" tee "$file" <<< "$text" > /dev/null
  fi
}

# check_count OPTION VALUE: VALUE is a number from 1 on.
check_count() {
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || fail "$1=$2 is no number from 1 on."
}

# check_name VALUE: VALUE may name a cloud resource, with what the cloud appends to it.
check_name() {
  [[ $1 =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    fail "'$1' cannot name a job: lower-case letters, digits and '-', a letter first, 40 at most."
}

# read_command "a, b, c" ARGUMENT...: sets command and name, the first two arguments of a launcher.
read_command() {
  local known=$1
  command=${2:-} name=${3:-}
  case $command in
    -h | --help)
      usage
      exit
      ;;
    "")
      usage >&2
      exit 2
      ;;
  esac
  [[ ", $known, " == *", $command, "* ]] || fail "There is no command '$command'; there are $known."
  [[ $name != "" && $name != -* ]] || fail "Give the job a name: launch/${0##*/} $command NAME ..."
  check_name "$name"
}

# check_setting VALUE: VALUE sets an environment variable.
check_setting() {
  [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail "--env=$1 sets no variable; give --env=NAME=VALUE."
}

# check_training CONFIG WORKDIR: sets workdir_bucket, and workdir_folder, which is WORKDIR on hosts where with_bucket.sh
# has mounted that bucket: the trainer keeps a run in a folder.
# shellcheck disable=SC2034  # for the launchers
check_training() {
  [[ $1 != "" ]] || fail "Give what to train, such as --config=configs/flamingo_3b.py."
  [[ $2 == gs://* ]] || fail "--workdir=$2 is on one machine; all hosts need the same, gs://BUCKET/FOLDER."
  [[ $2 =~ ^gs://($bucket_pattern)/+(.*[^/])/*$ ]] ||
    fail "--workdir=$2 is no folder of a bucket; give gs://BUCKET/FOLDER."
  workdir_bucket=${BASH_REMATCH[1]} workdir_folder=$gcs/${BASH_REMATCH[1]}/${BASH_REMATCH[2]}
}
