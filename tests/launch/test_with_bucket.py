"""launch/with_bucket.sh and install_gcsfuse.sh, with programs in the place of gcsfuse, apt and curl."""

import pathlib
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
MOUNT = (
    "gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --enable-streaming-writes=false --rename-dir-limit=200000 "
    "my-bucket {}/my-bucket"
)


@pytest.fixture
def buckets(stub, tmp_path):
    """The folder of the buckets. ``mountpoint`` tells whether the stub of gcsfuse has been called."""
    stub("mountpoint", f"[[ -e {tmp_path}/mounted ]]")
    stub("fusermount3", "echo 'fusermount3: entry not found' >&2; exit 1")
    stub("gcsfuse", f"[[ -d ${{@: -1}} ]] && touch {tmp_path}/mounted")
    return tmp_path / "buckets"


def test_mounts_once(launch, buckets, calls):
    for bucket in ("my-bucket", "gs://my-bucket"):
        result = launch("with_bucket.sh", bucket, "echo", "run", GCS_FOLDER=str(buckets))
        assert (result.returncode, result.stdout, result.stderr) == (0, "run\n", "")
    look = f"mountpoint -q {buckets}/my-bucket"
    assert calls() == [look, f"fusermount3 -u -z {buckets}/my-bucket", MOUNT.format(buckets), look]


def test_mounts_where_a_dead_gcsfuse_has_left_a_folder_that_cannot_be_used(launch, buckets, stub, tmp_path):
    """It cannot be made then, either, though it is there."""
    dead = buckets / "my-bucket"
    dead.parent.mkdir()
    dead.symlink_to(tmp_path / "nowhere")
    refused = launch("with_bucket.sh", "my-bucket", "true", GCS_FOLDER=str(buckets))
    assert refused.returncode == 2 and f"{dead} cannot be made" in refused.stderr
    stub("fusermount3", 'rm "$3"')
    assert launch("with_bucket.sh", "my-bucket", "true", GCS_FOLDER=str(buckets)).returncode == 0


def test_the_command_keeps_its_words_and_its_exit_code(launch, buckets):
    words = ["it's", "$HOME `ls` \\", "", "two  words", "--dry-run"]
    script = 'printf "<%s>\\n" "$@"; exit 7'
    result = launch("with_bucket.sh", "my-bucket", "bash", "-c", script, "name", *words, GCS_FOLDER=str(buckets))
    assert result.returncode == 7 and result.stdout.splitlines() == [f"<{word}>" for word in words]


def test_the_command_gets_the_signals(buckets, tmp_path):
    """It has the process to itself: systemd and GKE end that one."""
    path = f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    running = subprocess.Popen(
        [LAUNCH / "with_bucket.sh", "my-bucket", "bash", "-c", "echo $$"],
        env={"PATH": path, "GCS_FOLDER": str(buckets)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert int(running.communicate(timeout=60)[0]) == running.pid


def test_nothing_is_run_without_the_bucket(launch, buckets, stub, tmp_path):
    stub("gcsfuse", "echo 'bucket does not exist'; exit 1")
    result = launch("with_bucket.sh", "my-bucket", "touch", f"{tmp_path}/ran", GCS_FOLDER=str(buckets))
    assert result.returncode == 2 and result.stdout == "bucket does not exist\n"
    assert result.stderr == (
        "with_bucket.sh: gs://my-bucket cannot be mounted, see above; the account of this host needs "
        "roles/storage.objectUser on it.\n"
    )
    assert not (tmp_path / "ran").exists()


def test_a_host_without_gcsfuse_is_told_how_to_get_it(stub, tmp_path):
    stub("mountpoint", "exit 1")
    (tmp_path / "bin" / "bash").symlink_to(shutil.which("bash"))
    result = subprocess.run(
        [LAUNCH / "with_bucket.sh", "my-bucket", "true"],
        env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2 and not result.stdout
    assert result.stderr == (
        "with_bucket.sh: gcsfuse is not installed; install it as root: launch/install_gcsfuse.sh\n"
    )


def test_dry_run_of_a_mount(launch, stub, calls):
    stub("mountpoint", "exit 1")
    printed = launch("with_bucket.sh", "--dry-run", "my-bucket", "python", "a b").stdout.splitlines()
    assert printed == [
        "fusermount3 -u -z /gcs/my-bucket",
        "mkdir -p /gcs/my-bucket",
        MOUNT.format("/gcs"),
        "exec python 'a b'",
    ]
    stub("mountpoint")
    assert launch("with_bucket.sh", "--dry-run", "my-bucket", "python", "a b").stdout == "exec python 'a b'\n"
    assert calls() == ["mountpoint -q /gcs/my-bucket"] * 2


@pytest.fixture
def release() -> str:
    """The name of this machine's release."""
    lines = pathlib.Path("/etc/os-release").read_text().splitlines() if pathlib.Path("/etc/os-release").exists() else []
    found = [line.split("=")[1].strip('"') for line in lines if line.startswith("VERSION_CODENAME=")]
    return found[0] if found else pytest.skip("this is no Debian")


def test_gcsfuse_is_installed_from_the_packages_of_this_release(launch, stub, calls, tmp_path, release):
    stub("apt-get", 'echo "$DEBIAN_FRONTEND"')
    stub("curl")
    apt = tmp_path / "apt"
    (apt / "sources.list.d").mkdir(parents=True)
    result = launch("install_gcsfuse.sh", APT=str(apt))
    assert result.returncode == 0 and result.stdout == "noninteractive\n" * 2, result.stderr
    wait = "apt-get --quiet -o DPkg::Lock::Timeout=600"
    assert calls() == [
        f"curl --fail --silent --show-error --location --output {apt}/keyrings/gcsfuse.asc "
        "https://packages.cloud.google.com/apt/doc/apt-key.gpg",
        f"{wait} update",
        f"{wait} install --yes --no-install-recommends gcsfuse fuse3",
    ]
    assert (apt / "keyrings").is_dir() and (apt / "sources.list.d" / "gcsfuse.list").read_text() == (
        f"deb [signed-by={apt}/keyrings/gcsfuse.asc] https://packages.cloud.google.com/apt gcsfuse-{release} main\n"
    )


def test_an_image_without_curl_gets_it_first(stub, calls, tmp_path, release):
    """Debian's slim ones have none. Nothing goes on when a package is missing."""
    for name in ("apt-get", "mkdir"):
        stub(name)
    for name in ("bash", "env", "tee"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    command = [LAUNCH / "install_gcsfuse.sh"]
    variables = {"PATH": str(tmp_path / "bin"), "APT": str(tmp_path / "apt")}
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert result.returncode == 127 and "curl" in result.stderr
    wait = "apt-get --quiet -o DPkg::Lock::Timeout=600"
    assert calls() == [
        f"{wait} update",
        f"{wait} install --yes --no-install-recommends ca-certificates curl",
        f"mkdir -p {tmp_path}/apt/keyrings",
    ]


def test_dry_run_of_an_installation(launch, stub, calls, tmp_path, release):
    for name in ("apt-get", "curl", "tee"):
        stub(name)
    printed = launch("install_gcsfuse.sh", "--dry-run").stdout.splitlines()
    assert (
        "deb [signed-by=/etc/apt/keyrings/gcsfuse.asc] https://packages.cloud.google.com/apt "
        + (f"gcsfuse-{release} main")
        in printed
    )
    assert printed[-1].endswith(" install --yes --no-install-recommends gcsfuse fuse3") and calls() == []


def test_the_image_has_what_its_layer_with_gcsfuse_runs():
    """The scripts that this layer copies: those that install_gcsfuse.sh sources, and itself."""
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    (copied,) = [line.split()[1:-1] for line in lines if line.startswith("COPY launch/")]
    script = (LAUNCH / "install_gcsfuse.sh").read_text()
    sourced = [line.split("=")[1] for line in script.splitlines() if line.startswith("# shellcheck source=")]
    assert {f"launch/{name}" for name in [*sourced, "install_gcsfuse.sh"]} == set(copied)
    assert any(line.startswith("RUN launch/install_gcsfuse.sh") for line in lines)
