"""engine_from_onnx: build a TensorRT or TensorRT-RTX engine from an ONNX file, and check it."""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from spoter_export.trt.build_progress import BuildProgress, monitor_for
from spoter_export.trt.file_checks import check_header, check_readable
from spoter_export.trt.profiles import ProfilePlan, check_profiles
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.libraries import Library
from spoter_runtime.contract import LENGTHS, LOGITS, POSES, GraphContract, Profile
from spoter_runtime.errors import BackendError, ConfigError, ExportError
from spoter_runtime.files import replacing
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.gpu.packages import import_engine_library
from spoter_runtime.landmarks import NUM_FEATURES
from spoter_runtime.trt.log import EngineLog
from spoter_runtime.trt.versions import Abilities, abilities

_log = logging.getLogger(__name__)

# Default GPUs of a TensorRT-RTX engine: Ampere, Ada and Blackwell; more GPUs do not make the engine larger.
# Not 7.5, which rejects fp32 matrix products, nor 12.1, which TensorRT-RTX 1.4 does not know.
RTX_COMPUTE_CAPABILITIES: Final = ("8.0", "8.6", "8.9", "12.0")

# NaN marks a missing landmark, so simplifications that assume no NaN are wrong. Set if the library has the
# flag (TensorRT 10.3 does not); TensorRT-RTX 1.7 builds the same bytes with it. DISTRIBUTIVE_INDEPENDENCE
# (answers independent of batch composition) is rejected with several profiles.
_STRICT_NANS: Final = "STRICT_NANS"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """A built engine that was not run yet.

    Attributes:
        plan: bytes of the engine.
        spec: description of the engine; `built` has the facts of the build.
    """

    plan: bytes = field(repr=False)
    spec: EngineSpec


def engine_from_onnx(
    model: bytes,
    *,
    library: Library,
    contract: GraphContract,
    plan: ProfilePlan,
    compute_capabilities: Sequence[str] | None = None,
    version_compatible: bool = False,
    timing_cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> BuiltEngine:
    """Build an engine from the bytes of an ONNX file with the graph contract.

    The network is strongly typed: each tensor has its type in the ONNX file, and TF32 is off. TensorRT builds
    only for the GPU of this machine, TensorRT-RTX on any machine. Ctrl-C, or an exception in `on_progress`,
    stops the build at its next step and propagates. Rebuilds are equivalent, but not always byte for byte:
    with dynamic batches TensorRT-RTX 1.7 may number and order internal names differently.

    TensorRT 8.6 is weakly typed: the file's types are constraints on its layers. It cannot stop a build.

    Args:
        model: bytes of the ONNX file, weights inside; for TensorRT 8.6 of opset 17.
        library: ``"tensorrt"`` (8.6, 10.3 or newer) or ``"tensorrt_rtx"`` (1.4 or newer).
        contract: the file's contract.
        plan: profiles that cover the contract, and buckets, which are only recorded.
        compute_capabilities: ``"8.6"``, …, for TensorRT-RTX only; None means `RTX_COMPUTE_CAPABILITIES`.
        version_compatible: build for newer versions of TensorRT and for its lean runtime too. The plan then
            brings code for the CPU, see `EngineSpec.host_code`.
        timing_cache: file that makes a rebuild on the same GPU faster, for TensorRT only. It is replaced at
            the end, even if it is of another GPU or version; of concurrent builds the last one wins. An
            unreadable or read-only file is ignored.
        on_progress: called from another thread; `done` never falls and ends at `total`.

    Raises:
        ConfigError: an option that the library lacks, or profiles that do not fit the contract.
        MissingExtraError: the library is not installed.
        BackendError: the library or, for TensorRT, a GPU cannot be used here.
        ExportError: the file does not match the contract, the build fails, or the engine differs from the
            request.
    """
    check_profiles(plan.profiles, contract)
    if library == "tensorrt" and compute_capabilities is not None:
        raise ConfigError(
            f"TensorRT builds for the GPU of this machine, not for {', '.join(compute_capabilities)}",
            fix="name no compute capability, or build with TensorRT-RTX",
        )
    if library == "tensorrt_rtx" and timing_cache is not None:
        raise ConfigError("TensorRT-RTX times nothing when it builds", fix="timing_cache=None")
    if library == "tensorrt_rtx" and version_compatible:
        raise ConfigError("TensorRT-RTX builds no version-compatible engines", fix="build with TensorRT")
    trt = import_engine_library(library)
    able = abilities(library, trt.__version__)
    check_readable(model, able, f"{library} {trt.__version__}")
    rtx = library == "tensorrt_rtx"
    targets = tuple(dict.fromkeys(compute_capabilities or RTX_COMPUTE_CAPABILITIES)) if rtx else ()
    # Before creating a Builder: without a GPU, TensorRT's own message has only an error number.
    capabilities = targets or (find_gpu().compute_capability,)
    build = EngineBuild(trt, rtx, able)
    build.read(model, contract)
    facts = build.network_facts()
    build.set_flags(version_compatible=version_compatible)
    if not able.strongly_typed:
        build.keep_types_trt8()
    build.set_profiles(plan.profiles)
    build.set_compute_capabilities(targets)
    cache = build.attach_timing_cache(timing_cache) if timing_cache else None
    progress = BuildProgress(on_progress)
    begun = time.perf_counter()
    content = build.run(progress)
    seconds = time.perf_counter() - begun
    if timing_cache:
        write_timings(cache, timing_cache)
    if rtx:
        check_header(content, trt.__version__, targets)
    spec = EngineSpec(
        library=library,
        version=trt.__version__,
        compute_capabilities=capabilities,
        system=platform.system(),
        machine=platform.machine(),
        profiles=build.profiles(),
        buckets=plan.buckets,
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        host_code=version_compatible,  # the lean runtime inside: without it, newer versions could not run it
        version_compatible=version_compatible,
        built={
            "month": f"{datetime.now(timezone.utc):%Y-%m}",
            "seconds": round(seconds, 2),
            **facts,
            "lengths": plan.source,
            "padding": {name: round(share, 4) for name, share in asdict(plan.padding).items()},
        },
    )
    progress.end()
    return BuiltEngine(plan=content, spec=spec)


def parse_compute_capabilities(text: str) -> tuple[str, ...]:
    """Parse ``"8.6,SM89,120"`` to ``("8.6", "8.9", "12.0")``, sorted and unique.

    Raises:
        ConfigError: a part is not a compute capability.
    """
    found = set()
    for name in text.replace(",", " ").split():
        digits = name.lower().removeprefix("sm").replace("_", "").replace(".", "")
        if not (digits.isascii() and digits.isdigit() and 2 <= len(digits) <= 3):
            raise ConfigError(
                f"compute capability {name!r}: expected one such as 8.6", fix="8.0,8.6,8.9,12.0"
            )
        found.add((int(digits[:-1]), int(digits[-1])))
    if not found:
        raise ConfigError("no compute capability was named", fix="8.0,8.6,8.9,12.0")
    return tuple(f"{major}.{minor}" for major, minor in sorted(found))


class EngineBuild:
    """One build: owns the library's objects, and checks the result of each call."""

    def __init__(self, trt: Any, rtx: bool, able: Abilities) -> None:
        self._trt = trt
        self._able = able
        self._title = f"{'TensorRT-RTX' if rtx else 'TensorRT'} {trt.__version__}"
        self._log = EngineLog(trt)
        try:
            self._builder = trt.Builder(self._log.logger)
        except TypeError as error:  # pybind11 raises this if the factory returned null
            raise BackendError(f"{self._title} cannot make a builder here: {self._log.take()}") from error
        kinds = trt.NetworkDefinitionCreationFlag
        kind = kinds.STRONGLY_TYPED if able.strongly_typed else kinds.EXPLICIT_BATCH
        self._network = self._made(self._builder.create_network(1 << int(kind)), "network")
        self._config = self._made(self._builder.create_builder_config(), "configuration")
        self._profiles: list[Any] = []
        self._targets: Sequence[str] = ()

    def parse(self, model: bytes) -> None:
        """Parse the ONNX file."""
        # Keep the parser: it owns the weights of the layers.
        self._parser = self._made(self._trt.OnnxParser(self._network, self._log.logger), "ONNX parser")
        if not self._parser.parse(model):
            texts = []
            for error in (self._parser.get_error(i) for i in range(min(3, self._parser.num_errors))):
                if not self._able.has_progress:
                    node = f"node {error.node()}: "
                else:
                    node = (
                        f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
                    )
                texts.append(node + error.desc())
            raise ExportError(
                f"{self._title} cannot read the ONNX file: {'; '.join(texts) or self._log.take()}",
                fix="spoter-kit export --onnx --force writes it anew",
            )

    def read(self, model: bytes, contract: GraphContract) -> None:
        """Parse the ONNX file, and check its inputs and output against the contract."""
        self.parse(model)
        expected = {
            POSES: ("FLOAT", (-1, -1, NUM_FEATURES)),
            LENGTHS: ("INT32", (-1,)),
            LOGITS: ("FLOAT", (-1, contract.num_classes)),
        }
        network = self._network
        tensors = [network.get_input(i) for i in range(network.num_inputs)]
        tensors += [network.get_output(i) for i in range(network.num_outputs)]
        found = {tensor.name: (tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors}
        if found != expected:
            wanted, got = (
                ", ".join(f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in names.items())
                for names in (expected, found)
            )
            raise ExportError(f"the ONNX file's inputs and output: expected {wanted}, got {got}")

    def set_flags(self, *, version_compatible: bool = False) -> None:
        """Set the flags that keep the precision of the file, and those that were asked for."""
        flags = self._trt.BuilderFlag
        self._config.clear_flag(flags.TF32)  # on by default: rounds fp32 products to 10 bits of mantissa
        if _STRICT_NANS in flags.__members__:
            self._config.set_flag(flags.__members__[_STRICT_NANS])
        if version_compatible:
            self._config.set_flag(flags.VERSION_COMPATIBLE)

    def keep_types_trt8(self) -> None:
        """Constrain each layer to the float type that its outputs have in the file, or else its inputs."""
        flags, layer_types, data_types = self._trt.BuilderFlag, self._trt.LayerType, self._trt.DataType
        self._config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        network, floats = self._network, (data_types.FLOAT, data_types.HALF)
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            if layer.type in (layer_types.CAST, layer_types.CONSTANT):
                continue  # each states its type itself
            inputs = [tensor for i in range(layer.num_inputs) if (tensor := layer.get_input(i)) is not None]
            outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
            kinds = [tensor.dtype for tensor in (*outputs, *inputs) if tensor.dtype in floats]
            if not kinds:
                continue
            layer.precision = kinds[0]
            for i in range(layer.num_outputs):
                if layer.get_output(i).dtype in floats:
                    layer.set_output_type(i, kinds[0])
            if kinds[0] == data_types.HALF:
                self._config.set_flag(flags.FP16)

    def set_profiles(self, profiles: Sequence[Profile]) -> None:
        """Add the profiles in this order."""
        for profile in profiles:
            shapes = list(zip(profile.batch, profile.frames, strict=True))
            poses = [(batch, frames, NUM_FEATURES) for batch, frames in shapes]
            self.add_profile({POSES: poses, LENGTHS: [(batch,) for batch, _ in shapes]}, str(profile))

    def add_profile(self, shapes: Mapping[str, Sequence[tuple[int, ...]]], what: str = "") -> None:
        """Add a profile: each input's smallest, usual and largest shape."""
        made = self._made(self._builder.create_optimization_profile(), "optimisation profile")
        for name, sizes in shapes.items():
            made.set_shape(name, *sizes)
        if self._config.add_optimization_profile(made) != len(self._profiles):
            raise ExportError(f"{self._title} refuses the profile {what or shapes}: {self._log.take()}")
        self._profiles.append(made)

    def set_compute_capabilities(self, targets: Sequence[str]) -> None:
        """Build for these GPUs; empty means the GPU of this machine."""
        if not targets:
            return
        known = {
            f"{name[2:-1]}.{name[-1]}": value
            for name, value in self._trt.ComputeCapability.__members__.items()
            if name.startswith("SM")
        }
        if unknown := [name for name in targets if name not in known]:
            raise ConfigError(
                f"{self._title} does not build for {', '.join(unknown)}, only for {', '.join(known)}",
                fix="leave it out, or build with TensorRT on that GPU",
            )
        self._targets = targets
        self._config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            set_it = self._config.set_compute_capability(known[name], index)
            if not set_it or self._config.get_compute_capability(index) != known[name]:
                raise BackendError(
                    f"{self._title} does not take compute capability {name}: {self._log.take()}"
                )

    def attach_timing_cache(self, path: Path) -> Any:
        """Attach the timing cache of a file, or an empty one if the file is of another GPU or version."""
        content = b""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("%s: cannot be read, the timings are begun anew: %s", path, error)
        cache = self._config.create_timing_cache(content)
        if cache is None or not self._config.set_timing_cache(cache, False):
            _log.warning("%s: not timings of this GPU and version; begun anew", path)
            cache = self._made(self._config.create_timing_cache(b""), "timing cache")
            if not self._config.set_timing_cache(cache, False):
                raise BackendError(f"{self._title} does not take an empty timing cache: {self._log.take()}")
        self._log.take()  # discard errors about the cache file, so that a later failure does not report them
        return cache

    def run(self, progress: BuildProgress) -> bytes:
        """Build the engine; return its plan."""
        # In a separate thread: Ctrl-C interrupts the main thread, which waits here. Inside a callback, the
        # library would print and drop the exception.
        if self._able.has_progress:
            monitor = monitor_for(self._trt, progress)
            self._config.progress_monitor = monitor
        with ThreadPoolExecutor(1) as threads:
            try:
                building = threads.submit(self._builder.build_serialized_network, self._network, self._config)
                while not building.done():
                    wait([building], timeout=0.1)  # Windows sees Ctrl-C only between waits
            except BaseException:
                progress.cancel()
                raise
        if progress.error:
            raise progress.error
        memory = building.result()
        if memory is None:
            turing = "leave out compute capability 7.5, or " if "7.5" in self._targets else ""
            raise ExportError(
                f"{self._title} built no engine: {self._log.take()}",
                fix=f"{turing}change the ONNX file where the reason says",
            )
        return bytes(memory)

    def profiles(self) -> tuple[Profile, ...]:
        """Return the profiles as the library reports them."""
        found = []
        for made in self._profiles:
            shapes = [tuple(shape) for shape in made.get_shape(POSES)]
            low, opt, high = (shape[:2] for shape in shapes)
            found.append(Profile(batch=(low[0], opt[0], high[0]), frames=(low[1], opt[1], high[1])))
        return tuple(found)

    def network_facts(self) -> dict[str, Any]:
        """Return the number of layers, and the number of outputs by layer type and data type."""
        types: dict[str, Counter[str]] = {}
        network = self._network
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            outputs = (layer.get_output(i).dtype.name for i in range(layer.num_outputs))
            types.setdefault(layer.type.name, Counter()).update(outputs)
        return {
            "layers": network.num_layers,
            "types": {name: dict(sorted(types[name].items())) for name in sorted(types)},
        }

    def _made(self, made: Any, what: str) -> Any:
        if made is None:
            raise BackendError(f"{self._title} cannot make its {what}: {self._log.take()}")
        return made


def write_timings(cache: Any, path: Path) -> None:
    """Write a timing cache to a file; warn if that fails, because a rebuild will not be faster."""
    memory = cache.serialize()
    if memory is None:
        _log.warning("%s: the timings of this build cannot be kept", path)
        return
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(bytes(memory))
    except OSError as error:
        _log.warning("%s: cannot be written, a rebuild will take as long: %s", path, error)
