"""Doctor: every backend named with what it needs, in whatever state a machine is."""

from __future__ import annotations

import dataclasses

import pytest

from spoter_runtime import doctor
from spoter_runtime.backends import BACKENDS
from spoter_runtime.doctor import Finding, diagnose, summary
from spoter_runtime.errors import SpoterError, pip_fix
from spoter_runtime.gpu.device import find_gpu


@pytest.fixture(scope="module")
def findings():
    return {finding.name: finding for finding in diagnose()}


def _distribution(folder, name, version):
    """Let a distribution look installed, as pip records it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def _lines(done):
    """Return name → its line and the line of its fix, of the list that ``-v`` prints before the summary."""
    assert done.stderr == ""
    lines = done.stdout.partition("runs here: ")[0].splitlines()
    fixes = [*lines[1:], ""]
    return {line.split()[1]: (line, fix.strip()) for line, fix in zip(lines, fixes, strict=True)}


def test_every_backend_has_a_line(findings):
    assert {name for name, finding in findings.items() if finding.kind == "backend"} == set(BACKENDS)


def test_what_is_not_ok_says_why_and_how_to_get_it(findings):
    for finding in findings.values():
        assert finding.detail
        assert (finding.status == "ok") == (finding.fix == ""), finding


def test_the_fields_that_programs_read_stay():
    names = [field.name for field in dataclasses.fields(Finding)]
    assert names == ["kind", "name", "status", "detail", "fix", "builds"]


def test_a_graph_is_run_on_the_cpu(findings):
    assert findings["ort-cpu"].status == "ok"
    assert findings["ort-cpu"].detail.endswith("; a graph was run on it")


def test_a_gpu_backend_is_not_ok_without_a_gpu(findings):
    if findings["gpu"].status == "ok":
        pytest.skip("this machine has a GPU")
    with pytest.raises(SpoterError) as raised:
        find_gpu()
    assert findings["gpu"].detail in str(raised.value)
    backends = {name: finding.status for name, finding in findings.items() if finding.kind == "backend"}
    assert backends == dict.fromkeys(BACKENDS, "missing") | {"ort-cpu": "ok", "ort-cpu-fused": "ok"}


def test_tensorrt_rtx_builds_without_a_gpu_that_runs_it(findings):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert findings["trt-rtx"].builds is True
    if findings["gpu"].status != "ok":
        assert findings["trt-rtx"].status == "missing"
        assert "builds engines, runs none: no NVIDIA driver" in findings["trt-rtx"].detail


def test_only_engine_libraries_build(findings):
    assert {name for name, finding in findings.items() if finding.builds is not None} == {
        "trt",
        "trt-lean",
        "trt-rtx",
    }


def _backend(name, status="ok", fix="", **more):
    return Finding(kind="backend", name=name, status=status, detail=f"about {name}", fix=fix, **more)


def test_the_summary_names_what_runs_and_each_fix_once():
    install, driver = "pip install 'spoter-kit[gpu]'", "install the driver"
    lines = summary(
        [
            Finding(kind="machine", name="gpu", status="missing", detail="no driver", fix=driver),
            Finding(kind="package", name="torch", status="missing", detail="not installed", fix="no backend"),
            _backend("ort-cpu"),
            _backend("ort-cuda", "missing", install),
            _backend("ort-tensorrt", "missing", install),
            _backend("trt-rtx", "missing", driver, builds=True),
        ]
    )
    assert lines == [
        "runs here: ort-cpu",
        "could run with an NVIDIA GPU:",
        f"  ort-cuda, ort-tensorrt ({install})",
        f"  trt-rtx ({driver})",
        "builds engines here, and runs none: trt-rtx",
    ]


def test_the_summary_of_a_bare_machine_and_of_a_broken_one():
    install = "pip install 'spoter-kit[cpu]'"
    gpu = Finding(kind="machine", name="gpu", status="ok", detail="a GPU")
    assert summary([gpu, _backend("ort-cpu", "missing", install)]) == [
        "runs here: no backend",
        "could run:",
        f"  ort-cpu ({install})",
    ]
    assert summary([gpu, _backend("ort-cpu"), _backend("trt", "broken", "install it again")]) == [
        "runs here: ort-cpu",
        "BROKEN: trt: about trt. Fix: install it again",
    ]


def test_a_jetson_is_named_with_its_jetpack_and_the_command(tmp_path):
    release = tmp_path / "nv_tegra_release"
    assert doctor._jetpack(release) == []
    release.write_text("# R36 (release), REVISION: 3.0, GCID: 36106755, BOARD: generic, EABI: aarch64\n")
    (found,) = doctor._jetpack(release)
    assert (found.kind, found.name, found.status) == ("machine", "jetpack", "ok")
    assert "JetPack 6.0" in found.detail
    assert (
        "Python 3.10, CUDA 12.2, TensorRT 8.6.2; on the desk: spoter-kit export BUNDLE --trt8" in found.detail
    )
    release.write_text("another system")
    assert doctor._jetpack(release) == []


def test_a_tensorrt_that_is_too_old_is_broken_and_jetpack_is_named(python, tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tensorrt.py").write_text("__version__ = '8.5.2'\n")
    done = python("-m", "spoter_runtime", "doctor", "-v", path=[tmp_path / "modules"])
    line, fix = _lines(done)["trt"]
    assert line.startswith("broken   trt")
    assert "tensorrt 8.5.2 is not supported; TensorRT 8.6, 10.3 or newer is" in line
    assert "JetPack 5.1" in fix


def test_doctor_sees_two_runtimes(python, tmp_path):
    beside = _distribution(tmp_path, "onnxruntime-gpu", "1.99.0")
    lines = _lines(python("-m", "spoter_runtime", "doctor", "-v", path=[beside]))
    uninstall = "Fix: pip uninstall -y onnxruntime onnxruntime-gpu"
    assert lines["ort-cpu"][0].startswith("broken   ort-cpu")
    assert lines["ort-cpu"][1] == f"{uninstall} && {pip_fix('cpu')}"
    assert lines["ort-cuda"][0].startswith("broken   ort-cuda")
    assert lines["ort-cuda"][1] == f"{uninstall} && {pip_fix('gpu')}"


def test_doctor_without_any_runtime_says_what_to_install(python):
    done = python("-m", "spoter_runtime", "doctor", "-v", absent=["onnxruntime"])
    assert done.returncode == 3
    lines = _lines(done)
    assert lines["ort-cpu"][1] == f"Fix: {pip_fix('cpu')}"
    assert lines["ort-cuda"][1] == f"Fix: {pip_fix('gpu')}"


def test_doctor_needs_no_gpu_package(python):
    done = python("-m", "spoter_runtime", "doctor", "-v", absent=["cuda"])
    assert done.returncode == 0
    lines = _lines(done)
    assert lines["gpu"][0].startswith("missing  gpu")
    assert "'cuda.bindings', which is not installed" in lines["gpu"][0]
    assert lines["gpu"][1] == f"Fix: {pip_fix('trt')}"


def test_onnxruntime_with_cuda_takes_the_place_of_the_other(python):
    line, fix = _lines(python("-m", "spoter_runtime", "doctor", "-v"))["onnxruntime-gpu"]
    if line.startswith("ok"):
        pytest.skip("onnxruntime-gpu is installed")
    assert line.startswith("missing  onnxruntime-gpu")
    assert fix == f"Fix: pip uninstall -y onnxruntime && {pip_fix('gpu')}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "raise OSError('libnvinfer.so.11: cannot open shared object file')",
            "libnvinfer.so.11: cannot open",
        ),
        (
            "raise RuntimeError('CUDA initialization failure with error: 35')",
            "RuntimeError: CUDA initialization",
        ),
        ("import libnvinfer_not_there", "libnvinfer_not_there"),
    ],
)
def test_an_engine_library_that_does_not_load_is_broken_and_shows_its_own_face(
    python, tmp_path, source, reason
):
    package = tmp_path / "broken" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    done = python("-m", "spoter_runtime", "doctor", "-v", path=[package.parent])
    assert done.returncode == 0
    line, _ = _lines(done)["trt"]
    assert line.startswith("broken   trt")
    assert reason in line


def test_an_empty_folder_of_that_name_is_no_engine_library(python, tmp_path):
    (tmp_path / "path" / "tensorrt").mkdir(parents=True)
    done = python("-m", "spoter_runtime", "doctor", "-v", path=[tmp_path / "path"])
    assert done.returncode == 0
    assert not _lines(done)["trt"][0].startswith("ok")


def test_packages_for_two_versions_of_cuda_are_named(python, tmp_path):
    _distribution(tmp_path, "tensorrt-cu12", "10.16.1.11")
    done = python(
        "-m", "spoter_runtime", "doctor", "-v", path=[_distribution(tmp_path, "tensorrt-cu13", "11.4.0.106")]
    )
    assert done.returncode == 0
    assert "broken   cuda " in done.stdout
