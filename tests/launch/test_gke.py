"""launch/gke.sh: the manifest that it fills in, and the commands that it prints."""

import os
import re
import subprocess

import pytest
import yaml

OPTIONS = [
    "--image=us-docker.pkg.dev/p/r/flamingo:1",
    "--tpu=v5p:4x4x8",
    "--bucket=gs://b",
    "--config=configs/base.py:quick",
]
POOLS = ["--project=p", "--cluster=c", "--location=us-east5", "--zone=us-east5-a"]


@pytest.fixture
def manifest(launch):
    def load(*options: str) -> dict:
        result = launch("gke.sh", "print", "flam", *OPTIONS, *options)
        assert result.returncode == 0, result.stderr
        return yaml.safe_load(result.stdout)

    return load


def parts(manifest: dict) -> tuple[dict, dict, dict]:
    """The specs of the replicated job, of its Job and of its pods."""
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    return replicated, job, job["template"]["spec"]


@pytest.mark.parametrize(
    ("options", "slices", "hosts", "chips", "label", "topology"),
    [
        ([], 1, 32, 4, "tpu-v5p-slice", "4x4x8"),
        (["--slices=3"], 3, 32, 4, "tpu-v5p-slice", "4x4x8"),
        (["--tpu=v6e:2x4", "--slices=1"], 1, 1, 8, "tpu-v6e-slice", "2x4"),
        (["--tpu=v6e:2x4", "--chips-per-host=4", "--slices=2"], 2, 2, 4, "tpu-v6e-slice", "2x4"),
    ],
    ids=["one slice", "several slices", "one host", "other machines"],
)
def test_slices_hosts_and_chips(manifest, options, slices, hosts, chips, label, topology):
    filled = manifest(*options)
    replicated, job, pod = parts(filled)
    assert (filled["apiVersion"], filled["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert filled["metadata"]["name"] == "flam" and replicated["replicas"] == slices
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (hosts, hosts, "Indexed")
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    assert filled["metadata"]["annotations"] == exclusive and "${" not in str(filled)


# What Kubernetes says of a Job that a pod has failed (its pkg/controller/job/pod_failure_policy.go).
CONTAINER = (
    "Container train for pod default/flam-slice-0-0-x failed with exit code {} matching FailJob rule at index {}"
)
POD = "Pod default/flam-0-x has condition DisruptionTarget matching FailJob rule at index {}"


@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [
        (65, False, "FailJobSet"),
        (75, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (1, False, None),
        (137, False, None),
    ],
    ids=["diverged", "preempted", "error", "killed"],
)
def test_restarts(manifest, code, disrupted, action):
    """None: those that count, up to maxRestarts, and are what JobSet does where no rule tells another thing."""
    filled = manifest("--max-restarts=7", "--grace=90")
    _, job, pod = parts(filled)
    policy = filled["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7 and policy["restartStrategy"] == "BlockingRecreate"
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] == 90
    messages = []
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["operator"] == "In"
            messages += [CONTAINER.format(code, index)] if code in rule["onExitCodes"]["values"] else []
        else:
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget"}]
            messages += [POD.format(index)] if disrupted else []
    done = None
    for rule in policy["rules"]:
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        if messages and done is None and any(re.search(p, messages[0]) for p in rule["onJobFailureMessagePatterns"]):
            done = rule["action"]
    assert done == action


def test_network_and_shared_memory(manifest):
    filled = manifest()
    pod = parts(filled)[2]
    assert filled["spec"]["network"] == {"enableDNSHostnames": True}
    assert pod["hostNetwork"] is True and pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    (volume,), (mount,) = pod["volumes"], pod["containers"][0]["volumeMounts"]
    assert volume["emptyDir"] == {"medium": "Memory"}
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/dev/shm")


def test_what_is_optional_is_left_out(manifest):
    plain, full = manifest(), manifest("--queue=multislice-queue", "--spot", "--kubernetes-service-account=trainer")
    assert plain["metadata"]["labels"] == {"app.kubernetes.io/name": "flamingo-jax"}
    assert full["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "multislice-queue"
    assert "serviceAccountName" not in parts(plain)[2] and parts(full)[2]["serviceAccountName"] == "trainer"
    assert parts(full)[2]["nodeSelector"]["cloud.google.com/gke-spot"] == "true"


def test_values_arrive_as_they_were_typed(manifest):
    values = [
        "--config.a=(1, 'it''s')",
        '--config.b={"k": "$HOME ${NAME} #\\\\"}',
        "--config.c=: ''",
        "--config.d=",
        "--traceback",
    ]
    container = parts(manifest(*values, "--env=FLAGS=--a: 'b' ${IMAGE}", "--env=EMPTY="))[2]["containers"][0]
    assert container["args"] == ["--config=configs/base.py:quick", *values, "--workdir=/gcs/b/runs/flam"]
    env = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    assert env == {"PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "tpu,cpu", "FLAGS": "--a: 'b' ${IMAGE}", "EMPTY": ""}
    assert container["image"] == "us-docker.pkg.dev/p/r/flamingo:1"


@pytest.mark.parametrize(
    ("options", "bucket", "folder"),
    [
        ([], "b", "/gcs/b/runs/flam"),
        (["--bucket=gs://007/x/"], "007", "/gcs/007/x/runs/flam"),
        (["--workdir=gs://c.d_e/it's one/w/"], "c.d_e", "/gcs/c.d_e/it's one/w"),
    ],
    ids=["bucket", "folder of a bucket", "workdir"],
)
def test_the_container_mounts_the_bucket_of_the_workdir(manifest, options, bucket, folder):
    container = parts(manifest(*options))[2]["containers"][0]
    assert container["command"] == ["launch/with_bucket.sh", bucket, "python", "-m", "flamingo_jax.train"]
    assert container["args"][-1] == f"--workdir={folder}"
    assert container["securityContext"] == {"privileged": True}  # without which no container mounts


def test_the_template_itself_is_yaml(manifest):
    with open(os.path.join(os.path.dirname(__file__), "../../launch/jobset.yaml")) as file:
        template = yaml.safe_load(file)
    assert template.keys() == manifest().keys()


def test_apply_gives_kubectl_what_print_prints(launch, stub, calls, tmp_path):
    stub("kubectl", f"cat > {tmp_path}/applied")
    printed = launch("gke.sh", "print", "flam", *OPTIONS).stdout
    options = ["--namespace=team", "--context=cluster"]
    assert launch("gke.sh", "apply", "flam", *OPTIONS, *options).returncode == 0
    assert (tmp_path / "applied").read_text() == printed
    dry = launch("gke.sh", "apply", "flam", *OPTIONS, *options, "--dry-run").stdout
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    (tmp_path / "applied").unlink()
    subprocess.run(["bash", "-c", dry], env={"PATH": path}, check=True)
    assert (tmp_path / "applied").read_text() == printed
    assert calls() == ["kubectl apply --namespace=team --context=cluster --filename=-"] * 2


def test_pools(launch):
    printed = launch(
        "gke.sh", "pools", "flam", *OPTIONS, *POOLS, "--slices=2", "--spot", "--dry-run"
    ).stdout.splitlines()
    create = (
        "gcloud container node-pools create flam-{} --project=p --location=us-east5 --cluster=c --quiet "
        "--node-locations=us-east5-a --machine-type=ct5p-hightpu-4t --num-nodes=32 --scopes=cloud-platform "
        "--tpu-topology=4x4x8 --spot"
    )
    assert printed == [create.format(0), create.format(1)]
    one = launch(
        "gke.sh", "pools", "flam", "--tpu=v6e:2x4", *POOLS, "--reservation=r", "--service-account=a@b", "--dry-run"
    )
    assert one.stdout.endswith(
        "--machine-type=ct6e-standard-8t --num-nodes=1 --scopes=cloud-platform --reservation-affinity=specific "
        "--reservation=r --service-account=a@b\n"
    )
    deleted = launch("gke.sh", "delete_pools", "flam", *POOLS, "--slices=2", "--dry-run").stdout.splitlines()
    delete = "gcloud container node-pools delete flam-{} --project=p --location=us-east5 --cluster=c --quiet"
    assert deleted == [delete.format(0), delete.format(1)]


def test_image(launch, commit):
    printed = launch("gke.sh", "image", "flam", "--image=r/f:1", "--dry-run").stdout.splitlines()
    assert re.sub(r"git -C \S+", "git -C ROOT", printed[0]) == (
        f"git -C ROOT archive --format=tar.gz {commit} | "
        "docker build --platform=linux/amd64 --file=launch/Dockerfile --tag=r/f:1 -"
    )
    assert printed[1:] == ["docker push r/f:1"]


def test_looking_and_ending(launch):
    def printed(command, *options):
        return launch("gke.sh", command, "flam", "--namespace=n", *options, "--dry-run").stdout.splitlines()

    assert printed("status") == [
        "kubectl get jobset flam --namespace=n",
        "kubectl get pods --namespace=n --selector=jobset.sigs.k8s.io/jobset-name=flam --output=wide",
    ]
    assert printed("logs", "--slice=1", "--host=2") == [
        "kubectl logs --namespace=n --follow --tail=100 --selector=jobset.sigs.k8s.io/jobset-name=flam,"
        "jobset.sigs.k8s.io/job-index=1,batch.kubernetes.io/job-completion-index=2"
    ]
    assert printed("delete") == ["kubectl delete jobset flam --namespace=n"]


def test_gcloud_knows_the_commands(launch, gcloud_accepts):
    printed = ""
    for kind in (["--spot"], ["--reservation=r", "--service-account=a@b"]):
        printed += launch("gke.sh", "pools", "flam", *OPTIONS, *POOLS, *kind, "--slices=2", "--dry-run").stdout
    printed += launch("gke.sh", "delete_pools", "flam", *POOLS, "--dry-run").stdout
    assert len(printed.splitlines()) == 5 and gcloud_accepts(printed.splitlines()) == []
