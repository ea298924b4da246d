"""OrtRunner: an ONNX file on ONNX Runtime."""

from __future__ import annotations

import json
import operator
import os
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from spoter_runtime.checked_file import is_file
from spoter_runtime.contract import LENGTHS, LOGITS, METADATA_KEY, POSES, REQUIRES_KEY, GraphContract
from spoter_runtime.engine_calls import ENGINE_CALLS, OPENING, check_process, keep_from_forks
from spoter_runtime.errors import BackendError, BundleError, require
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Int32Array, Runner

if TYPE_CHECKING:
    from spoter_runtime.ort.cuda_graphs import GraphedSession
    from spoter_runtime.ort.gpu_session import GpuProvider

# Every distribution that installs the module `onnxruntime`; two of them overwrite each other's files.
_DISTRIBUTIONS: Final = (
    "onnxruntime",
    "onnxruntime-directml",
    "onnxruntime-gpu",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)

# ONNX Runtime 1.29 and later report to Microsoft over the network unless this is 1 when they are imported;
# `disable_telemetry_events()` after the import does not stop it (seen with 1.32).
_TELEMETRY_SWITCH: Final = "ORT_DISABLE_TELEMETRY"
_FIRST_WITH_TELEMETRY: Final = "1.29"

_MAX_THREADS = 256  # beyond any machine it runs on; a typo would make ONNX Runtime start them all

_TUNED_FRAMES = 60  # two seconds of video: one clip of an isolated sign, which is what TensorRT tunes for


def installed_distributions() -> dict[str, str]:
    """Return name → version of every installed distribution that provides ONNX Runtime."""
    # Read from the names of their folders, ``onnxruntime_gpu-1.32.0.dist-info``: importing importlib.metadata
    # takes a tenth of a cold start.
    wanted = {name.replace("-", "_"): name for name in _DISTRIBUTIONS}
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                names = [entry.name for entry in entries if entry.name.startswith("onnxruntime")]
        except OSError:
            continue
        for entry in names:
            if entry.endswith(".dist-info"):
                name, _, version = entry.removesuffix(".dist-info").partition("-")
                if name in wanted:
                    found.setdefault(wanted[name], version)  # the first on the path is what is imported
    return {name: found[name] for name in _DISTRIBUTIONS if name in found}


Provider = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
# As ONNX Runtime calls them.
PROVIDER_NAMES: Final[dict[Provider, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
PROVIDERS: Final[tuple[Provider, ...]] = tuple(PROVIDER_NAMES)


def import_onnxruntime(provider: Provider = "cpu") -> Any:
    """Import ONNX Runtime with its telemetry off; refuse when there is none, or more than one.

    Sets ``ORT_DISABLE_TELEMETRY=1`` in this process's environment, unless the user has set it. Warns where
    ONNX Runtime was imported before without it: its telemetry may be running then.

    Args:
        provider: what it is wanted for; the fix in an error installs a build that has it.

    Raises:
        MissingExtraError: none is installed.
        BackendError: two distributions own the same files, and which one runs is chance; or its files
            are gone.
    """
    extra = "gpu" if provider in ("cuda", "tensorrt") else "cpu"
    found = installed_distributions()
    if len(found) > 1:
        names = ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
        raise BackendError(
            f"{len(found)} distributions of ONNX Runtime are installed and overwrite each other's files: "
            f"{names}",
            fix=f"pip uninstall -y {' '.join(sorted(found))} && pip install 'spoter-kit[{extra}]'",
        )
    too_late = _switch_telemetry_off()
    ort = require("onnxruntime", extra=extra)
    if not hasattr(ort, "InferenceSession"):  # Python takes what is left of its folder for a package
        name = next(iter(found), "onnxruntime")
        raise BackendError(
            f"{name} is installed, but its files are gone, as after another build of it was uninstalled",
            fix=f"pip install --force-reinstall --no-deps {name}",
        )
    if too_late and not is_older(ort.__version__, _FIRST_WITH_TELEMETRY):
        warnings.warn(
            f"onnxruntime {ort.__version__} was imported before spoter_runtime imports it, and "
            f"{_TELEMETRY_SWITCH} was not set: it may report to Microsoft from this process. Fix: set "
            f"{_TELEMETRY_SWITCH}=1 in the environment of the process, or in os.environ before the first "
            "import of onnxruntime",
            stacklevel=2,
        )
    return ort


def _switch_telemetry_off() -> bool:
    """Set ONNX Runtime's switch unless it is set; tell whether that comes too late."""
    if os.environ.get(_TELEMETRY_SWITCH):  # ours from the call before, or the user's
        return False
    too_late = "onnxruntime" in sys.modules
    os.environ[_TELEMETRY_SWITCH] = "1"
    return too_late


def check_provider(provider: Provider) -> None:
    """Check that this ONNX Runtime has a provider, without loading it, or what is needed to load it.

    Raises:
        MissingExtraError, BackendError: as `import_onnxruntime`; or it has not.
    """
    name = PROVIDER_NAMES[provider]
    ort = import_onnxruntime(provider)
    if provider == "tensorrt-rtx" or name in ort.get_available_providers():  # that one is a plug-in
        return
    installed = ", ".join(f"{name} {version}" for name, version in installed_distributions().items())
    raise BackendError(
        f"{name}: not in {installed or 'this ONNX Runtime'}, which has "
        f"{', '.join(ort.get_available_providers())}",
        fix=f"{gpu_build_fix()}",
    )


def gpu_build_fix() -> str:
    """Return the command that puts the build with CUDA in the place of what is installed."""
    others = " ".join(name for name in sorted(installed_distributions()) if name != "onnxruntime-gpu")
    if others:
        return f"pip uninstall -y {others} && pip install 'spoter-kit[gpu]'"
    return "pip install --force-reinstall --no-deps onnxruntime-gpu"  # it is there, and has lost files


def whole_threads(threads: Any) -> int:
    """Return a number of threads as an int, from numpy's whole numbers too.

    Raises:
        BackendError: it is no whole number, or none that a machine has.
    """
    try:
        number = operator.index(threads)
    except TypeError:
        number = 0
    if isinstance(threads, bool) or not 1 <= number <= _MAX_THREADS:
        raise BackendError(f"threads={threads!r}: expected a whole number, 1..{_MAX_THREADS}")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How ONNX Runtime runs a file on the CPU; the defaults are its own.

    Attributes:
        threads: inside one operator; None takes one a core.
        spin: let threads that have nothing to do wait awake.
        arena: keep memory that a call has used for the next one.
        without: names of its optimisers that are left out.
        optimise: let it rewrite the graph; without, each operator is run as the file says.
    """

    threads: int | None = None
    spin: bool = True
    arena: bool = True
    without: tuple[str, ...] = ()
    optimise: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None:
            object.__setattr__(self, "threads", whole_threads(self.threads))

    def __str__(self) -> str:
        """Return what is not as ONNX Runtime has it by itself, and the threads."""
        threads = (
            "a thread a core" if self.threads is None else f"{self.threads} thread{'s' * (self.threads > 1)}"
        )
        words = [threads, *(f"without {name}" for name in self.without)]
        words += [] if self.spin else ["idle threads asleep"]
        words += [] if self.arena else ["no memory kept between calls"]
        return ", ".join(words)

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


class OrtRunner(Runner):
    """Run an ONNX file that carries its contract in its own metadata.

    Thread-safe: ONNX Runtime sessions may be called from several threads at once; with CUDA graphs, a lock
    lets one batch through at a time.
    """

    def __init__(
        self,
        model: Path | str | bytes,
        *,
        threads: int | None = None,
        settings: SessionSettings | None = None,
        provider: Provider = "cpu",
        cache: Path | None = None,
        graphs: int = 64,
        name: str | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: a path, or the bytes of the file.
            threads: threads inside one operator, on the CPU; None leaves it to ONNX Runtime (one per core).
            settings: all that can be chosen of a session, `threads` among it.
            provider: what computes. ``"tensorrt"`` and ``"tensorrt-rtx"`` build an engine here, which takes
                seconds to minutes. The first rounds fp32 matrix products to TF32 and has no option against
                it: ``NVIDIA_TF32_OVERRIDE=0`` in the environment turns it off.
            cache: folder where those two keep what they built; None keeps nothing. One for each model: what
                is kept is named after the graph and not after its weights.
            graphs: how many shapes of several clips ``"cuda"`` keeps a CUDA graph for, beside those of one
                clip; see `GraphedSession`. 0 launches each kernel by itself, without padding.
            name: the backend's; None calls it after the provider.

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
            BackendError: two of them are, ONNX Runtime cannot load the file or is older than it says, the
                provider does not run here, or it leaves float arithmetic to others.
            BundleError: the file is not there, or carries no contract of ours.
        """
        if provider not in PROVIDERS:
            raise BackendError(f"provider {provider!r}: expected one of {', '.join(PROVIDERS)}")
        where = "the ONNX model" if isinstance(model, bytes) else str(model)
        settings = settings or SessionSettings(threads=threads)
        self.name = name or f"ort-{provider}"
        self._graphed: GraphedSession | None = None
        with ENGINE_CALLS:
            ort = import_onnxruntime(provider)
            if not isinstance(model, bytes):
                _check_file(model)
            options = settings.options(ort)
            if provider == "cpu":
                self._session, metadata = _on_cpu(ort, model, options, settings.without, where)
                self.contract = _contract(ort, metadata, where)
            else:
                content = model if isinstance(model, bytes) else Path(model).read_bytes()
                self._session, self.contract, self._graphed = _on_gpu(
                    ort, content, options, provider, cache, where, graphs
                )
        self._opened_in = os.getpid()
        keep_from_forks(self._session)

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        check_process(self._opened_in, self.name)
        try:
            if self._graphed is not None:
                return self._graphed.run(poses_NTD, lengths_N)
            logits: Float32Array = self._session.run([LOGITS], {POSES: poses_NTD, LENGTHS: lengths_N})[0]
        except Exception as error:
            raise BackendError(f"{self.name}: failed on poses {poses_NTD.shape}: {error}") from error
        return logits


def is_older(version: str, least: str) -> bool:
    """Compare the first two numbers of two versions; nothing is older than an empty one."""
    here, needed = (tuple(int(part) for part in re.findall(r"\d+", text)[:2]) for text in (version, least))
    return here < needed


def check_version(needed: str, version: str, where: str) -> None:
    """Refuse a version that may load a file, and do something else than it says: 1.24 heeds no length.

    Args:
        needed: ``">=1.25"``, or nothing.
        version: of the ONNX Runtime that is here.
        where: how an error names the file.

    Raises:
        BackendError: names the version that the file needs.
    """
    least = needed.removeprefix(">=")
    if is_older(version, least):
        raise BackendError(
            f"{where}: needs onnxruntime {least}, here is {version}",
            fix=f"pip install 'onnxruntime>={least}', or ort-cpu with model.onnx",
        )


def write_optimised(model: bytes, settings: SessionSettings, path: Path, *, any_cpu: bool = False) -> None:
    """Write an ONNX file as ONNX Runtime rewrites it for this machine's CPU.

    Args:
        model: the file's bytes.
        settings: of the session that rewrites it.
        path: where it is written.
        any_cpu: leave out what depends on the processor.

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
        _on_cpu(ort, model, options, settings.without, "the ONNX model")


def _on_cpu(
    ort: Any, model: Path | str | bytes, options: Any, without: tuple[str, ...], where: str
) -> tuple[Any, dict[str, str]]:
    """Return the session and the file's metadata."""
    source = _readable(model)
    try:
        # enable_fallback=0: or a file that cannot be loaded is tried again, with a remark on stdout.
        with OPENING:
            session = ort.InferenceSession(
                source,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
                disabled_optimizers=list(without) or None,
            )
        return session, session.get_modelmeta().custom_metadata_map
    except Exception as error:
        raise BackendError(f"{where}: ONNX Runtime {ort.__version__} cannot load it: {error}") from error


def _check_file(path: Path | str) -> None:
    """Refuse a path at which no file lies: ONNX Runtime would wait for a pipe, and read a device forever.

    Raises:
        BundleError: there is nothing, or something else.
    """
    if not is_file(path):
        what = "is not a file" if os.path.lexists(path) else "no such file"
        raise BundleError(f"{path}: {what}", fix="spoter-kit export makes one")


def _readable(model: Path | str | bytes) -> str | bytes:
    """Return a path as ONNX Runtime takes it; the file's bytes where its name is no Unicode."""
    if isinstance(model, bytes):
        return model
    try:
        str(model).encode()
    except UnicodeEncodeError:
        return Path(model).read_bytes()
    return str(model)


def _on_gpu(
    ort: Any,
    content: bytes,
    options: Any,
    provider: GpuProvider,
    cache: Path | None,
    where: str,
    graphs: int,
) -> tuple[Any, GraphContract, GraphedSession | None]:
    """Return the session, the contract, and what runs it as CUDA graphs where it can be.

    TensorRT must know the shapes before it loads the file.
    """
    # Not at the top: a device without a GPU does not load what it cannot use.
    from spoter_runtime.bundle.engine_spec import Profile
    from spoter_runtime.onnx_graph import read_onnx
    from spoter_runtime.ort.cuda_graphs import GraphedSession
    from spoter_runtime.ort.gpu_session import gpu_session, records_graphs

    try:
        graph = read_onnx(content)
    except ValueError as error:
        raise BackendError(f"{where}: is not an ONNX file: {error}") from error
    contract = _contract(ort, graph.metadata, where)
    frames = contract.max_frames
    profile = Profile(batch=(1, 1, contract.max_batch), frames=(1, min(_TUNED_FRAMES, frames), frames))
    session = gpu_session(
        ort, content, graph, options, provider, where=where, profile=profile, cache=cache, graphs=graphs > 0
    )
    graphed = GraphedSession(ort, session, contract, most=graphs) if records_graphs(session) else None
    return session, contract, graphed


def _contract(ort: Any, metadata: dict[str, str], where: str) -> GraphContract:
    """Return what a file says of itself, where this ONNX Runtime is new enough for it."""
    check_version(metadata.get(REQUIRES_KEY, ""), ort.__version__, where)
    if METADATA_KEY not in metadata:
        raise BundleError(
            f"{where}: no {METADATA_KEY!r} in its metadata, so it was not exported by spoter-kit"
        )
    try:
        contract = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise BundleError(f"{where}: the contract in its metadata is damaged: {error}") from error
    return GraphContract.from_json(contract, where=where)
