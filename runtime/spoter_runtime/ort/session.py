"""An ONNX Runtime session on the CPU: its settings, and opening a file with its contract."""

from __future__ import annotations

import operator
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spoter_runtime.checked_file import MODEL_BYTES, is_file
from spoter_runtime.contract import LENGTHS, LOGITS, METADATA_KEY, POSES, REQUIRES_KEY, GraphContract
from spoter_runtime.engine_calls import ENGINE_CALLS, OPENING
from spoter_runtime.errors import BackendError, BundleError
from spoter_runtime.files import read_bytes
from spoter_runtime.landmarks import NUM_FEATURES
from spoter_runtime.machine import usable_cores
from spoter_runtime.ort.installed import check_version, import_onnxruntime
from spoter_runtime.strict import json_from_text

_VARYING: Final = {POSES: ("batch", "frames"), LENGTHS: ("batch",), LOGITS: ("batch",)}
_MAX_THREADS = 256  # beyond any machine it runs on; a typo would make ONNX Runtime start them all


def whole_threads(threads: Any) -> int:
    """Return a number of threads as an int; takes numpy's integers too.

    Raises:
        BackendError: not a whole number, or outside 1..256.
    """
    try:
        number = operator.index(threads)
    except TypeError:
        number = 0
    if isinstance(threads, bool) or not 1 <= number <= _MAX_THREADS:
        raise BackendError(f"threads={threads!r}: expected a whole number, 1..{_MAX_THREADS}")
    return number


def usable_threads(threads: Any) -> int:
    """Return a number of threads as an int, after comparing it with the cores of this process.

    Raises:
        BackendError: not a whole number, or more than there are cores.
    """
    number, cores = whole_threads(threads), usable_cores()
    if number > cores:
        raise BackendError(f"threads={threads}: this process may use {cores}", fix=f"threads={cores}")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How ONNX Runtime runs a file on the CPU; the defaults are its own.

    Attributes:
        threads: threads inside one operator; None means one per core.
        spin: let idle threads spin instead of sleeping.
        arena: keep the memory of a call for the next one.
        disabled_optimizers: names of ONNX Runtime's graph optimisers to turn off.
        optimise: let ONNX Runtime optimise the graph.
    """

    threads: int | None = None
    spin: bool = True
    arena: bool = True
    disabled_optimizers: tuple[str, ...] = ()
    optimise: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None:
            object.__setattr__(self, "threads", whole_threads(self.threads))

    def __str__(self) -> str:
        """Return the thread count and the non-default settings, in words."""
        threads = (
            "a thread a core" if self.threads is None else f"{self.threads} thread{'s' * (self.threads > 1)}"
        )
        words = [threads, *(f"without {name}" for name in self.disabled_optimizers)]
        words += [] if self.spin else ["idle threads asleep"]
        words += [] if self.arena else ["no memory kept between calls"]
        return ", ".join(words)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, by the names of the format that `tune` writes."""
        return {
            "threads": self.threads,
            "spin": self.spin,
            "arena": self.arena,
            "without": list(self.disabled_optimizers),
            "optimise": self.optimise,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SessionSettings:
        """Read what `as_json` wrote.

        Raises:
            KeyError, TypeError, BackendError: a field is missing, unknown or of another form.
        """
        names = value["without"]
        if not isinstance(names, list) or not all(isinstance(n, str) and n.isidentifier() for n in names):
            raise TypeError(f"without: {names!r}, expected names")
        if not all(type(value[name]) is bool for name in ("spin", "arena", "optimise")):
            raise TypeError(f"session: {value!r}, expected true or false")
        rest = {name: value[name] for name in value if name != "without"}
        return cls(**rest, disabled_optimizers=tuple(names))

    def options(self, ort: Any) -> Any:
        """Return ONNX Runtime's session options."""
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only: they come back as exceptions
        options.enable_cpu_mem_arena = self.arena
        if not self.optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not self.spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
            options.inter_op_num_threads = 1
        return options


def write_optimised(model: bytes, settings: SessionSettings, path: Path, *, any_cpu: bool = False) -> None:
    """Write an ONNX file after ONNX Runtime's graph optimisation for this machine's CPU.

    Args:
        model: bytes of the original file.
        settings: settings of the session that optimises it.
        path: the file to write.
        any_cpu: leave out optimisations that depend on the processor.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        BackendError: it cannot load the file.
    """
    ort = import_onnxruntime()
    options = settings.options(ort)
    options.optimized_model_filepath = str(path)
    if any_cpu:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with ENGINE_CALLS:
        cpu_session(ort, model, options, settings.disabled_optimizers, "the ONNX model")


def cpu_session(
    ort: Any, model: bytes, options: Any, disabled_optimizers: tuple[str, ...], where: str
) -> tuple[Any, dict[str, str]]:
    """Return the session and the file's metadata."""
    try:
        # enable_fallback=0: otherwise ONNX Runtime retries a failed load and prints to stdout.
        with OPENING:
            session = ort.InferenceSession(
                model,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
                disabled_optimizers=list(disabled_optimizers) or None,
            )
        return session, session.get_modelmeta().custom_metadata_map
    except Exception as error:
        raise BackendError(f"{where}: ONNX Runtime {ort.__version__} cannot load it: {error}") from error


def read_model(path: Path | str) -> bytes:
    """Return the bytes of a regular file: ONNX Runtime would block on a pipe, and read a device forever.

    It is given bytes, so that it loads what was checked, whatever the path holds by then.

    Raises:
        BundleError: no such file, not a regular one, or one that is larger than any ONNX file.
    """
    if not is_file(path):
        what = "is not a file" if os.path.lexists(path) else "no such file"
        raise BundleError(f"{path}: {what}", fix="check the path, or spoter-kit export makes one")
    try:
        return read_bytes(Path(path), most_bytes=MODEL_BYTES)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})", fix="copy it again") from error


def contract_from_metadata(ort: Any, metadata: dict[str, str], where: str) -> GraphContract:
    """Return the contract in a file's metadata, after checking the required version of ONNX Runtime."""
    check_version(metadata.get(REQUIRES_KEY, ""), ort.__version__, where)
    if METADATA_KEY not in metadata:
        raise BundleError(
            f"{where}: no {METADATA_KEY!r} in its metadata, so it was not exported by spoter-kit"
        )
    try:
        contract = json_from_text(metadata[METADATA_KEY])
    except ValueError as error:
        raise BundleError(f"{where}: the contract in its metadata is damaged: {error}") from error
    return GraphContract.from_json(contract, where=where)


def check_tensors(session: Any, contract: GraphContract, where: str) -> None:
    """Check a session's inputs and outputs: names, types and shapes, whatever a varying axis is called.

    Raises:
        BackendError: the message has the first difference, expected against got.
    """
    expected = {
        POSES: f"input float32 (batch, frames, {NUM_FEATURES})",
        LENGTHS: "input int32 (batch)",
        LOGITS: f"output float32 (batch, {contract.num_classes})",
    }
    found = {}
    for kind, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for value in values:
            dtype = re.sub(r"tensor\((.*)\)", r"\1", value.type)
            dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
            varying = dict(enumerate(_VARYING.get(value.name, ())))
            axes = [
                str(size) if isinstance(size, int) else varying.get(i, "?")
                for i, size in enumerate(value.shape)
            ]
            found[value.name] = f"{kind} {dtype} ({', '.join(axes)})"
    for name in [*expected, *found]:
        wanted, got = expected.get(name, "none"), found.get(name, "none")
        if got != wanted:
            raise BackendError(
                f"{where}: the model is not what its contract says: {name}: expected {wanted}, got {got}",
                fix="export the bundle again",
            )
