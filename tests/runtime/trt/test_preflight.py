"""Every way in which an engine does not fit has its own words, and the most fundamental one is told."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import re

import pytest

from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.manifest import Artefact
from spoter_runtime.contract import Profile
from spoter_runtime.errors import BackendError, MissingExtraError, pip_fix
from spoter_runtime.gpu.device import Gpu, find_gpu
from spoter_runtime.trt import preflight
from spoter_runtime.trt.preflight import INVALIDITY, Machine, choose_engine, reason_against, this_machine

LAPTOP = Machine(
    system="Linux",
    machine="x86_64",
    libraries={"tensorrt": "10.16.1.11", "tensorrt_rtx": "1.7.1.116"},
    missing={},
    gpu=Gpu(name="RTX 3060", compute_capability="8.6", memory_bytes=6 << 30, driver_cuda="13.0"),
)
WHOLE = Profile(batch=(1, 8, 8), frames=(1, 60, 99))
NO_DRIVER = BackendError("no NVIDIA driver on this machine", fix="install the driver")


@pytest.fixture
def bundle(exported, bundle_copy):
    """A copy of the small bundle, to get an engine."""
    return dataclasses.replace(exported.bundle, folder=bundle_copy)


@pytest.fixture
def with_engine(bundle):
    """Return with_engine(plan, library, **changes): the bundle with that file and a description of it."""

    def with_engine(plan=b"a plan", library="tensorrt", precision="fp32", path="model.engine", **changes):
        spec = {
            "library": library,
            "version": LAPTOP.libraries[library],
            "compute_capabilities": ("8.6",),
            "system": "Linux",
            "machine": "x86_64",
            "profiles": (WHOLE,),
            "buckets": (50, 99),
            "onnx_sha256": bundle.onnx("fp32").sha256,
            "built": {},
        }
        (bundle.folder / path).write_bytes(plan)
        engine = Artefact(
            path=path,
            kind="engine",
            precision=precision,
            sha256=hashlib.sha256(plan).hexdigest(),
            size_bytes=len(plan),
            max_logit_diff=1e-3,
            engine=EngineSpec(**(spec | changes)),
        )
        return dataclasses.replace(bundle, artefacts=(*bundle.artefacts, engine))

    return with_engine


def why(bundle, machine=LAPTOP, **options):
    reason = reason_against(bundle.artefacts[-1], bundle, machine, **options)
    return None if reason is None else str(reason)


def test_an_engine_that_fits_is_chosen(with_engine):
    bundle = with_engine()
    assert why(bundle) is None
    assert choose_engine(bundle, "tensorrt", "fp32", LAPTOP) == bundle.artefacts[-1]


ORIN = dataclasses.replace(LAPTOP, libraries={"tensorrt_lean": "10.16.1.11"})
TRT8 = {"version": "8.6.0", "version_compatible": True}


@pytest.mark.parametrize(
    ("built", "here", "reason"),
    [
        ("8.6.0", "10.16.1.11", None),
        ("10.3.0", "10.16.1.11", None),
        ("10.3.0", "11.4.0.106", None),
        (
            "8.6.0",
            "11.4.0.106",
            "built by tensorrt 8.6.0, installed is tensorrt_lean 11.4.0.106: version-compatible engines of "
            "it run up to version 10",
        ),
        (
            "11.4.0.106",
            "10.16.1.11",
            "built by tensorrt 11.4.0.106, installed is tensorrt_lean 10.16.1.11: a version-compatible "
            "engine runs on newer versions only",
        ),
    ],
)
def test_a_version_compatible_plan_runs_in_newer_lean_runtimes(with_engine, built, here, reason):
    bundle = with_engine(version=built, version_compatible=True)
    machine = dataclasses.replace(LAPTOP, libraries={"tensorrt_lean": here, "tensorrt": here})
    assert why(bundle, machine, library="tensorrt_lean") == reason
    full = why(bundle, machine)
    assert full == (reason and reason.replace("tensorrt_lean ", ""))


def test_a_plan_that_is_not_version_compatible_is_refused_for_lean_with_the_command_that_builds_one(
    with_engine,
):
    bundle = with_engine(version="10.16.1.11")
    with pytest.raises(
        BackendError,
        match=r"model\.engine: not version-compatible: tensorrt_lean runs no other plan\. Fix: "
        r"spoter-kit export \S+ --trt --version-compatible --force",
    ):
        choose_engine(bundle, "tensorrt_lean", "fp32", ORIN)
    assert choose_engine(with_engine(**TRT8), "tensorrt_lean", "fp32", ORIN).path == "model.engine"


def test_lean_runs_a_plan_with_code_inside_only_if_that_is_allowed(with_engine):
    bundle = with_engine(**TRT8, host_code=True)
    assert "brings code" in why(bundle, ORIN, library="tensorrt_lean")
    assert why(bundle, ORIN, library="tensorrt_lean", allow_host_code=True) is None


def test_without_an_engine_lean_names_the_command(bundle):
    with pytest.raises(
        BackendError, match=r"has no fp32 engine for tensorrt_lean\. Fix: .* --trt --version-comp"
    ):
        choose_engine(bundle, "tensorrt_lean", "fp32", ORIN)


def test_lean_that_is_not_installed_is_named_with_its_extra(with_engine):
    machine = dataclasses.replace(LAPTOP, libraries={"tensorrt": "8.6.0"})
    assert pip_fix("lean") in why(with_engine(**TRT8), machine, library="tensorrt_lean")


def test_older_readers_see_nothing_new_in_an_engine_that_is_not_version_compatible(with_engine):
    plain = with_engine().artefacts[-1].engine
    assert "version_compatible" not in plain.as_json()
    assert EngineSpec.from_json(plain.as_json()) == plain
    compatible = dataclasses.replace(plain, version_compatible=True)
    assert EngineSpec.from_json(compatible.as_json()) == compatible


OTHER_GPU = dataclasses.replace(
    LAPTOP, gpu=Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30, driver_cuda="12.6")
)
RTX = {"library": "tensorrt_rtx"}
OTHER = ": an engine runs on the very version that built it"


@pytest.mark.parametrize(
    ("changes", "machine", "reason"),
    [
        (
            {},
            {
                "libraries": {},
                "missing": {"tensorrt": BackendError("the module 'tensorrt' is not installed", fix="pip")},
            },
            "the module 'tensorrt' is not installed. Fix: pip",
        ),
        (
            {},
            {"libraries": {}},
            f"tensorrt is not installed. Fix: {pip_fix('trt')}",
        ),
        (
            {"version": "10.13.0.35"},
            {},
            "built by tensorrt 10.13.0.35, installed is 10.16.1.11" + OTHER,
        ),
        (
            {"version": "11.4.0.106"},
            {},
            "built by tensorrt 11.4.0.106, installed is 10.16.1.11" + OTHER,
        ),
        (
            {"version": "10.16.1.12"},
            {},
            "built by tensorrt 10.16.1.12, installed is 10.16.1.11" + OTHER,
        ),
        (
            {**RTX, "version": "1.6.0.40"},
            {},
            "built by tensorrt_rtx 1.6.0.40, installed is 1.7.1.116" + OTHER,
        ),
        ({}, {"gpu": None, "no_gpu": NO_DRIVER}, str(NO_DRIVER)),
        (
            {},
            {"gpu": None, "no_gpu": BackendError("cudaRuntimeGetVersion: cudaErrorUnknown: unknown error")},
            "cudaRuntimeGetVersion: cudaErrorUnknown: unknown error. Fix: see what `nvidia-smi` says",
        ),
        (
            {"compute_capabilities": ("8.0", "8.9")},
            {},
            "built for GPUs of compute capability 8.0, 8.9; RTX 3060 has 8.6",
        ),
        ({}, {"gpu": OTHER_GPU.gpu}, "built for GPUs of compute capability 8.6; Orin has 8.7"),
        ({"system": "Windows"}, {}, "built for Windows, this is Linux"),
        ({"machine": "aarch64"}, {}, "built for aarch64 processors, this is x86_64"),
        (
            {"profiles": (Profile(batch=(1, 1, 1), frames=(1, 60, 99)),)},
            {},
            "none of its profiles (1..1 (1) × 1..99 (60)) takes 2 clips × 1 frames, the contract does",
        ),
        (
            {"profiles": (Profile(batch=(1, 8, 8), frames=(1, 60, 98)),)},
            {},
            "none of its profiles (1..8 (8) × 1..98 (60)) takes 1 clips × 99 frames, the contract does",
        ),
    ],
)
def test_what_the_manifest_speaks_against(with_engine, changes, machine, reason):
    assert why(with_engine(**changes), dataclasses.replace(LAPTOP, **machine)) == reason


def test_a_jetsons_version_of_three_numbers_is_enough(with_engine):
    jetson = dataclasses.replace(LAPTOP, libraries={"tensorrt": "10.3.0"})
    assert why(with_engine(version="10.3.0.26"), jetson) is None
    assert OTHER in str(why(with_engine(version="10.3.1"), jetson))


def test_host_code_is_refused_unless_asked_for(with_engine):
    bundle = with_engine(host_code=True)
    assert why(bundle) == (
        "brings code that would run on the CPU of this process: refused. Fix: only if you trust its author, "
        f"Recognizer.load({str(bundle.folder)!r}, allow_host_code=True)"
    )
    assert choose_engine(bundle, "tensorrt", "fp32", LAPTOP, allow_host_code=True) == bundle.artefacts[-1]


def test_an_rtx_engine_for_other_gpus_is_built_anew_for_the_one_here(with_engine):
    bundle = with_engine(**RTX, precision="fp16", compute_capabilities=("8.9",))
    assert str(why(bundle)).startswith(
        "built for GPUs of compute capability 8.9; RTX 3060 has 8.6. Fix: spoter-kit export "
        f"{bundle.folder} --rtx --precision fp16 --compute-capability 8.6, or python -m spoter_export "
    )


def test_an_engine_of_another_model_is_found(with_engine, bundle):
    reason = why(with_engine(onnx_sha256="f" * 64))
    ours = bundle.onnx("fp32").sha256[:12]
    assert reason == (
        f"an engine of another model: built from ONNX ffffffffffff…, the fp32 ONNX here is {ours}…"
    )
    assert "the fp16 ONNX here is none" in str(why(with_engine(precision="fp16")))


def test_the_most_fundamental_reason_comes_first(with_engine):
    """Each reason hides those behind it; taking them away one by one shows all of them in their order."""
    wrong = {
        "version": "9.0.0.0",
        "compute_capabilities": ("8.0",),
        "system": "Windows",
        "machine": "aarch64",
        "host_code": True,
        "profiles": (),
        "onnx_sha256": "f" * 64,
    }
    order = [r"built by", r"built for GPUs", r"built for Windows", r"built for aarch64", r"brings code"]
    order += [r"none of its profiles", r"another model"]
    for pattern in order:
        assert re.search(pattern, str(why(with_engine(**wrong))))
        del wrong[next(iter(wrong))]
    assert why(with_engine(**wrong)) is None


def test_a_truncated_file_is_found_by_its_size(with_engine):
    bundle = with_engine(b"x" * 1000)
    (bundle.folder / "model.engine").write_bytes(b"x" * 400)
    assert why(bundle) == "the file has 400 bytes, not 1000. Fix: copy the whole bundle again"


def test_a_flipped_bit_is_found_by_the_hash(with_engine):
    bundle = with_engine(b"x" * 1000)
    (bundle.folder / "model.engine").write_bytes(b"x" * 999 + b"y")
    assert re.search(r"model\.engine: sha256 is .*, so the file was changed or damaged\. Fix: ", why(bundle))


def test_a_file_that_is_gone_is_named(with_engine):
    bundle = with_engine()
    (bundle.folder / "model.engine").unlink()
    assert re.search(r"model\.engine.* Fix: copy the whole bundle again$", str(why(bundle)))


# Choosing.


def test_without_an_engine_the_command_that_builds_one_is_told_and_no_library_is_imported(
    python, bundle_folder
):
    code = (
        "import sys; from spoter_runtime.bundle.manifest import read_bundle\n"
        "from spoter_runtime.trt.preflight import choose_engine\n"
        "try: choose_engine(read_bundle(sys.argv[1]), 'tensorrt_rtx', 'fp32')\n"
        "except Exception as error: print(error)\n"
        "print('cuda' in sys.modules, 'tensorrt_rtx' in sys.modules)"
    )
    done = python("-c", code, bundle_folder)
    command = f"spoter-kit export {bundle_folder} --rtx, or python -m spoter_export {bundle_folder} --rtx"
    message = f"{bundle_folder}: has no fp32 engine for tensorrt_rtx. Fix: {command}"
    assert done.stdout == f"{message}\nFalse False\n"


def test_a_single_engine_that_does_not_fit_is_one_line_with_the_fix(with_engine):
    bundle = with_engine(system="Windows")
    command = f"{bundle.folder} --trt --force"
    fix = re.escape(f". Fix: spoter-kit export {command}, or python -m spoter_export {command}")
    with pytest.raises(BackendError, match=rf"^[^\n]*model\.engine: built for Windows, this is Linux{fix}"):
        choose_engine(bundle, "tensorrt", "fp32", LAPTOP)


def test_a_reason_with_its_own_fix_gets_no_second_one(with_engine):
    machine = dataclasses.replace(LAPTOP, gpu=None, no_gpu=NO_DRIVER)
    with pytest.raises(BackendError, match=r"model\.engine: no NVIDIA driver [^\n]* Fix: ") as raised:
        choose_engine(with_engine(), "tensorrt", "fp32", machine)
    assert str(raised.value).count("Fix: ") == 1


def test_every_engine_that_was_passed_over_is_listed(with_engine):
    first, second = (
        with_engine(path="a.engine", system="Windows"),
        with_engine(path="b.engine", version="9.0.0"),
    )
    bundle = dataclasses.replace(first, artefacts=(*first.artefacts, second.artefacts[-1]))
    with pytest.raises(BackendError) as raised:
        choose_engine(bundle, "tensorrt", "fp32", LAPTOP)
    head, *lines = str(raised.value).splitlines()
    assert head.endswith("no fp32 engine for tensorrt fits this machine:")
    assert [line.partition(",")[0] for line in lines] == [
        "  a.engine: built for Windows",
        "  b.engine: built by tensorrt 9.0.0",
    ]


def test_the_first_that_fits_is_taken(with_engine):
    wrong, right = with_engine(path="a.engine", system="Windows"), with_engine(path="b.engine")
    bundle = dataclasses.replace(wrong, artefacts=(*wrong.artefacts, right.artefacts[-1]))
    assert choose_engine(bundle, "tensorrt", "fp32", LAPTOP).path == "b.engine"


def test_precision_and_library_are_not_mixed_up(with_engine):
    bundle = with_engine()
    with pytest.raises(BackendError, match="has no fp16 engine for tensorrt"):
        choose_engine(bundle, "tensorrt", "fp16", LAPTOP)
    with pytest.raises(BackendError, match="has no fp32 engine for tensorrt_rtx"):
        choose_engine(bundle, "tensorrt_rtx", "fp32", LAPTOP)


# This machine, and real engines of TensorRT-RTX.


def test_this_machine_is_described_as_it_is():
    machine = this_machine()
    assert (machine.system, machine.machine) == (platform.system(), platform.machine())
    assert machine.libraries.keys() | machine.missing.keys() == {
        "tensorrt",
        "tensorrt_lean",
        "tensorrt_rtx",
    }
    assert (machine.gpu is None) == bool(machine.no_gpu)
    assert this_machine(("tensorrt",)).libraries.keys() <= {"tensorrt"}
    for reason in machine.missing.values():
        assert reason.fix.startswith("pip ")


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: it builds engines without a GPU")


@pytest.fixture(scope="module")
def rtx_plan(rtx, exported):
    """The small bundle's model as a TensorRT-RTX engine for compute capability 8.6."""
    builder = rtx.Builder(logger := rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    assert parser.parse(exported.bundle.read("model.onnx"))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("poses", (1, 1, 108), (8, 60, 108), (8, 99, 108))
    profile.set_shape("lengths", (1,), (8,), (8,))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(rtx.ComputeCapability.SM86, 0)
    return bytes(builder.build_serialized_network(network, config))


@pytest.fixture
def rtx_machine(rtx):
    return dataclasses.replace(LAPTOP, libraries={"tensorrt_rtx": rtx.__version__})


def no_gpu_here():
    try:
        find_gpu()
    except (BackendError, MissingExtraError):
        return True
    return False


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"compute_capabilities": ("8.0", "8.6")},
            "its header says compute capability 8.6, the manifest 8.0, 8.6",
        ),
        ({"version": "1.7.1"}, "its header says version 1.7.1.{build}, the manifest 1.7.1"),
    ],
)
def test_a_header_that_disagrees_with_the_manifest(rtx, rtx_plan, rtx_machine, with_engine, changes, reason):
    if not rtx.__version__.startswith("1.7.1."):
        changes = changes | ({"version": rtx.__version__} if "version" not in changes else {})
    build = rtx.__version__.split(".")[-1]
    bundle = with_engine(rtx_plan, **RTX, **({"version": rtx.__version__} | changes))
    assert why(bundle, rtx_machine) == reason.format(build=build)


def test_a_file_cut_before_it_was_hashed_is_found_by_its_header(rtx, rtx_plan, rtx_machine, with_engine):
    cut = rtx_plan[: len(rtx_plan) // 2]
    reason = why(with_engine(cut, **RTX, version=rtx.__version__), rtx_machine)
    assert reason == f"its header says {len(rtx_plan)} bytes, the file has {len(cut)}"


def test_another_kind_of_file_is_no_engine(rtx, rtx_machine, with_engine):
    reason = why(with_engine(b"a picture, really", **RTX, version=rtx.__version__), rtx_machine)
    assert reason == "begins with b'a pi', not as an engine of TensorRT-RTX does"


def test_an_unknown_layout_is_left_to_the_library(rtx, rtx_plan, rtx_machine, with_engine):
    strange = rtx_plan[:8] + b"\x63" + rtx_plan[9:]
    reason = why(with_engine(strange, **RTX, version=rtx.__version__), rtx_machine)
    assert str(reason).startswith(f"tensorrt_rtx {rtx.__version__} refuses it: ")


@pytest.mark.skipif(not no_gpu_here(), reason="a GPU is here: the library would accept the engine")
def test_the_librarys_own_verdict_is_asked_last(rtx, rtx_plan, rtx_machine, with_engine):
    """All else fits a machine that has a GPU; this one has none, and only the library can know."""
    reason = why(with_engine(rtx_plan, **RTX, version=rtx.__version__), rtx_machine)
    version = re.escape(rtx.__version__)
    assert re.match(rf"tensorrt_rtx {version} refuses it: .*CUDA.*\. Fix: see what `nvidia-smi`", str(reason))


def test_a_runtime_that_cannot_be_made_is_a_reason_and_no_crash(
    rtx, rtx_plan, rtx_machine, with_engine, monkeypatch
):
    class Mute(preflight.EngineLog):
        def __init__(self, library):
            super().__init__(library)
            self.logger = None  # pybind11 refuses it as it refuses a null pointer: with a TypeError

    monkeypatch.setattr(preflight, "EngineLog", Mute)
    bundle = with_engine(rtx_plan, **RTX, version=rtx.__version__)
    with pytest.raises(
        BackendError, match=r"model\.engine: tensorrt_rtx \S+ cannot make a runtime here: .* Fix: "
    ):
        choose_engine(bundle, "tensorrt_rtx", "fp32", rtx_machine)


@pytest.mark.gpu
@pytest.mark.skipif(no_gpu_here(), reason="needs a GPU")
def test_an_engine_for_the_gpu_here_is_accepted(rtx, exported, bundle, with_engine):
    from spoter_export.trt.profiles import plan_profiles
    from spoter_export.trt.to_tensorrt import engine_from_onnx

    gpu = find_gpu()
    if not hasattr(rtx.ComputeCapability, "SM" + gpu.compute_capability.replace(".", "")):
        pytest.skip(f"TensorRT-RTX {rtx.__version__} builds nothing for {gpu.compute_capability}")
    built = engine_from_onnx(
        bundle.read("model.onnx"),
        library="tensorrt_rtx",
        contract=bundle.contract,
        plan=plan_profiles(None, bundle.contract),
        compute_capabilities=(gpu.compute_capability,),
    )
    fields = {name: getattr(built.spec, name) for name in ("version", "compute_capabilities", "profiles")}
    assert why(with_engine(built.plan, **RTX, **fields), this_machine(("tensorrt_rtx",))) is None


def test_every_diagnosis_of_the_library_has_words(rtx):
    assert INVALIDITY.keys() == rtx.EngineInvalidityDiagnostics.__members__.keys()
    assert preflight._CURES.keys() < INVALIDITY.keys()
