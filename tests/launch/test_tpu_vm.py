"""launch/tpu_vm.sh: the commands that it prints, and the watch over a cloud that is played."""

import re
import shlex

import pytest

PLACE = "--project=p --zone=us-east5-a --quiet"
OPTIONS = [
    "--project=p",
    "--zone=us-east5-a",
    "--tpu=v5p:4x4x4",
    "--bucket=gs://b/flamingo",
    "--config=configs/base.py:quick",
]
SHOW = "systemctl show flamingo --property=LoadState,ActiveState,Result,NRestarts,ExecMainCode | sort | paste -sd' '"


def expected(commit: str) -> dict[str, list[str]]:
    """The exact commands of each command of the launcher, options of the last two included."""
    queued = "gcloud compute tpus queued-resources"
    everywhere = f"{queued} ssh flam {PLACE} --node=all --worker=all"
    code = f"$HOME/flamingo/{commit}"
    show = SHOW.replace("'", "'\\''")
    return {
        "create": [
            f"{queued} create flam {PLACE} --accelerator-type=v5p-128 --runtime-version=v2-alpha-tpuv5 --node-id=flam "
            "--scopes=https://www.googleapis.com/auth/cloud-platform"
        ],
        "setup": [
            f"git -C ROOT archive --format=tar.gz {commit} | gcloud storage cp - gs://b/flamingo/code/{commit}.tar.gz",
            f"{everywhere} '--command=set -euo pipefail; mkdir -p {code}; gcloud storage cat "
            f"gs://b/flamingo/code/{commit}.tar.gz | tar -xz -C {code}; bash {code}/launch/worker.sh setup'",
        ],
        "run": [
            f"{everywhere} '--command=bash {code}/launch/worker.sh run gs://b/flamingo/logs/flam b -- "
            "--config=configs/base.py:quick --workdir=/gcs/b/flamingo/runs/flam'"
        ],
        "status": [
            f"{queued} list {PLACE} '--filter=name~/queuedResources/flam$' '--format=value(state.state)'",
            f"{everywhere} '--command=echo $(hostname): $({show})'",
        ],
        "logs": [
            f"{queued} ssh flam {PLACE} --node=0 --worker=0 "
            "'--command=sudo journalctl --unit=flamingo --output=cat --lines=100 --follow'"
        ],
        "stop": [f"{everywhere} '--command=sudo systemctl disable --quiet flamingo; sudo systemctl stop flamingo'"],
        "delete": [f"{queued} delete flam {PLACE} --force"],
    }


@pytest.mark.parametrize("command", ["create", "setup", "run", "status", "logs", "stop", "delete"])
def test_dry_run(launch, commit, command):
    result = launch("tpu_vm.sh", command, "flam", *OPTIONS, "--dry-run")
    printed = [re.sub(r"git -C \S+", "git -C ROOT", line) for line in result.stdout.splitlines()]
    assert result.returncode == 0 and printed == expected(commit)[command]


def test_options(launch):
    def printed(command, *options):
        return launch("tpu_vm.sh", command, "flam", *OPTIONS, "--dry-run", *options).stdout

    slices = printed("create", "--slices=2", "--spot", "--service-account=me@p.iam", "--runtime-version=v3")
    assert " --runtime-version=v3 --node-count=2 --node-prefix=flam --scopes=" in slices
    assert slices.endswith(" --spot --service-account=me@p.iam\n")
    private = printed("create", "--network=n", "--subnetwork=s", "--internal-ips", "--reserved")
    assert private.endswith(" --network=n --subnetwork=s --internal-ips --reserved\n")
    assert " --node=1 --worker=3 --tunnel-through-iap " in printed(
        "logs", "--node=1", "--worker=3", "--tunnel-through-iap"
    )
    other = printed("run", "--workdir=gs://c/w")
    assert " gs://b/flamingo/logs/flam c -- " in other and other.endswith(" --workdir=/gcs/c/w'\n")
    by_environment = launch(
        "tpu_vm.sh", "delete", "x", "--dry-run", CLOUDSDK_CORE_PROJECT="q", CLOUDSDK_COMPUTE_ZONE="y"
    )
    assert (
        by_environment.stdout == "gcloud compute tpus queued-resources delete x --project=q --zone=y --quiet --force\n"
    )


def test_values_survive_every_shell_on_the_way(launch):
    values = ["--config.a=(1, 'it''s')", '--config.b={"k": "$HOME `ls` \\\\"}', "--config.c=", "--traceback"]
    printed = launch("tpu_vm.sh", "run", "flam", *OPTIONS, "--dry-run", "--env=FLAGS=--a --b='c'", *values).stdout
    remote = shlex.split(printed)[-1].removeprefix("--command=")
    words = shlex.split(remote)
    start = words.index("--")
    assert words[start - 1] == "FLAGS=--a --b='c'"
    assert words[start + 2 : start + 6] == values


def test_watch_prints_a_whole_life(launch, commit):
    result = launch("tpu_vm.sh", "watch", "flam", *OPTIONS, "--dry-run", "--poll=30")
    parts = expected(commit)
    printed = [re.sub(r"git -C \S+", "git -C ROOT", line) for line in result.stdout.splitlines()]
    assert [line for line in printed if not line.startswith("#")] == [
        parts["status"][0],
        *parts["delete"],
        *parts["create"],
        parts["stop"][0].split("'--command")[0] + "'--command=" + SHOW.replace("'", "'\\''") + "'",
        *parts["setup"],
        *parts["run"],
        *parts["delete"],
    ]
    assert printed[0] == "# every 30 seconds: the state of the request"


def test_gcloud_knows_the_commands(launch, gcloud_accepts):
    ssh = ["--tunnel-through-iap", "--node=1", "--worker=2"]
    machine = ["--slices=2", "--service-account=a@b", "--network=n", "--subnetwork=s", "--internal-ips"]
    printed = ""
    for command in ("create", "run", "status", "logs", "stop", "delete"):
        for kind in ("--spot", "--reserved"):
            printed += launch("tpu_vm.sh", command, "flam", *OPTIONS, *ssh, *machine, kind, "--dry-run").stdout
    printed = printed.replace(" --quiet", "")  # after which gcloud's check expects a value
    printed = re.sub(r"'--command=.*'$", "--command=true", printed, flags=re.MULTILINE)  # what ssh runs is no gcloud's
    commands = printed.splitlines() + ["gcloud storage cp - gs://b/c.tar.gz", "gcloud storage cat gs://b/c.tar.gz"]
    assert len(commands) > 12 and gcloud_accepts(commands) == []


# -- watch. A gcloud that takes, for every look, the next line of a list: the request's states, the workers' states.

NEW = "ActiveState=inactive ExecMainCode=0 LoadState=not-found NRestarts=0 Result=success"
ACTIVE = "ActiveState=active ExecMainCode=0 LoadState=loaded NRestarts=0 Result=success"
STARTING = "ActiveState=activating ExecMainCode=1 LoadState=loaded NRestarts=3 Result=exit-code"
BOOTING = "ActiveState=inactive ExecMainCode=0 LoadState=loaded NRestarts=0 Result=success"
ENDED = "ActiveState=inactive ExecMainCode=1 LoadState=loaded NRestarts=0 Result=success"
FAILED = "ActiveState=failed ExecMainCode=1 LoadState=loaded NRestarts=9 Result=exit-code"
HOSTS = 16  # of v5p:4x4x4


@pytest.fixture
def cloud(stub, tmp_path, launch, calls):
    """cloud(states, workers, ...): plays a watch; returns its exit code, what it did in short, and what it said."""

    def play(states: list[str], workers: list[str], *options: str, broken: str = "") -> tuple[int, list[str], str]:
        (tmp_path / "states").write_text("\n".join(states) + "\n")
        (tmp_path / "workers").write_text("\n".join(workers) + "\n")
        next_line = f"line=$(head -n 1 {tmp_path}/$1); sed -i 1d {tmp_path}/$1"
        stub(
            "gcloud",
            f"take() {{ {next_line}; }}\n"
            'case "$*" in\n'
            '  *" list "*) take states; echo "$line" ;;\n'
            '  *"systemctl show"*) take workers; tr ";" "\\n" <<< "$line" ;;\n'
            '  "storage cp"*) cat > /dev/null ;;\n'
            f'  {broken or "nothing"}) echo "refused by the cloud" >&2; exit 1 ;;\n'
            "esac",
        )
        stub("sleep")
        result = launch("tpu_vm.sh", "watch", "flam", *OPTIONS, "--poll=1", *options)
        did = []
        for call in calls():
            words = shlex.split(call)
            if words[:4] != ["gcloud", "compute", "tpus", "queued-resources"] or words[4] in ("list", "describe"):
                continue
            if words[4] != "ssh":
                did.append(words[4])
            elif remote := re.search(r"worker.sh (setup|run)|systemctl (stop)|(journalctl)", words[-1]):
                did.append(remote[remote.lastindex])
        (tmp_path / "calls").unlink()
        assert not (tmp_path / "states").read_text().strip()
        return result.returncode, did, result.stderr

    return play


def all_of(state: str) -> str:
    return ";".join([state] * HOSTS)


def test_watch_asks_anew_after_a_preemption_and_ends_with_the_training(cloud):
    asked = ["", "WAITING_FOR_RESOURCES", "PROVISIONING"]
    preempted = ["ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", ""]
    some = all_of(ENDED)[: -len(ENDED)] + STARTING
    code, did, said = cloud(
        [*asked, *preempted, *["ACTIVE"] * 4],
        [all_of(NEW), all_of(ACTIVE), all_of(NEW), all_of(ACTIVE), some, all_of(ENDED)],
    )
    once = ["create", "setup", "run"]
    assert code == 0 and did == [*once, "delete", *once, "delete"]
    assert "flam: SUSPENDED" in said and "Setting up 16 workers." in said and "The training has ended." in said


def test_watch_sets_up_a_worker_that_was_replaced(cloud):
    replaced = ";".join([ACTIVE] * (HOSTS - 1) + [NEW])
    code, did, _ = cloud(["ACTIVE"] * 3, [all_of(ACTIVE), replaced, all_of(ENDED)])
    assert code == 0 and did == ["setup", "run", "delete"]


def test_watch_does_not_take_machines_that_boot_for_a_training_that_has_ended(cloud):
    code, did, _ = cloud(["ACTIVE"] * 3, [all_of(BOOTING), all_of(ACTIVE), all_of(ENDED)])
    assert code == 0 and did == ["delete"]


def test_watch_leaves_tpus_alone_when_it_reaches_no_worker_at_all(cloud):
    code, did, said = cloud(["ACTIVE"] * 13, [*[""] * 12, all_of(ENDED)])
    assert code == 0 and did == ["delete"] and said.count("0 of 16 workers answer.") == 12


def test_watch_ends_a_training_that_fails_and_shows_its_last_words(cloud):
    some = ";".join([STARTING] * (HOSTS - 1) + [FAILED])
    code, did, said = cloud(["ACTIVE"] * 2, [all_of(ACTIVE), some])
    assert code == 1 and did == ["journalctl", "stop", "delete"]
    assert "The training fails again and again" in said
    code, did, said = cloud(["ACTIVE"], [all_of(FAILED)], "--keep")
    assert code == 1 and did[-2:] == ["journalctl", "stop"]
    assert "The TPUs stay, and cost, until: launch/tpu_vm.sh delete flam --project=p --zone=us-east5-a" in said


def test_watch_gives_up_what_is_refused_three_times(cloud):
    code, did, said = cloud(["", "FAILED", "", "FAILED", "", "FAILED"], [])
    assert code == 1 and did == ["create", "delete"] * 3 and "refused three times" in said


def test_watch_tells_what_the_cloud_said_when_it_takes_no_request(cloud):
    code, did, said = cloud(["", "", ""], [], broken='*" create "*')
    assert code == 1 and did == ["create"] * 3 and said.count("refused by the cloud") == 3


def test_watch_gives_up_workers_that_cannot_be_set_up(cloud):
    code, did, said = cloud(["ACTIVE"] * 3, [all_of(NEW)] * 3, broken='*"worker.sh setup"*')
    assert code == 1 and did == ["setup"] * 3 + ["journalctl", "stop", "delete"]
    assert "could not be set up" in said


def test_watch_replaces_tpus_of_which_some_workers_are_silent(cloud):
    silent = ";".join([ACTIVE] * (HOSTS - 1))
    code, did, said = cloud(
        [*["ACTIVE"] * 12, "", "ACTIVE", "ACTIVE"],
        [silent, all_of(ACTIVE), *[silent] * 10, all_of(NEW), all_of(ENDED)],
    )
    assert code == 0 and did == ["delete", "create", "setup", "run", "delete"]
    assert said.count("15 of 16 workers answer.") == 11
