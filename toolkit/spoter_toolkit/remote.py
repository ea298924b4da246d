"""build_on: build engines for a bundle on another machine, over one ssh connection."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from spoter_export.bundle.engines import AddedEngine, plan_from_bundle
from spoter_export.bundle.files import bundle_lock, read_proofs
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.contract import Profile
from spoter_runtime.errors import BackendError, BundleError, ConfigError, MissingExtraError
from spoter_runtime.files import replacing

# No question is asked; a connection that is lost is noticed within a minute.
_SSH: Final = (
    *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"),
)
_HOST: Final = re.compile(r"(?P<host>(?:[\w.-]+@)?[\w][\w.-]*)(?::(?P<python>[^\s:]+))?", re.ASCII)
# The bundle comes in and goes out as a tar. The folder goes in any case, also when the connection is lost:
# then the builder, or tar, cannot write any more and ends.
_SCRIPT: Final = """umask 077
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
trap 'exit 129' HUP INT TERM PIPE
export TMPDIR="$folder"
tar -C "$folder" -xf - && {build} <&- >&2 && tar -C "$folder" -cf - {name}
"""
_SSH_FAILED: Final = 255
_NOT_FOUND: Final = 127
_LAST_LINES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A machine to build on.

    Attributes:
        host: as ssh takes it, ``"user@jetson"``.
        python: the interpreter there that has spoter-kit and TensorRT.
    """

    host: str
    python: str = "python3"


@dataclass(slots=True)
class _Answer:
    """What came back over the connection."""

    stdout: io.BytesIO = field(default_factory=io.BytesIO)
    lines: list[str] = field(default_factory=list)  # of stderr


def parse_remote(text: str) -> Remote:
    """Parse ``"user@jetson"`` or ``"user@jetson:.venv/bin/python"``.

    Raises:
        ConfigError: another form; one that ssh would take for an option, too.
    """
    found = _HOST.fullmatch(text)
    if not found:
        raise ConfigError(f"--on {text!r}: expected user@host or user@host:PYTHON", fix="--on user@jetson")
    return Remote(host=found["host"], python=found["python"] or "python3")


def build_on(
    remote: Remote,
    folder: Path,
    options: Sequence[str],
    *,
    profiles: Sequence[Profile] | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[AddedEngine, ...]:
    """Run ``python -m spoter_export`` on another machine, and take its engines into the bundle here.

    The bundle is copied there and back; the copy there is removed in any case. The bundle here changes only
    when everything is back and checked.

    Args:
        remote: from `parse_remote`.
        folder: the bundle.
        options: options of ``python -m spoter_export``.
        profiles: shapes that the options name, for the returned plan.
        on_progress: called with (done, total, what).

    Returns:
        The new engines, with the proofs that were made there.

    Raises:
        BackendError: no ssh, no connection, a lost one, or the build there failed; the message quotes it.
        BundleError: what came back is not this bundle with new engines.
    """
    folder = folder.resolve()
    if shutil.which("ssh") is None:
        raise MissingExtraError("ssh is not installed", fix=by_hand(remote, folder, options))
    with bundle_lock(folder, on_progress):
        bundle = read_bundle(folder)
        bundle.check_files()
        content = _exchange(remote, bundle, options, on_progress)
        with replacing(folder) as temporary:
            temporary.mkdir()
            _extract(content, temporary, folder.name, remote.host)
            _check_same(read_bundle(temporary), bundle, remote.host)
        after = read_bundle(folder)
    added = _added(bundle, after, profiles, remote.host)
    if not added:
        raise BackendError(
            f"{remote.host}: {remote.python} ended well and built nothing",
            fix=f"see what it is: ssh {remote.host} {remote.python} -m spoter_export --version",
        )
    return added


def by_hand(remote: Remote, folder: Path, options: Sequence[str]) -> str:
    """Return the three commands that do the same."""
    build = shlex.join([remote.python, "-m", "spoter_export", folder.name, *options])
    there, here = shlex.quote(folder.name), shlex.quote(str(folder))
    return (
        f"by hand: scp -r {here} {remote.host}: && ssh {remote.host} {shlex.quote(build)} "
        f"&& scp -r {remote.host}:{there} {shlex.quote(str(folder.parent))}"
    )


def _exchange(
    remote: Remote, bundle: Bundle, options: Sequence[str], on_progress: OnProgress | None
) -> bytes:
    """Send the bundle, let it be built, and return the tar that comes back."""
    name = bundle.folder.name
    arguments = shlex.join(["-m", "spoter_export", name, *options])
    script = _SCRIPT.format(build=_build_command(remote.python, arguments), name=shlex.quote(name))
    command = [*_SSH, "--", remote.host, f"exec sh -c {shlex.quote(script)}"]
    answer = _Answer()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        to_there, stdout, stderr = process.stdin, process.stdout, process.stderr
        readers = [
            threading.Thread(target=shutil.copyfileobj, args=(stdout, answer.stdout)),
            threading.Thread(target=_read_lines, args=(stderr, answer.lines, on_progress)),
        ]
        for reader in readers:
            reader.start()
        try:
            _send(bundle, to_there)
            for reader in readers:
                reader.join()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _failed(remote, bundle.folder, options, process.returncode, answer.lines)
    return answer.stdout.getvalue()


def _build_command(python: str, arguments: str) -> str:
    """Return the shell's words that build in the copy; a relative path of Python begins in the home there."""
    path = shlex.quote(python)
    start = f'"$PWD"/{path}' if "/" in python and not python.startswith(("/", "~")) else path
    return f'(python={start}; cd "$folder" && "$python" {arguments})'


def _send(bundle: Bundle, stream: IO[bytes] | None) -> None:
    """Write the bundle as a tar; a reader that has gone says why on stderr."""
    assert stream is not None  # it is a pipe
    with contextlib.suppress(BrokenPipeError), stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        archive.add(bundle.folder, arcname=bundle.folder.name)


def _read_lines(stream: IO[bytes], lines: list[str], on_progress: OnProgress | None) -> None:
    for raw in stream:
        line = raw.decode(errors="replace").rstrip()
        lines.append(line)
        del lines[:-_LAST_LINES]
        found = re.fullmatch(r" *(\d+) %  (.*)", line)  # of `python -m spoter_export`
        if on_progress and found:
            on_progress(int(found[1]), 100, found[2])


def _failed(
    remote: Remote, folder: Path, options: Sequence[str], code: int, lines: Sequence[str]
) -> BackendError:
    """Return the error for a connection or a build that failed."""
    said = "\n".join(line for line in lines if not re.match(r" *\d+ %  ", line)).strip()
    if code == _SSH_FAILED:
        quoted = said or "ssh said nothing"
        fix = by_hand(remote, folder, options)
        if "Permission denied" in said:
            fix = f"ssh-copy-id {remote.host}, then again; or {fix}"
        return BackendError(
            f"{remote.host}: the connection failed or was lost; nothing was changed here: {quoted}", fix=fix
        )
    if code == _NOT_FOUND or "No module named spoter_export" in said:
        return BackendError(
            f"{remote.host}: {remote.python} has no spoter-kit: {said}",
            fix=f"install it there, then --on {remote.host}:PYTHON names that interpreter",
        )
    error = said[said.rfind("error: ") + len("error: ") :] if "error: " in said else said
    message, _, fix = error.partition(" Fix: ")
    return BackendError(f"{remote.host}: nothing was built: {message or f'exit code {code}'}", fix=fix)


def _members(content: bytes) -> Iterator[tuple[PurePosixPath, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if member.isdir():
                continue
            file: Any = archive.extractfile(member) if member.isfile() else None
            path = PurePosixPath(member.name)
            if file is None or path.is_absolute() or ".." in path.parts:
                raise BundleError(f"{member.name}: no plain file in a bundle")
            yield path, file.read()


def _extract(content: bytes, target: Path, name: str, host: str) -> None:
    """Write the files of a tar of the bundle `name` into a folder."""
    try:
        for path, data in _members(content):
            file = target / path.relative_to(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise BundleError(f"{host}: what came back is no bundle: {error}") from error


def _check_same(after: Bundle, before: Bundle, host: str) -> None:
    """Check the hashes of what came back, and that only engines were added to this bundle."""
    after.check_files()
    ours = {artefact.path: artefact.sha256 for artefact in before.artefacts if artefact.engine is None}
    theirs = {artefact.path: artefact.sha256 for artefact in after.artefacts if artefact.engine is None}
    if ours != theirs or after.contract != before.contract:
        raise BundleError(f"{host}: another bundle came back than was sent; nothing was changed here")


def _added(
    before: Bundle, after: Bundle, profiles: Sequence[Profile] | None, host: str
) -> tuple[AddedEngine, ...]:
    proofs = {proof.artefact: proof for proof in read_proofs(after)}
    plan = plan_from_bundle(after, profiles)
    return tuple(
        AddedEngine(
            artefact=artefact,
            plan=plan,
            proof=proofs.get(artefact.path),
            not_executed="" if artefact.engine.executed else f"built on {host}, which did not run it",
        )
        for artefact in after.artefacts
        if artefact.engine is not None and artefact not in before.artefacts
    )
