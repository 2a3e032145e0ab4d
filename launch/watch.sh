# shellcheck shell=bash disable=SC2154  # to be sourced: variables of others
# Keeps a job on queued resources running until it ends. To be sourced by tpu_vm.sh, whose functions it calls.
#
# The request's states: CREATING, ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING; ACTIVE, the TPUs are there; SUSPENDING,
# SUSPENDED, they were preempted, and the request never becomes active again; FAILED, it was refused; DELETING.

say() {
  echo "$(date '+%F %T') $name: $*" >&2
}

# end CODE SENTENCE
end() {
  say "$2"
  if (($1 != 0)); then
    on 0 0 "sudo journalctl --unit=flamingo --output=cat --lines=50" >&2 || true
    stop || true
  fi
  if $keep; then
    say "The TPUs stay, and cost, until: launch/tpu_vm.sh delete $name --project=$project --zone=$zone"
  elif ! delete; then
    say "The TPUs could not be deleted, and cost. Do it: launch/tpu_vm.sh delete $name --project=$project --zone=$zone"
  fi
  exit "$1"
}

# look_at_workers: starts the training where there is none, and ends the watch when it has ended.
look_at_workers() {
  local states count
  states=$(on all all "$show" 2> "$chatter") || true # the others' lines are there though one does not answer
  count=$(grep -c LoadState= <<< "$states" || true)
  if ((count < hosts * slices)); then
    cat "$chatter" >&2
    say "$count of $((hosts * slices)) workers answer."
    ((count > 0)) || return 0 # it may be this machine: its network, or ssh-add; TPUs that are gone become SUSPENDED
    ((lost += 1))
    if ((lost == 10)); then
      say "Some have not answered ten times; the TPUs are deleted and asked for anew."
      lost=0
      delete || true
    fi
    return
  fi
  lost=0
  if grep -q ActiveState=failed <<< "$states"; then
    end 1 "The training fails again and again; its last words:"
  elif grep -q LoadState=not-found <<< "$states"; then
    say "Setting up $count workers."
    if setup && run; then
      broken=0
    elif ((broken += 1, broken == 3)); then
      end 1 "The workers could not be set up."
    fi
  elif ! grep -qv "ActiveState=inactive ExecMainCode=1 " <<< "$states"; then # 1: it has run, and returned by itself
    end 0 "The training has ended."
  fi
}

watch() {
  if $dry_run; then
    print_watch
    return
  fi
  trap 'say "No longer watched. The TPUs stay, and cost; watch again goes on with them."; exit 130' INT TERM HUP
  trap 'rm -f "$chatter"' EXIT
  local state before="" lost=0 broken=0 refused=0
  chatter=$(mktemp) # what gcloud tells of every connection
  while true; do
    state=$(request_state) || state=UNKNOWN
    state=${state:-ABSENT}
    [[ $state == "$before" ]] || say "$state"
    before=$state
    case $state in
      ACTIVE)
        refused=0
        look_at_workers
        ;;
      ABSENT) create || ((refused += 1)) ;;
      SUSPENDED) delete || true ;;
      FAILED)
        ((refused += 1))
        describe state.failedData.error.message >&2 || true
        delete || true
        ;;
    esac
    if ((refused == 3)); then
      say "The TPUs were refused three times; see above."
      exit 1
    fi
    sleep "$poll"
  done
}

# print_watch: the commands of a watch, in the order in which a preempted job needs them.
print_watch() {
  echo "# every $poll seconds: the state of the request"
  request_state
  echo "# SUSPENDED or FAILED: deleted"
  delete
  echo "# absent: asked for"
  create
  echo "# ACTIVE: the state of the training"
  on all all "$show"
  echo "# not yet on every worker: set up and started"
  setup
  run
  echo "# ended on every worker: deleted"
  delete
}
