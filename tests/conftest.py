"""Fixtures of all tests: artefacts that are made once a run, and a clean Python to run things in."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest

from spoter_runtime.contract import GraphContract, Label

# Before torch is imported: where tests share their cores, its threads wait for one another ten times longer
# than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some test files import ONNX Runtime before anything of ours does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

ROOT = Path(__file__).parents[1]

LABELS = (
    Label(name="cha", gloss="tea", bengali="চা", romanised="chā"),
    Label(name="dudh", gloss="milk", bengali="দুধ", romanised="dudh"),
    Label(name="bhai", gloss="brother", bengali="ভাই", romanised="bhāi"),
    Label(name="bon", gloss="sister", bengali="বোন", romanised="bōn"),
    Label(name="jol", gloss="water", bengali="জল", romanised="jol"),
)

# Before any other finder: these modules are absent, as on a device.
_BLOCKER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def ctrl_c():
    """Let SIGINT interrupt this process and those that it starts, also under ``nohup make test &``.

    A shell has it ignored for what runs in the background, and children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def at_once():
    """Fail a test that waits: for a pipe that nobody writes to, or for the end of a device."""
    if not hasattr(signal, "SIGALRM"):
        pytest.skip("Windows has no alarm, and no pipes among its files")

    def too_long(*_):
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def put_a_pipe(at_once):
    """Return put_a_pipe(path): put a pipe that nobody writes to in the place of a file."""

    def put(path):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        return path

    return put


def pytest_collection_modifyitems(items):
    """Begin with the longest tests, so that no core waits for one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Return made_once(name, make): the value of make(folder), made by one worker and read by all.

    The folder stays for what the value refers to; nobody may change it. Nothing is kept for the next run.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made-once"
    shared.mkdir(exist_ok=True)

    def made_once(name, make):
        folder, value = shared / name, shared / f"{name}.pickle"
        with filelock.FileLock(shared / f"{name}.lock"):
            if not value.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                draft = folder.with_suffix(".draft")
                draft.write_bytes(pickle.dumps(make(folder)))
                draft.rename(value)
        return pickle.loads(value.read_bytes())

    return made_once


@pytest.fixture(scope="session")
def originals():
    """MediaPipe's networks, by graph: from its wheel, which pip downloads once into the user's cache."""
    from spoter_export.landmarker.originals import download_wheel, read_originals
    from spoter_runtime.errors import DataError
    from spoter_runtime.files import cache_folder

    folder = cache_folder() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "mediapipe.lock"):
        try:
            wheel = next(folder.glob("mediapipe-*.whl"), None) or download_wheel(folder)
        except DataError as error:
            pytest.skip(f"MediaPipe's networks cannot be had here: {error.message}")
    return read_originals(wheel)


@pytest.fixture(scope="session")
def landmarker_folder(made_once, originals):
    """A landmarker's folder, written and proven."""
    from spoter_export.landmarker.originals import FILES
    from spoter_export.landmarker.writer import write_landmarker

    def make(folder):
        for name, content in originals.items():
            file = folder / "originals" / Path(FILES[name][0] if name in FILES else "LICENSE").name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        return write_landmarker(folder / "originals", folder / "landmarker")

    return made_once("landmarker", make)


@pytest.fixture
def reseal_landmarker(tmp_path):
    """Return reseal(folder, change): a changed copy of a landmarker, with the hashes that its files have."""

    def reseal(folder, change):
        copy = shutil.copytree(folder, tmp_path / "resealed")
        change(copy)
        manifest = json.loads((copy / "landmarker.json").read_text())
        manifest["files"] = {
            name: hashlib.sha256((copy / name).read_bytes()).hexdigest() for name in manifest["files"]
        }
        (copy / "landmarker.json").write_text(json.dumps(manifest))
        return copy

    return reseal


@pytest.fixture(scope="session")
def signing_video():
    """Return signing_video(name): frames of a real clip of a person signing."""
    folder = ROOT.parent / "shared" / "data" / "videos"

    def signing_video(name="bdsl_W1_baba_father.gif"):
        if not (folder / name).exists():
            pytest.skip(f"no {name} beside the project: a video of a person signing is not committed")
        return folder / name

    return signing_video


@pytest.fixture(scope="session")
def contract():
    """What the small model claims; few clips of few frames keep its grid quick."""
    return GraphContract(labels=LABELS, max_frames=99, max_batch=8)


@pytest.fixture(scope="session")
def small_model(contract):
    """A BdslSpoter of two layers whose random weights tell clips apart: every label wins somewhere."""
    import torch

    from spoter_export.probes import generated_poses
    from spoter_toolkit.model.config import ModelConfig
    from spoter_toolkit.model.spoter import BdslSpoter

    torch.manual_seed(0)
    config = ModelConfig(
        d_model=36,
        num_heads=4,
        num_encoder_layers=2,
        d_ff=64,
        num_classes=contract.num_classes,
        max_seq_length=contract.max_frames + 1,
    )
    model = BdslSpoter(config).eval()
    poses = torch.from_numpy(generated_poses(np.random.default_rng(0), 64, 40))
    with torch.no_grad():
        # Fresh weights hardly look at the clip: let it weigh more, then centre and spread the logits.
        model.input_projection.weight *= 5
        for layer in model.encoder_layers:
            layer.self_attention.W_v.weight *= 3
        logits = model(poses, torch.full((64,), 40))
        head = model.bdsl_classifier[-1]
        head.bias -= logits.mean(0)
        for parameter in (head.weight, head.bias):
            parameter *= (0.3 / logits.std(0)).reshape(-1, *[1] * (parameter.ndim - 1))
    return model


@pytest.fixture(scope="session")
def provenance():
    """What `spoter-kit export` tells of a run on generated signing."""
    data = {"kind": "synthetic", "synthetic": True, "sha256": "0" * 64, "split": "by signer: test s4"}
    return {"origin": "trained by a test", "data": data, "versions": {"spoter-kit": "0"}}


@pytest.fixture(scope="session")
def traced_once(made_once):
    """Return traced_once(): within it, bundles of the same model and shapes share torch's export.

    It is most of what a bundle takes. That it gives the same bytes again is tested without this.
    """
    from spoter_export.bundle import writer
    from spoter_export.to_onnx import EXAMPLE_BATCH, onnx_from_module
    from spoter_runtime.contract import METADATA_KEY

    def once(module, contract):
        about = type(module).__qualname__, repr(module), repr(getattr(module, "config", None))
        shapes = contract.max_frames, max(contract.max_batch, EXAMPLE_BATCH)
        weights = [(name, value.numpy().tobytes()) for name, value in module.state_dict().items()]
        key = hashlib.sha256(pickle.dumps((about, shapes, weights))).hexdigest()
        model = made_once(f"graph-{key}", lambda _: onnx_from_module(module, contract))
        stored = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        stored.value = json.dumps(contract.as_json(), ensure_ascii=False)
        return model

    @contextlib.contextmanager
    def traced_once():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "onnx_from_module", once)
            yield

    return traced_once


@pytest.fixture(scope="session")
def exported(made_once, request, contract, provenance):
    """The small model as a bundle; an export takes seconds, so all tests share it and none may change it."""

    def make(folder):
        from spoter_export.bundle.writer import export_bundle

        model = request.getfixturevalue("small_model")
        with request.getfixturevalue("traced_once")():
            return export_bundle(model, contract, folder / "small.spoter", provenance=provenance)

    return made_once("small-bundle", make)


@pytest.fixture(scope="session")
def small_graph(made_once, request, contract):
    """The small model's graph as torch exports it, before any pass; not to be changed."""

    def make(folder):
        from spoter_export.bundle import writer

        with request.getfixturevalue("traced_once")():
            return writer.onnx_from_module(request.getfixturevalue("small_model"), contract)

    return made_once("small-graph", make)


@pytest.fixture(scope="session")
def bundle_folder(exported):
    """The shared bundle's folder, not to be changed."""
    return exported.bundle.folder


@pytest.fixture
def bundle_copy(bundle_folder, tmp_path):
    """A copy of the bundle, to be damaged."""
    return Path(shutil.copytree(bundle_folder, tmp_path / "copy.spoter"))


@pytest.fixture
def plant():
    """Return plant(folder, content, precision, kind): put other bytes in the place of a bundle's ONNX file.

    The manifest is made to fit: only running it can tell.
    """
    from spoter_export.bundle.files import describe_bundle, read_proofs
    from spoter_export.parity.policy import policy_of
    from spoter_runtime.bundle.manifest import read_bundle

    def plant(folder, content, precision="fp32", kind="onnx"):
        bundle = read_bundle(folder)
        artefacts = {artefact.path: artefact for artefact in bundle.artefacts}
        path = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
        path = path if kind == "onnx" else path.replace(".onnx", ".ort.onnx")
        artefacts[path] = dataclasses.replace(
            bundle.onnx(),
            path=path,
            kind=kind,
            precision=precision,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            max_logit_diff=policy_of(precision).max_logit_diff,
        )
        (folder / path).write_bytes(content)
        describe_bundle(
            folder,
            name=bundle.name,
            contract=bundle.contract,
            artefacts=list(artefacts.values()),
            proofs=read_proofs(bundle),
            provenance=bundle.provenance,
        )
        return read_bundle(folder)

    return plant


@pytest.fixture(scope="session")
def onnx_model():
    """Return onnx_model(nodes, inputs, outputs, weights): a graph of these nodes.

    Inputs and outputs are name → (type, shape), weights are name → array.
    """
    from onnx import helper, numpy_helper

    def onnx_model(nodes, inputs, outputs, weights=None):
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    return onnx_model


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A test's files need not survive a power cut; test_faults.py looks at what is flushed."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def reseal():
    """Return reseal(folder, edit): change a bundle's manifest as somebody would who can make its seal.

    Written down here once more, and not taken from the runtime: this is the seal's format.
    """

    def reseal(folder, edit):
        path = folder / "bundle.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        edit(content)
        del content["manifest_sha256"]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        content["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(content), encoding="utf-8")

    return reseal


@pytest.fixture
def make_clip():
    """Return clip(seed, frames): landmarks (frames, 54, 2) that move smoothly, some of them missing."""
    from spoter_export.probes import generated_poses

    def make_clip(seed=0, frames=20):
        return generated_poses(np.random.default_rng(seed), 1, frames)[0].reshape(frames, 54, 2)

    return make_clip


@pytest.fixture
def python(tmp_path):
    """Return python(*arguments): run the interpreter in an empty folder, some modules absent if asked."""

    def python(*arguments, absent=(), path=(), env=None):
        blocker = tmp_path / "blocker"
        blocker.mkdir(exist_ok=True)
        (blocker / "sitecustomize.py").write_text(_BLOCKER.format(modules=tuple(absent)))
        workplace = tmp_path / "empty"
        workplace.mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=workplace,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(map(str, (blocker, *path))), "PYTHONIOENCODING": "utf-8"}
            | (env or {}),
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )

    return python


@pytest.fixture(scope="session")
def wheel(made_once):
    """The project's wheel, built without network."""

    def make(folder):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        return next(folder.glob("*.whl"))

    return made_once("wheel", make)
