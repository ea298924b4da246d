"""An engine is what was asked for, read back; and what cannot be one is refused with the library's reason."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from spoter_export.trt.build_progress import BuildProgress
from spoter_export.trt.file_checks import check_header
from spoter_export.trt.profiles import plan_profiles
from spoter_export.trt.to_tensorrt import (
    RTX_COMPUTE_CAPABILITIES,
    EngineBuild,
    engine_from_onnx,
    parse_compute_capabilities,
    write_timings,
)
from spoter_runtime.bundle.engine_spec import EngineSpec, rtx_header
from spoter_runtime.contract import Profile
from spoter_runtime.errors import BackendError, ConfigError, ExportError, MissingExtraError, is_installed
from spoter_runtime.trt.versions import abilities

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no engine can be built")

# Of 14.6 MB; 7 to 282 bytes differed in 20 builds of the small model.
MOST_BYTES_OF_NAMES = 3000

SHARED = Path(__file__).parents[3].parent / "shared"


@pytest.fixture(scope="module")
def small_onnx(bundle_folder):
    return (bundle_folder / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def rtx(contract):
    """Return rtx(model, …): build with TensorRT-RTX for the small model's contract, no lengths known."""

    def rtx(model, **options):
        options = {"contract": contract, "plan": plan_profiles(None, contract)} | options
        return engine_from_onnx(model, library="tensorrt_rtx", **options)

    return rtx


@pytest.fixture(scope="module")
def built(made_once, rtx, small_onnx):
    return made_once("engine-for-batches", lambda folder: rtx(small_onnx))


@pytest.fixture(scope="module")
def one_clip(contract):
    """Options for one clip at a time: one profile."""
    narrow = replace(contract, max_batch=1)
    return {"contract": narrow, "plan": plan_profiles(None, narrow)}


@pytest.fixture(scope="module")
def built_for_one_clip(made_once, rtx, small_onnx, one_clip):
    return made_once("engine-for-one-clip", lambda folder: rtx(small_onnx, **one_clip))


def changed(model, change):
    graph = onnx.load_from_string(model)
    change(graph)
    return graph.SerializeToString()


def test_the_description_says_what_was_built_from_what(built, small_onnx, contract):
    spec = built.spec
    plan = plan_profiles(None, contract)
    assert (spec.library, spec.version) == ("tensorrt_rtx", trt.__version__)
    assert spec.compute_capabilities == RTX_COMPUTE_CAPABILITIES
    assert (spec.system, spec.machine) == (platform.system(), platform.machine())
    assert (spec.profiles, spec.buckets) == (plan.profiles, plan.buckets)
    assert spec.onnx_sha256 == hashlib.sha256(small_onnx).hexdigest()
    assert (spec.host_code, spec.executed) == (False, None)


def test_the_description_survives_json(built):
    assert EngineSpec.from_json(json.loads(json.dumps(built.spec.as_json()))) == built.spec
    assert len(json.dumps(built.spec.as_json())) < 4000


def test_the_plans_header_is_what_was_asked_for(built):
    header = rtx_header(built.plan)
    assert header.size_bytes == len(built.plan)
    assert header.version == trt.__version__
    assert header.compute_capabilities == RTX_COMPUTE_CAPABILITIES


def test_the_facts_count_every_layer_and_all_arithmetic_is_the_onnx_files_fp32(built, small_onnx):
    facts = built.spec.built
    types = facts["types"]
    assert set(facts) == {"month", "seconds", "layers", "types", "lengths", "padding"}
    assert sum(sum(outputs.values()) for outputs in types.values()) >= facts["layers"] > 100
    products = [n for n in onnx.load_from_string(small_onnx).graph.node if n.op_type in ("MatMul", "Gemm")]
    assert types["MATRIX_MULTIPLY"] == {"FLOAT": len(products)}
    assert {dtype for outputs in types.values() for dtype in outputs} == {"FLOAT", "BOOL", "INT32", "INT64"}


def test_a_build_for_one_clip_is_reproducible_byte_for_byte(rtx, built_for_one_clip, small_onnx, one_clip):
    assert rtx(small_onnx, **one_clip).plan == built_for_one_clip.plan


def test_a_build_for_batches_differs_in_nothing_but_names_inside(rtx, built, small_onnx):
    again = rtx(small_onnx)
    # Counted, not compared one by one: a name of another length moves all that comes behind it.
    counts = [np.bincount(np.frombuffer(plan, np.uint8), minlength=256) for plan in (again.plan, built.plan)]
    assert np.abs(counts[0] - counts[1]).sum() < MOST_BYTES_OF_NAMES
    facts = {"seconds": built.spec.built["seconds"]}
    assert replace(again.spec, built=again.spec.built | facts) == built.spec


def test_products_are_not_rounded_to_tf32(built_for_one_clip, small_onnx):
    """The library's default is to round: the same build with its default gives another engine."""

    def build(tf32):
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(small_onnx)
        config = builder.create_builder_config()
        assert config.get_flag(trt.BuilderFlag.TF32)
        if not tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        profile.set_shape(
            "poses", *((1, frames, 108) for frames in built_for_one_clip.spec.profiles[0].frames)
        )
        profile.set_shape("lengths", (1,), (1,), (1,))
        assert config.add_optimization_profile(profile) == 0
        config.num_compute_capabilities = 4
        for index, name in enumerate(("SM80", "SM86", "SM89", "SM120")):
            assert config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
        return bytes(builder.build_serialized_network(network, config))

    assert build(tf32=False) == built_for_one_clip.plan
    assert build(tf32=True) != built_for_one_clip.plan


@pytest.mark.parametrize("given", [("8.9",), ("8.6", "8.0"), ("8.6", "8.6"), ("12.1",)])
def test_an_engine_is_for_the_gpus_that_were_named(rtx, small_onnx, one_clip, given):
    engine = rtx(small_onnx, compute_capabilities=given, **one_clip)
    assert engine.spec.compute_capabilities == tuple(dict.fromkeys(given))
    assert set(rtx_header(engine.plan).compute_capabilities) == set(given)


@pytest.mark.parametrize(("max_batch", "max_frames"), [(1, 1), (1, 2), (2, 1), (2, 99)])
def test_every_extent_of_the_dynamic_axes_can_be_built(rtx, small_onnx, contract, max_batch, max_frames):
    narrow = replace(contract, max_batch=max_batch, max_frames=max_frames)
    plan = plan_profiles([1, max_frames], narrow)
    assert rtx(small_onnx, contract=narrow, plan=plan).spec.profiles == plan.profiles


def test_chosen_profiles_are_the_engines(rtx, small_onnx, contract):
    profiles = tuple(Profile(batch=(b, b, b), frames=(1, 60, 99)) for b in (2, 1))
    narrow = replace(contract, max_batch=2)
    plan = replace(plan_profiles(None, narrow), profiles=profiles)
    assert rtx(small_onnx, contract=narrow, plan=plan).spec.profiles == profiles


def test_progress_rises_and_ends_at_the_total(rtx, small_onnx, one_clip):
    told = []
    rtx(small_onnx, on_progress=lambda done, total, what: told.append((done, total, what)), **one_clip)
    dones = [done for done, _, _ in told]
    assert dones == sorted(dones)
    assert told[-1] == (1000, 1000, "engine built")
    assert dones.count(1000) == 1
    assert {total for _, total, _ in told} == {1000}
    assert len(set(dones)) > 20
    assert len({what for _, _, what in told}) > 5


def test_nested_phases_whose_names_repeat_count_once():
    told = []
    progress = BuildProgress(lambda done, total, what: told.append(done))
    progress.start("build", None, 2)
    for _ in range(2):
        progress.start("part", "build", 4)
        for _ in range(4):
            assert progress.step("part")
        progress.step("build")
        progress.finish("part")  # late, as the library does it
    progress.start("build again", None, 1)
    progress.end()
    assert told == sorted(told)
    assert told[:5] == [0, 0, 124, 249, 374]
    assert told[-3:] == [999, 999, 1000]


class _Stop(Exception):
    pass


@pytest.mark.parametrize("error", [_Stop, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["Building engine", "Optimizing graph", "Computing reformatting costs"])
def test_an_exception_in_the_callback_stops_the_build_and_is_raised(rtx, small_onnx, capfd, error, when):
    told = []

    def on_progress(done, total, what):
        told.append(what)
        if what == when:
            raise error

    with pytest.raises(error):
        rtx(small_onnx, on_progress=on_progress)
    assert told.count(when) == 1
    assert told[-1] == when
    assert "Exception caught" not in "".join(capfd.readouterr())


def test_an_exception_at_the_very_end_is_raised(rtx, small_onnx, one_clip):
    def on_progress(done, total, what):
        if done == total:
            raise _Stop

    with pytest.raises(_Stop):
        rtx(small_onnx, on_progress=on_progress, **one_clip)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to main")
def test_ctrl_c_stops_the_build_at_its_next_step(rtx, small_onnx, one_clip, capfd, ctrl_c):
    told = []

    def on_progress(done, total, what):
        if len(told) == 5:  # the main thread waits by then, and does not start this one any more
            signal.raise_signal(signal.SIGINT)
        told.append(done)

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        rtx(small_onnx, on_progress=on_progress)
    assert told[-1] < 1000
    assert threading.active_count() == threads
    assert "Exception caught" not in "".join(capfd.readouterr())
    assert rtx(small_onnx, **one_clip).plan  # the library is as usable as before


def _to_unknown_operator(graph):
    next(node for node in graph.graph.node if node.op_type == "MatMul").op_type = "NoSuchOperator"


def _widen_a_weight(graph):
    next(tensor for tensor in graph.graph.initializer if len(tensor.dims) == 2).dims[0] += 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda model: b"nonsense",
            r"^TensorRT-RTX \S+ cannot read the ONNX file: .*Failed to parse the ONNX",
        ),
        (lambda model: model[: len(model) // 2], "cannot read the ONNX file"),
        (
            lambda model: changed(model, _to_unknown_operator),
            r"cannot read the ONNX file: node \w+ \(NoSuchOperator\): .*Plugin not found.*"
            r"Fix: spoter-kit export --onnx --force writes it anew$",
        ),
        (lambda model: changed(model, _widen_a_weight), "cannot read the ONNX file: .*import initializer"),
    ],
)
def test_an_onnx_file_that_cannot_be_read_is_refused_with_the_parsers_reason(
    rtx, small_onnx, damage, message
):
    with pytest.raises(ExportError, match=message):
        rtx(damage(small_onnx))


def _rename_poses(graph):
    graph.graph.input[0].name = "x"
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            if name == "poses":
                node.input[i] = "x"


def _freeze_frames(graph):
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 37


def _lengths_as_int64(graph):
    graph.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            if name == "lengths":
                node.input[i] = "narrow"
    cast = onnx.helper.make_node("Cast", ["lengths"], ["narrow"], to=onnx.TensorProto.INT32)
    graph.graph.node.insert(0, cast)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (_rename_poses, r"got x FLOAT \[-1, -1, 108\], lengths INT32 \[-1\], logits FLOAT \[-1, 5\]$"),
        (_freeze_frames, r"got poses FLOAT \[-1, 37, 108\]"),
        (_lengths_as_int64, r"lengths INT64 \[-1\]"),
    ],
)
def test_a_graph_outside_the_contract_is_refused(rtx, small_onnx, change, got):
    expected = r"^the ONNX file's inputs and output: expected poses FLOAT \[-1, -1, 108\], .*"
    with pytest.raises(ExportError, match=expected + got):
        rtx(changed(small_onnx, change))


def test_another_number_of_labels_is_refused(rtx, small_onnx, contract):
    four = replace(contract, labels=contract.labels[:4])
    with pytest.raises(ExportError, match=r"logits FLOAT \[-1, 4\], got .*logits FLOAT \[-1, 5\]$"):
        rtx(small_onnx, contract=four)


def test_turing_refuses_fp32_products_in_the_librarys_own_words(rtx, small_onnx):
    message = r"built no engine: .*Turing \(SM75\): FP32 GEMM is not supported.*Fix: leave out compute capab"
    with pytest.raises(ExportError, match=message):
        rtx(small_onnx, compute_capabilities=("7.5", "8.6"))


def test_a_gpu_that_the_library_does_not_know_is_named_with_those_it_does(rtx, small_onnx):
    message = r"does not build for 9\.0, 10\.0, only for 7\.5, 8\.0, 8\.6, 8\.9, 12\.0.*Fix: leave it out"
    with pytest.raises(ConfigError, match=message):
        rtx(small_onnx, compute_capabilities=("9.0", "8.6", "10.0"))


def test_profiles_that_leave_a_hole_are_refused_before_anything_is_built(rtx, small_onnx, contract):
    plan = replace(plan_profiles(None, contract), profiles=(Profile(batch=(1, 1, 1), frames=(1, 60, 99)),))
    with pytest.raises(ConfigError, match="no profile takes 2 clips × 1 frames"):
        rtx(b"not even read", plan=plan)


def test_a_profile_that_the_library_refuses_is_an_error_with_its_reason(rtx, small_onnx, contract):
    plan = replace(plan_profiles(None, contract), profiles=(Profile(batch=(1, 1, 8), frames=(1, 200, 99)),))
    with pytest.raises(
        ExportError, match=r"refuses the profile 1\.\.8 \(1\) × 1\.\.99 \(200\): .*MIN<=OPT<=MAX"
    ):
        rtx(small_onnx, plan=plan)


@pytest.mark.parametrize(
    ("library", "options", "message"),
    [
        (
            "tensorrt_rtx",
            {"timing_cache": Path("x")},
            r"^TensorRT-RTX times nothing .* Fix: timing_cache=None$",
        ),
        (
            "tensorrt",
            {"compute_capabilities": ("8.6",)},
            r"^TensorRT builds for the GPU of this machine, not for 8\.6\. Fix: .* build with TensorRT-RTX$",
        ),
    ],
)
def test_an_option_that_the_library_does_not_have_is_refused(small_onnx, contract, library, options, message):
    with pytest.raises(ConfigError, match=message):
        engine_from_onnx(
            small_onnx,
            library=library,
            contract=contract,
            plan=plan_profiles(None, contract),
            **options,
        )


def test_tensorrt_says_what_is_missing_here(small_onnx, contract):
    if is_installed("tensorrt"):
        pytest.skip("TensorRT is installed: what is missing without it cannot be seen")
    with pytest.raises((MissingExtraError, BackendError), match=r"tensorrt.*Fix: .*\[trt\]"):
        engine_from_onnx(
            small_onnx, library="tensorrt", contract=contract, plan=plan_profiles(None, contract)
        )


@pytest.mark.parametrize(
    ("version", "targets", "cut"), [("9.9.9.9", ["8.6"], 0), ("", ["8.6"], 8), ("", ["8.6", "8.9"], 0)]
)
def test_a_header_that_is_not_as_asked_is_an_error(
    made_once, rtx, small_onnx, one_clip, version, targets, cut
):
    asked = one_clip | {"compute_capabilities": ("8.6",)}
    plan = made_once("engine-for-86", lambda folder: rtx(small_onnx, **asked)).plan
    check_header(plan, trt.__version__, ["8.6"])
    with pytest.raises(
        ExportError, match=r"header is not as asked: expected \(size, version, GPUs\) .*, got "
    ):
        check_header(plan[: len(plan) - cut], version or trt.__version__, targets)


def test_a_header_of_another_layout_is_a_warning(built, caplog):
    with caplog.at_level(logging.WARNING):
        check_header(b"other" + built.plan[5:], trt.__version__, RTX_COMPUTE_CAPABILITIES)
    assert "is not known here: not compared" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.6", ("8.6",)),
        ("86", ("8.6",)),
        ("sm86", ("8.6",)),
        ("SM_120,SM89 75", ("7.5", "8.9", "12.0")),
        ("8.6,86,SM86", ("8.6",)),
    ],
)
def test_compute_capabilities_are_read_however_they_are_written(text, expected):
    assert parse_compute_capabilities(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^no compute capability was named\. Fix: 8\.0,8\.6,8\.9,12\.0$"),
        ("8", r"^compute capability '8': expected one such as 8\.6\. Fix: 8\.0,"),
        ("ampere", r"^compute capability 'ampere': "),
        ("8.6,12000", r"^compute capability '12000': "),
    ],
)
def test_what_is_no_compute_capability_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_compute_capabilities(text)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_timing_cache_is_made_read_again_and_replaced_when_it_is_none(tmp_path, caplog):
    """TensorRT's calls, made with TensorRT-RTX, which still has them but keeps no timings."""
    path = tmp_path / "new" / "timing.cache"
    build = EngineBuild(trt, True, abilities("tensorrt_rtx", trt.__version__))
    write_timings(build.attach_timing_cache(path), path)
    content = path.read_bytes()
    assert len(content) > 0
    write_timings(build.attach_timing_cache(path), path)
    assert path.read_bytes() == content
    path.write_bytes(b"not timings")
    write_timings(build.attach_timing_cache(path), path)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == ["timing.cache"]
    assert "Failed to deserialize timing cache" in caplog.text


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_timing_cache_that_cannot_be_kept_costs_time_and_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "timing.cache", tmp_path / "folder"):
        build = EngineBuild(trt, True, abilities("tensorrt_rtx", trt.__version__))
        caplog.clear()
        write_timings(build.attach_timing_cache(path), path)
        assert f"{path}: cannot be read, the timings are begun anew" in caplog.text
        assert f"{path}: cannot be written, a rebuild will take as long" in caplog.text


_BUILD = """
import hashlib, sys
from pathlib import Path
from spoter_export.trt.profiles import plan_profiles
from spoter_export.trt.to_tensorrt import engine_from_onnx
from dataclasses import replace
from spoter_runtime.bundle.manifest import read_bundle
bundle = read_bundle(Path(sys.argv[1]))
contract = replace(bundle.contract, max_batch=1)
plan = plan_profiles(None, contract)
model = (bundle.folder / "model.onnx").read_bytes()
engine = engine_from_onnx(model, library="tensorrt_rtx", contract=contract, plan=plan)
assert not {"torch", "onnx", "onnxruntime", "spoter_toolkit"} & set(sys.modules)
print(hashlib.sha256(engine.plan).hexdigest())
"""


def test_an_engine_is_built_where_torch_and_onnx_cannot_be_imported(
    python, built_for_one_clip, bundle_folder
):
    absent = ("torch", "onnx", "onnxruntime", "onnxscript", "spoter_toolkit")
    done = python("-c", _BUILD, bundle_folder, absent=absent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == hashlib.sha256(built_for_one_clip.plan).hexdigest()


@pytest.fixture(scope="module")
def notebook():
    """The notebook's model and its contract, as `onnx_from_module` writes it."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("no shared/ folder beside the checkout: the notebook's checkpoint is not here")
    from spoter_export.to_onnx import onnx_from_module
    from spoter_runtime.contract import GraphContract, Label
    from spoter_toolkit.runs.notebook import model_from_notebook

    model = model_from_notebook(SHARED / "golden" / "phase3_bdsl_spoter.pth").model
    contract = GraphContract(labels=tuple(Label(name=f"W{i:03}") for i in range(model.config.num_classes)))
    return onnx_from_module(model, contract), contract


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "gpus"), [("fp32", None), ("fp16", None), ("fp32", ("8.9",))])
def test_the_notebooks_model_is_built_for_every_gpu(notebook, rtx, gpus, precision):
    from spoter_export.precision.fp16 import fp16_from_fp32

    model, contract = notebook
    if precision == "fp16":
        model = fp16_from_fp32(model)
    content = model.SerializeToString(deterministic=True)
    plan = plan_profiles(None, contract)
    engine = rtx(content, contract=contract, plan=plan, compute_capabilities=gpus)
    assert rtx_header(engine.plan).compute_capabilities == (gpus or RTX_COMPUTE_CAPABILITIES)
    assert engine.spec.profiles == plan.profiles
    products = engine.spec.built["types"]["MATRIX_MULTIPLY"]
    total = sum(node.op_type in ("MatMul", "Gemm") for node in model.graph.node)
    assert sum(products.values()) == total
    if precision == "fp32":
        assert products == {"FLOAT": total}
    else:
        assert products["HALF"] > 0.9 * total
        assert engine.spec.built["types"]["ELEMENTWISE"]["FLOAT"] > 0  # normalisation of the landmarks


def test_an_engine_has_the_profiles_of_the_clips_that_it_is_planned_from(rtx, small_onnx, contract):
    narrow = replace(contract, max_batch=2)
    plan = plan_profiles([17, 23, 23, 31, 40, 42, 44, 44, 45, 61, 70, 99], narrow)
    spec = rtx(small_onnx, contract=narrow, plan=plan).spec
    assert (spec.profiles, spec.buckets) == (plan.profiles, plan.buckets)
    assert spec.built["lengths"].startswith("12 clips of 17 to 99 frames")
    assert 0 < spec.built["padding"]["single"] < spec.built["padding"]["longest"]
