"""Engines are built over ssh, against a real sshd on this machine; nothing is left behind on either side."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import BackendError, BundleError, ConfigError, MissingExtraError
from spoter_toolkit.remote import Remote, build_on, parse_remote

# A stand-in for `python -m spoter_export`: it builds nothing, adds a file that says so, and can fail.
STAND_IN = """#!{python}
import dataclasses, os, pathlib, platform, signal, sys, time
how = pathlib.Path({how!r}).read_text()
folder = pathlib.Path(sys.argv[3])
print("executed: nothing", "  0 %  stand-in", sep="\\n")
print(" 50 %  stand-in", file=sys.stderr, flush=True)
if how == "full":
    print("error: [Errno 28] No space left on device. Fix: make room", file=sys.stderr)
    sys.exit(1)
if how == "lost":
    process = os.getppid()
    while not pathlib.Path(f"/proc/{{process}}/comm").read_text().startswith("sshd"):
        process = int(pathlib.Path(f"/proc/{{process}}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(process, signal.SIGKILL)
    for step in range(600):
        time.sleep(0.05)
        print(" 60 %  stand-in", file=sys.stderr, flush=True)
from spoter_export.bundle.engines import replace_bundle
from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.contract import Profile
bundle = read_bundle(folder)
if how == "other":
    bundle = dataclasses.replace(bundle, artefacts=bundle.artefacts[:1])
spec = EngineSpec(
    library="tensorrt", version="8.6.2", compute_capabilities=("8.7",), system="Linux", machine="aarch64",
    profiles=(Profile(batch=(1, 8, 8), frames=(1, 60, 99)),), buckets=(99,), onnx_sha256=bundle.onnx().sha256,
    built={{"month": "2026-11", "seconds": 0.0, "options": sys.argv[4:]}},
)
import hashlib
plan = b"a stand-in, no engine"
artefact = dataclasses.replace(
    bundle.onnx(), path="engines/stand-in.engine", kind="engine", engine=spec, size_bytes=len(plan),
    sha256=hashlib.sha256(plan).hexdigest(),
)
replace_bundle(bundle, [artefact], [], {{artefact.path: plan}})
"""


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """A real sshd on a free port of this machine, and an `ssh` on the path that knows it as `jetson`."""
    daemon = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    client, keygen = shutil.which("ssh"), shutil.which("ssh-keygen")
    if not (daemon and client and keygen):
        pytest.skip("needs sshd, ssh and ssh-keygen: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user", "stranger"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    there, bin_folder = folder / "there", folder / "bin"
    there.mkdir()
    bin_folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a root's sshd wants to be; a service would make it
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"PermitRootLogin yes\nPasswordAuthentication no\n"
        f"SetEnv TMPDIR={there}\n"
    )
    common = f"HostName 127.0.0.1\nUser {getpass.getuser()}\nIdentitiesOnly yes\nStrictHostKeyChecking no\n"
    common += f"UserKnownHostsFile {folder}/known\nLogLevel ERROR\n"
    (folder / "ssh_config").write_text(
        f"Host jetson\nIdentityFile {folder}/user\nPort {port}\n{common}"
        f"Host stranger\nIdentityFile {folder}/stranger\nPort {port}\n{common}"
        f"Host nobody\nIdentityFile {folder}/user\nPort 1\n{common}"
    )
    (bin_folder / "ssh").write_text(f'#!/bin/sh\nexec {client} -F {folder}/ssh_config "$@"\n')
    (bin_folder / "ssh").chmod(0o755)
    log = (folder / "log").open("w")
    with subprocess.Popen([daemon, "-D", "-e", "-f", folder / "sshd_config"], stderr=log) as process:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {(folder / 'log').read_text().strip()}")
        yield folder
        process.terminate()
    log.close()


@pytest.fixture
def jetson(sshd, monkeypatch):
    """Return jetson(how): a stand-in builder behind ssh, which works, or fails in this way."""
    monkeypatch.setenv("PATH", f"{sshd / 'bin'}{os.pathsep}{os.environ['PATH']}")
    stand_in = sshd / "stand_in"
    stand_in.write_text(STAND_IN.format(python=sys.executable, how=str(sshd / "how")))
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)

    def jetson(how="works", host="jetson"):
        (sshd / "how").write_text(how)
        return Remote(host=host, python=str(stand_in))

    yield jetson
    for _ in range(100):  # a lost connection is noticed there a little later
        if not any((sshd / "there").iterdir()):
            break
        time.sleep(0.1)
    assert list((sshd / "there").iterdir()) == []  # nothing is left behind


def test_the_engines_come_back_and_all_else_stays(jetson, bundle_copy):
    before, steps = contents(bundle_copy), []
    options = ["--trt", "--precision", "fp32", "--profile", "1x1,1x60,8x99"]
    (added,) = build_on(jetson(), bundle_copy, options, on_progress=lambda *step: steps.append(step))
    after = contents(bundle_copy)
    assert {str(path) for path in after if after[path] != before.get(path)} == {
        "bundle.json",
        "MODEL_CARD.md",
        "engines/stand-in.engine",
    }
    assert before.keys() < after.keys()
    assert read_bundle(bundle_copy).check_files()
    assert added.artefact.engine.built["options"] == options
    assert added.not_executed == "built on jetson, which did not run it"
    assert (50, 100, "stand-in") in steps


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            "full",
            BackendError,
            r"^jetson: nothing was built: \[Errno 28\] No space left on device\. Fix: make room",
        ),
        ("lost", BackendError, r"^jetson: the connection failed or was lost; nothing was changed here: "),
        ("other", BundleError, r"^jetson: another bundle came back than was sent; nothing was changed here"),
    ],
)
def test_a_failure_on_the_way_changes_nothing_here_and_leaves_nothing_there(
    jetson, bundle_copy, how, error, message
):
    before = contents(bundle_copy)
    with pytest.raises(error, match=message):
        build_on(jetson(how), bundle_copy, ["--trt"])
    assert contents(bundle_copy) == before
    assert [path.name for path in bundle_copy.parent.iterdir() if path.name.startswith("copy")] == [
        "copy.spoter"
    ]


def test_a_refused_connection_gives_the_three_commands(jetson, bundle_copy):
    with pytest.raises(BackendError, match=r"nobody: the connection failed") as raised:
        build_on(jetson(host="nobody"), bundle_copy, ["--trt"])
    first, second, third = raised.value.fix.removeprefix("by hand: ").split(" && ")
    assert first == f"scp -r {bundle_copy} nobody:"
    assert second.startswith("ssh nobody '")
    assert second.endswith("-m spoter_export copy.spoter --trt'")
    assert third == f"scp -r nobody:copy.spoter {bundle_copy.parent}"


def test_a_key_that_is_not_known_there_is_told_with_the_command(jetson, bundle_copy):
    with pytest.raises(BackendError, match=r"Permission denied.* Fix: ssh-copy-id stranger, then again"):
        build_on(jetson(host="stranger"), bundle_copy, ["--trt"])


def test_a_python_that_is_not_there_is_named(jetson, bundle_copy):
    jetson()
    with pytest.raises(BackendError, match=r"jetson: /no/python has no spoter-kit: .*Fix: install it there"):
        build_on(Remote(host="jetson", python="/no/python"), bundle_copy, ["--trt"])


def test_a_python_that_builds_nothing_is_no_success(jetson, sshd, bundle_copy):
    jetson()
    silent = sshd / "silent"
    silent.write_text("#!/bin/sh\nexit 0\n")
    silent.chmod(0o755)
    with pytest.raises(BackendError, match=r"jetson: .*/silent ended well and built nothing"):
        build_on(Remote(host="jetson", python=str(silent)), bundle_copy, ["--trt"])


def test_a_full_disk_is_told_in_tars_words(jetson, sshd, bundle_copy):
    small = sshd / "there"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        before = contents(bundle_copy)
        with pytest.raises(BackendError, match=r"(?s)jetson: nothing was built: .*No space left on device"):
            build_on(jetson(), bundle_copy, ["--trt"])
        assert contents(bundle_copy) == before
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.slow
def test_the_real_builder_answers_over_ssh(jetson, bundle_copy):
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: it builds engines without a GPU")
    jetson()
    (added,) = build_on(Remote(host="jetson", python=sys.executable), bundle_copy, ["--rtx"])
    assert added.artefact.engine.library == "tensorrt_rtx"
    bundle = read_bundle(bundle_copy)
    assert len(bundle.read(added.artefact.path)) == added.artefact.size_bytes


def test_without_ssh_the_commands_are_told(bundle_copy, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"ssh is not installed\. Fix: by hand: scp -r "):
        build_on(Remote(host="jetson"), bundle_copy, ["--trt"])


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("jetson", Remote(host="jetson")),
        ("ada@10.0.0.7", Remote(host="ada@10.0.0.7")),
        ("ada@jetson:.venv/bin/python", Remote(host="ada@jetson", python=".venv/bin/python")),
    ],
)
def test_a_host_is_read_with_its_python(text, remote):
    assert parse_remote(text) == remote


@pytest.mark.parametrize("text", ["", "-oProxyCommand=x", "a b", "ada@", "ada@jetson:", "jetson;reboot"])
def test_what_is_no_host_never_reaches_ssh(text):
    with pytest.raises(ConfigError, match=r"expected user@host or user@host:PYTHON\. Fix: --on user@jetson"):
        parse_remote(text)
