#!/usr/bin/env bash
# Trains on GKE, by a JobSet: launch/gke.sh COMMAND NAME [--option=value ...]
#
#   image     builds the image of a commit, and pushes it      apply    starts the job
#   pools     makes the node pools NAME-0 .., a slice each     status   the job and its pods
#   print     prints the job's manifest, launch/jobset.yaml    logs     follows the log of one host
#   delete    ends the job; the nodes stay, and cost
#   delete_pools    gives the nodes back
# NAME is yours: of the job, and of its workdir unless --workdir is given. print and apply take train's own options:
# --config=configs/flamingo_3b.py --config.key=value --workdir=gs://B/... --accept_changed_config --traceback.
# The workdir's bucket is the folder /gcs/B on every host, also for --config.datasets.NAME.source=/gcs/B/...
# Options that a command has no use for are ignored, so that all can have the same ones:
#
#   --image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/flamingo:TAG                (image, print, apply)
#   --tpu=v5p:4x4x4          generation and topology                             (pools, print, apply)
#   --slices=2               of that topology each                               (pools, delete_pools, print, apply)
#   --chips-per-host=8       where the node pool's machines differ from the usual ones  (pools, print, apply)
#   --bucket=gs://B          the workdir is B/runs/NAME                          (print, apply)
#   --queue=Q                of Kueue; xpk's is multislice-queue                 (print, apply)
#   --env=NAME=VALUE         an environment variable; may be repeated            (print, apply)
#   --max-restarts=100 --grace=600 --kubernetes-service-account=A                (print, apply)
#   --spot                   on spot nodes                                       (pools, print, apply)
#   --project=P --cluster=C --location=L --zone=Z                                (pools, delete_pools)
#   --reservation=R --service-account=EMAIL                                      (pools)
#   --commit=HEAD            what is trained with: committed code                (image)
#   --slice=0 --host=0       which slice, and which of its hosts                 (logs)
#   --namespace=N --context=C      kubectl's                                     (apply, status, logs, delete)
#   --dry-run                prints the commands instead                         (every command)
set -euo pipefail
# shellcheck source=command.sh
source "${BASH_SOURCE[0]%/*}/command.sh"
# shellcheck source=accelerator.sh
source "${BASH_SOURCE[0]%/*}/accelerator.sh"
# shellcheck source=source_code.sh
source "${BASH_SOURCE[0]%/*}/source_code.sh"

read_command "image, pools, print, apply, status, logs, delete, delete_pools" "$@"
shift 2

project=${CLOUDSDK_CORE_PROJECT:-} zone=${CLOUDSDK_COMPUTE_ZONE:-}
image="" tpu="" slices=1 wanted_chips="" bucket="" workdir="" config="" queue="" restarts=100 grace=600 account=""
spot="" cluster="" location="" reservation="" node_account="" commit=HEAD slice=0 host=0
kubectl=() environment=(PYTHONUNBUFFERED=1 'JAX_PLATFORMS=tpu,cpu') train=()
for argument in "$@"; do
  [[ $argument != *[[:cntrl:]]* ]] || fail "$(quoted "$argument") has a line break or another control character."
  value=${argument#*=}
  case $argument in
    --dry-run) dry_run=true ;;
    --image=*) image=$value ;;
    --tpu=*) tpu=$value ;;
    --slices=*) slices=$value ;;
    --chips-per-host=*) wanted_chips=$value ;;
    --bucket=*) bucket=${value%/} ;;
    --queue=*) queue=$value ;;
    --env=*) check_setting "$value" && environment+=("$value") ;;
    --max-restarts=*) restarts=$value ;;
    --grace=*) grace=$value ;;
    --kubernetes-service-account=*) account=$value ;;
    --spot) spot=true ;;
    --project=*) project=$value ;;
    --cluster=*) cluster=$value ;;
    --location=*) location=$value ;;
    --zone=*) zone=$value ;;
    --reservation=*) reservation=$value ;;
    --service-account=*) node_account=$value ;;
    --commit=*) commit=$value ;;
    --slice=*) slice=$value ;;
    --host=*) host=$value ;;
    --namespace=* | --context=*) kubectl+=("$argument") ;;
    --workdir=*) workdir=$value ;;
    --config=*) config=$value train+=("$argument") ;;
    --config.*=* | --accept_changed_config | --traceback) train+=("$argument") ;;
    *) fail "'$argument' is no option of launch/gke.sh; launch/gke.sh --help lists them." ;;
  esac
done

require() {
  [[ $2 != "" ]] || fail "Give $1=..."
}

if [[ $command == @(pools|print|apply) ]]; then
  [[ $tpu == *:* ]] || fail "--tpu='$tpu' has no topology, by which GKE names TPUs; give one such as --tpu=v5p:4x4x4."
  find_accelerator "$tpu"
  chips_per_host=$((chips / hosts))
  if [[ $wanted_chips != "" ]]; then
    check_count --chips-per-host "$wanted_chips"
    ((chips % wanted_chips == 0)) || fail "--chips-per-host=$wanted_chips does not divide the $chips chips of $tpu."
    chips_per_host=$wanted_chips hosts=$((chips / wanted_chips))
  fi
  [[ $chips_per_host == @(1|4|8) ]] || fail "--tpu=$tpu: GKE has no machines with $chips_per_host chips."
  check_count --slices "$slices"
  ((slices == 1 || hosts > 1)) || fail "--slices=$slices of a single host each: GKE joins only slices of several hosts."
fi
if [[ $command == @(image|print|apply) ]]; then
  [[ $image =~ ^[a-z0-9][A-Za-z0-9._/:@-]*$ ]] || fail "--image='$image' is no image; give REGISTRY/.../NAME:TAG."
fi
if [[ $command == @(print|apply) ]]; then
  if [[ $workdir == "" ]]; then
    check_bucket "$bucket"
    workdir=$bucket/runs/$name
  fi
  check_training "$config" "$workdir"
  train+=(--workdir="$workdir_folder")
  check_count --max-restarts "$restarts"
  check_count --grace "$grace"
  for value in "$queue" "$account"; do
    [[ $value =~ ^[a-z0-9.-]*$ ]] || fail "'$value' cannot name a queue or a service account of Kubernetes."
  done
fi
if [[ $command == @(pools|delete_pools) ]]; then
  require --project "$project"
  require --cluster "$cluster"
  require --location "$location"
  check_count --slices "$slices"
  place=(--project="$project" --location="$location" --cluster="$cluster" --quiet)
fi

# yaml WORD: the word as a string of YAML.
yaml() {
  echo "'${1//\'/\'\'}'"
}

# fill: the template with each ${NAME} replaced by its value, indented like it; lines without a value are left out.
# shellcheck disable=SC2016  # that is text
fill() {
  local text before key value indent filled=""
  declare -A values=(
    [NAME]=$name [QUEUE]=$queue [MAX_RESTARTS]=$restarts [SLICES]=$slices [HOSTS]=$hosts [GRACE]=$grace
    [SERVICE_ACCOUNT]=$account [ACCELERATOR]=$gke_label [TOPOLOGY]=$topology [SPOT]=$spot [IMAGE]=$image
    [CHIPS_PER_HOST]=$chips_per_host [BUCKET]=$workdir_bucket [ARGUMENTS]="" [ENVIRONMENT]=""
  )
  for value in "${train[@]}"; do
    values[ARGUMENTS]+="${values[ARGUMENTS]:+$'\n'}- $(yaml "$value")"
  done
  for value in "${environment[@]}"; do
    values[ENVIRONMENT]+="${values[ENVIRONMENT]:+$'\n'}- name: ${value%%=*}"$'\n'"  value: $(yaml "${value#*=}")"
  done
  text=$(< "${BASH_SOURCE[0]%/*}/jobset.yaml")
  while [[ $text == *'${'* ]]; do
    before=${text%%'${'*}
    text=${text#*'${'}
    key=${text%%'}'*}
    text=${text#*'}'}
    indent=${before##*$'\n'}
    filled+=$before${values[$key]//$'\n'/$'\n'"${indent//[^ ]/}"}
  done
  sed "/: ''\$/d" <<< "$filled$text"
}

image() {
  find_commit "$commit"
  send_archive "$commit" docker build --platform=linux/amd64 --file=launch/Dockerfile --tag="$image" -
  execute docker push "$image"
}

pools() {
  local flags=() index
  [[ $generation != tpu7x ]] ||
    fail "--tpu=$tpu: node pools of tpu7x need a workload policy; make them with xpk or Cluster Toolkit."
  if ((hosts > 1)); then flags+=(--tpu-topology="$topology"); fi
  if [[ $spot != "" ]]; then flags+=(--spot); fi
  if [[ $reservation != "" ]]; then flags+=(--reservation-affinity=specific --reservation="$reservation"); fi
  if [[ $node_account != "" ]]; then flags+=(--service-account="$node_account"); fi
  require --zone "$zone"
  for ((index = 0; index < slices; index++)); do
    execute gcloud container node-pools create "$name-$index" "${place[@]}" --node-locations="$zone" \
      --machine-type="$gke_machine-${chips_per_host}t" --num-nodes="$hosts" --scopes=cloud-platform "${flags[@]}"
  done
}

delete_pools() {
  local index
  for ((index = 0; index < slices; index++)); do
    execute gcloud container node-pools delete "$name-$index" "${place[@]}"
  done
}

apply() {
  local manifest
  manifest=$(fill)
  if $dry_run; then
    echo "$(quoted kubectl apply "${kubectl[@]}" --filename=-) << 'END'"$'\n'"$manifest"$'\nEND'
  else
    kubectl apply "${kubectl[@]}" --filename=- <<< "$manifest"
  fi
}

status() {
  execute kubectl get jobset "$name" "${kubectl[@]}"
  execute kubectl get pods "${kubectl[@]}" --selector="jobset.sigs.k8s.io/jobset-name=$name" --output=wide
}

logs() {
  local pod="jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=$slice"
  execute kubectl logs "${kubectl[@]}" --follow --tail=100 \
    --selector="$pod,batch.kubernetes.io/job-completion-index=$host"
}

case $command in
  print) fill ;;
  delete) execute kubectl delete jobset "$name" "${kubectl[@]}" ;;
  *) "$command" ;;
esac
