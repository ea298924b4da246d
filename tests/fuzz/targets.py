"""Every reader of a file from outside, and the public calls: each with good input to be spoiled."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutate import ODD, mutated_bytes, mutated_json, mutated_npy, mutated_npz, places_of, replaced, text_of
from mutate_protobuf import mutated_message

from spoter_export.bundle.files import proofs_json, read_proofs
from spoter_export.bundle.sign import make_key, private_key, sign_bundle
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.bundle.signature import read_trusted, signing_bytes
from spoter_runtime.camera.files import GRAPHS, landmarker_in, read_landmarker, trained_on
from spoter_runtime.clip_files import load_clip
from spoter_runtime.contract import Label
from spoter_runtime.landmarks import check_clip, landmarks_from_mediapipe
from spoter_runtime.live.log import read_frames
from spoter_runtime.model_file.check import describe_onnx_file
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.tuning.store import Tuned, read_tuned, this_machine, tuned_path
from spoter_toolkit.bench.analysis.compare import earlier_run, environment_facts
from spoter_toolkit.crossval.run import begun
from spoter_toolkit.data.dataset import Origin, read_dataset
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset
from spoter_toolkit.data.extract.videos import find_videos
from spoter_toolkit.data.importers.asl33 import find_asl33
from spoter_toolkit.data.importers.common import ImportSettings
from spoter_toolkit.data.importers.notebook_json import find_notebook_json
from spoter_toolkit.data.importers.npy import find_npy
from spoter_toolkit.data.importers.spoter_csv import _POINTS, find_spoter_csv
from spoter_toolkit.data.lengths import lengths_from_path
from spoter_toolkit.data.split_file import read_split_file
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.parity.prove import read_policies
from spoter_toolkit.parity.report import read_report
from spoter_toolkit.runs.labels import read_labels
from spoter_toolkit.runs.run import read_run, write_run_json
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.recipes import config_from_mapping, read_recipe
from spoter_toolkit.training.record import read_metrics

Run = Callable[[Random], None]  # spoils the input by dice, and reads it


@dataclass(frozen=True)
class Place:
    """A folder with one good file or folder of each kind."""

    folder: Path
    bundle: Path


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with the seal of its content, as somebody would make it who can."""
    rest = {key: value for key, value in content.items() if key != "manifest_sha256"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return rest | {"manifest_sha256": hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()}


@contextlib.contextmanager
def spoilt(path: Path, content: bytes | str) -> Iterator[None]:
    """Put other bytes into a file for a while."""
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def a_json(path: Path, read: Callable[[], object], change: Callable[[Any], Any] = lambda one: one) -> Run:
    """Return a target for a JSON file: mostly odd values, sometimes odd bytes."""
    good = json.loads(path.read_text(encoding="utf-8"))
    places = places_of(good)

    def run(dice: Random) -> None:
        if dice.randrange(8) == 0:
            text: bytes | str = mutated_bytes(path.read_bytes(), dice)
        else:
            text = text_of(change(mutated_json(good, dice, places)))
        with spoilt(path, text):
            read()

    return run


def a_file(path: Path, read: Callable[[], object], spoil: Callable[[bytes, Random], bytes]) -> Run:
    """Return a target for any file."""
    good = path.read_bytes()

    def run(dice: Random) -> None:
        with spoilt(path, spoil(good, dice)):
            read()

    return run


def consume(source: Any) -> None:
    """Read every clip of an importer's source, as an import does."""
    from spoter_runtime.errors import DataError, InputError

    for entry in source.entries:
        try:
            check_clip(source.read(entry).poses_TLD, max_frames=299)
        except (DataError, InputError):
            continue


def targets(place: Place) -> dict[str, Run]:
    """Return name → target; the files are written first."""
    return _runtime(place) | _toolkit(place) | _data(place) | _calls(place)


def read_whole(bundle: Path) -> None:
    """Read a bundle, and all that is read of it before an engine is opened."""
    found = read_bundle(bundle)
    found.frame_counts()
    found.goldens()
    landmarker_in(found)
    trained_on(found.provenance)
    read_tuned(found, "fp32")
    read_proofs(found)


def odd_manifests(bundle: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield a name and a reader for each place of bundle.json × each odd value, the seal made to fit."""
    good = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    for place in places_of(good)[1:]:
        for odd in ODD:
            text = text_of(seal(replaced(good, place, odd)))

            def read(text: str = text) -> None:
                with spoilt(bundle / "bundle.json", text):
                    read_whole(bundle)

            yield f"{'.'.join(map(str, place))} = {str(odd)[:40]}", read


def _runtime(place: Place) -> dict[str, Run]:
    bundle, folder = place.bundle, place.folder

    def whole() -> None:
        read_whole(bundle)

    def sealed(value: Any) -> Any:
        return seal(value) if isinstance(value, dict) else value

    def graph() -> None:
        describe_onnx_file((bundle / "model.onnx").read_bytes())

    found = read_bundle(bundle)
    tuned = tuned_path(found, "fp32")
    tuned.parent.mkdir(parents=True, exist_ok=True)
    files = {one.path: one.sha256 for one in found.artefacts if one.precision == "fp32"}
    plain = Tuned(configs={}, reasons={"one": "x"}).as_json()
    settings = {"threads": 1, "spin": True, "arena": True, "optimise": True, "without": []}
    plain["ways"] = {
        "one": {"backend": "ort-cpu", "session": settings, "prepared": "", "workers": 1, "most_clips": 1}
    }
    tuned.write_text(json.dumps({"schema_version": 1, "machine": this_machine(), "files": files} | plain))
    landmarker = folder / "landmarker"
    landmarker.mkdir()
    names = [*(f"{name}.onnx" for name in GRAPHS), "goldens.npz"]
    manifest = {"schema_version": 1, "sha256": "0" * 64, "files": dict.fromkeys(names, "0" * 64)}
    (landmarker / "landmarker.json").write_text(json.dumps(manifest | {"source": "made"}))
    log = folder / "landmarks.jsonl"
    frame = {"t_ms": 1.0, "dropped": 0, "landmarks": [None] * 53 + [[0.5, 0.5]]}
    header = {"landmark_log": 1, "gate": "rest", "settings": {"fps": 30.0}}

    def read_log(dice: Random) -> None:
        rows = [header, *(frame | {"t_ms": float(t)} for t in range(3))]
        which = dice.randrange(4)
        rows[which] = mutated_json(rows[which], dice)
        with spoilt(log, "".join(text_of(row) + "\n" for row in rows)):
            list(read_frames(log))

    clip = folder / "clip.npy"
    np.save(clip, np.full((5, 54, 2), 0.5, np.float32))
    goldens = dict(np.load(bundle / "goldens.npz"))
    return {
        "bundle.json, sealed again": a_json(bundle / "bundle.json", whole, sealed),
        "bundle.json, one value odd": _each_value(bundle / "bundle.json", whole),
        "goldens.npz": _goldens(bundle, goldens),
        "parity.json": _listed(bundle, "parity.json", lambda: read_proofs(read_bundle(bundle))),
        "model.onnx": a_file(bundle / "model.onnx", graph, mutated_bytes),
        "model.onnx, its fields": _fields(bundle / "model.onnx", folder / "lone.onnx"),
        "model.sig": _signature(place),
        "tuned": a_json(tuned, lambda: read_tuned(read_bundle(bundle), "fp32")),
        "landmarker.json": a_json(landmarker / "landmarker.json", lambda: read_landmarker(landmarker)),
        "landmark log": read_log,
        "clip.npy": a_file(clip, lambda: check_clip(load_clip(clip), max_frames=299), mutated_npy),
    }


def _fields(good: Path, path: Path) -> Run:
    """Return a target for an ONNX file whose fields are changed; ONNX Runtime opens what is not refused."""
    content = good.read_bytes()

    def run(dice: Random) -> None:
        changed = mutated_message(content, dice)
        describe_onnx_file(changed)
        path.write_bytes(changed)
        Recognizer.load(path, threads=1, tuned=False)

    return run


def _each_value(path: Path, read: Callable[[], object]) -> Run:
    good = json.loads(path.read_text(encoding="utf-8"))
    places = places_of(good)[1:]

    def run(dice: Random) -> None:
        odd = replaced(good, dice.choice(places), dice.choice(ODD))
        with spoilt(path, text_of(seal(odd))):
            read()

    return run


def _listed(bundle: Path, name: str, read: Callable[[], object]) -> Run:
    """Return a target for a JSON file whose hash the manifest holds."""
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    good = json.loads((bundle / name).read_text(encoding="utf-8"))
    places = places_of(good)

    def run(dice: Random) -> None:
        content = text_of(mutated_json(good, dice, places)).encode(errors="surrogatepass")
        files = manifest["files"] | {name: hashlib.sha256(content).hexdigest()}
        with (
            spoilt(bundle / name, content),
            spoilt(bundle / "bundle.json", text_of(seal(manifest | {"files": files}))),
        ):
            read()

    return run


def _goldens(bundle: Path, arrays: dict[str, Any]) -> Run:
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))

    def run(dice: Random) -> None:
        content = mutated_npz(arrays, dice)
        files = manifest["files"] | {"goldens.npz": hashlib.sha256(content).hexdigest()}
        sealed = text_of(seal(manifest | {"files": files}))
        with spoilt(bundle / "goldens.npz", content), spoilt(bundle / "bundle.json", sealed):
            read_bundle(bundle).goldens()

    return run


def certificate_of(private: Any) -> Any:
    """Return a certificate that a key has issued for itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")])
    builder = x509.CertificateBuilder(name, name, private.public_key(), 1).not_valid_before(
        datetime(2026, 1, 1)
    )
    builder = builder.not_valid_after(datetime(2126, 1, 1))
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
        private, SHA256()
    )


def _signature(place: Place) -> Run:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    key = place.folder / "a.key"
    public = make_key(key)
    path = sign_bundle(place.bundle, key).path
    good = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    statement = json.loads(base64.b64decode(good["dsseEnvelope"]["payload"]))
    private = private_key(key)
    authority = certificate_of(private)
    pem = authority.public_bytes(Encoding.PEM)
    der = authority.public_bytes(Encoding.DER)

    def certified(dice: Random) -> dict[str, Any]:
        raw = [
            mutated_bytes(der, dice) if dice.randrange(2) else der for _ in range(dice.choice((1, 1, 2, 20)))
        ]
        chain = [{"rawBytes": base64.b64encode(one).decode()} for one in raw]
        material: Any = {"x509CertificateChain": {"certificates": chain}, "tlogEntries": []}
        return good | {
            "verificationMaterial": mutated_json(material, dice) if dice.randrange(2) else material
        }

    def run(dice: Random) -> None:
        content = good
        if dice.randrange(3) == 0:
            content = certified(dice)
        elif dice.randrange(2):  # odd, and yet signed by the right key
            payload = text_of(mutated_json(statement, dice)).encode(errors="surrogatepass")
            sig = private.sign(signing_bytes(payload), ECDSA(SHA256()))
            signatures = [{"sig": base64.b64encode(sig).decode(), "keyid": ""}]
            envelope = {"payload": base64.b64encode(payload).decode(), "signatures": signatures}
            content = good | {"dsseEnvelope": good["dsseEnvelope"] | envelope}
        else:
            content = mutated_json(good, dice)
        with spoilt(path, text_of(content)):
            read_trusted(place.bundle, dice.choice(([public], [pem])))

    return run


def _toolkit(place: Place) -> dict[str, Run]:
    folder, contract = place.folder, read_bundle(place.bundle).contract
    run = folder / "run"
    run.mkdir()
    write_run_json(
        run,
        name="run",
        config=ModelConfig(num_classes=2),
        labels=[Label(name="a"), Label(name="b")],
        status="finished",
        train=TrainConfig().as_json(),
        data={"folder": "data", "sha256": "0"},
        metrics={"val_accuracy": 0.5},
        origin="made",
    )

    def read_config() -> None:
        info = read_run(run).info
        if info["train"]:
            config_from_mapping(info["train"], where="run.json")

    metrics = run / "metrics.jsonl"
    metrics.write_text(json.dumps({"epoch": 1, "seconds": 1.5, "train_loss": 0.5}))
    recipe, policy = folder / "mine.toml", folder / "policy.toml"
    recipe.write_text('epochs = 3\nloss = "focal"\n[model]\ndropout = 0.1\n[augment]\nmirror = 0.5\n')
    policy.write_text("[fp32]\nmax_logit_diff = 1e-3\nmin_clips = 10\n[int8]\nmin_label_agreement = 0.9\n")
    bench = folder / "bench.json"
    row = {"backend": "ort-cpu", "batch": 1, "frames": 60, "threads": 1, "rounds_ns": [[1, 2], [3]]}
    content = {"schema_version": 2, "timings": [row], "comparisons": [], "environment": {"packages": {}}}
    content |= {"machine": [{"scenario": "latency", "loop_ns": [1]}], "bundle": {"model_sha256": "0"}}
    bench.write_text(json.dumps(content))
    facts = folder / "facts.json"
    proofs = proofs_json(read_proofs(read_bundle(place.bundle)))
    facts.write_text(json.dumps(proofs | {"name": "x", "not_run": {"trt": "no"}, "blame": {}, "bisect": {}}))
    lengths, crossval = folder / "lengths.json", folder / "crossval.json"
    lengths.write_text('{"44": 3, "60": 1}')
    crossval.write_text('{"status": "running", "settings": {"minutes": 1}, "folds": []}')

    def setting(dice: Random) -> None:
        names = ("epochs", "model.d_model", "model.d_ff", "loss", "augment.mirror", "seed", "x", "model", "")
        odd = text_of(mutated_json({"a": 1}, dice))
        read_recipe(
            "demo", [f"{dice.choice(names)}={mutated_bytes(odd[:400].encode(errors='replace'), dice)!r}"]
        )

    return {
        "run.json": a_json(run / "run.json", read_config),
        "metrics.jsonl": a_json(metrics, lambda: read_metrics(run)),
        "recipe": a_file(recipe, lambda: read_recipe(str(recipe)), mutated_bytes),
        "--set": setting,
        "policy": a_file(policy, lambda: read_policies(policy), mutated_bytes),
        "parity facts": a_json(facts, lambda: read_report(facts)),
        "bench.json": a_json(bench, lambda: environment_facts(earlier_run(bench).environment)),
        "lengths": a_json(lengths, lambda: lengths_from_path(lengths, contract)),
        "crossval.json": a_json(crossval, lambda: begun(folder)),
    }


def _data(place: Place) -> dict[str, Run]:
    folder, rng = place.folder, np.random.default_rng(0)
    clips = [
        NewClip(id=f"c{i}", label="ab"[i], signer="s", fps=25.0, poses_TLD=rng.random((4, 54, 2), np.float32))
        for i in range(2)
    ]
    data = folder / "data"
    labels = (Label(name="a"), Label(name="b"))
    write_dataset(data, clips, labels=labels, coordinates="image", origin=Origin(kind="made"))

    def read() -> None:
        read_dataset(data, check_hashes=False)

    asl33 = folder / "asl33"
    asl33.mkdir()
    arrays = {"pose": rng.random((8, 33, 3), np.float32), "lh": rng.random((8, 21, 2), np.float32)}
    arrays |= {"rh": arrays["lh"], "offset": np.array([0, 4, 8]), "label": np.array([0, 1], np.int32)}
    arrays |= {name: np.array(["a/1", "b/2"]) for name in ("label_names", "signer", "name")}
    npz = asl33 / "data.npz"

    def read_asl33(dice: Random) -> None:
        with spoilt(npz, mutated_npz(arrays, dice)):
            consume(find_asl33(asl33, ImportSettings()))

    notebook = folder / "notebook"
    notebook.mkdir()
    body, hand = rng.random((3, 33, 3)).tolist(), rng.random((3, 21, 3)).tolist()
    named = notebook / "U1W1F_trial_0_R.json"
    hands = {"left": hand, "right": [None] * 3}
    named.write_text(json.dumps({"pose_landmarks": body, "hand_landmarks": hands, "metadata": {"fps": 30}}))
    table = folder / "spoter.csv"
    columns = [f"{point}_{axis}" for point in _POINTS for axis in "XY"]
    rows = [
        ",".join(["labels", "video_fps", *columns]),
        ",".join(["1", "30", *['"[0.5, 0.25]"'] * len(columns)]),
    ]
    table.write_text("\n".join(rows) + "\n")
    arrays_of = folder / "npys" / "a"
    arrays_of.mkdir(parents=True)
    np.save(arrays_of / "0.npy", np.full((3, 108), 0.5, np.float32))
    split, splits = folder / "split.json", folder / "split.csv"
    split.write_text('{"c0": "train", "c1": {"subset": "test"}}')
    splits.write_text("id,split\nc0,train\nc1,test\n")
    names, videos = folder / "labels.txt", folder / "videos.csv"
    names.write_text("tea\nমা\n")
    videos.write_text("file,label,signer,start,end\na.mp4,tea,s,0,1.5\n")
    (folder / "a.mp4").touch()
    any_settings = ImportSettings()
    return {
        "dataset.json": a_json(data / "dataset.json", read),
        "clips.csv": a_file(data / "clips.csv", read, mutated_bytes),
        "poses.npy": a_file(data / "poses.npy", read, mutated_npy),
        "asl33": read_asl33,
        "notebook json": a_json(named, lambda: consume(find_notebook_json(notebook, any_settings))),
        "spoter csv": a_file(table, lambda: consume(find_spoter_csv(table, any_settings)), mutated_bytes),
        "npy": a_file(
            arrays_of / "0.npy", lambda: consume(find_npy(folder / "npys", any_settings)), mutated_npy
        ),
        "split.json": a_json(split, lambda: read_split_file(split)),
        "split.csv": a_file(splits, lambda: read_split_file(splits), mutated_bytes),
        "labels": a_file(names, lambda: read_labels(str(names)), mutated_bytes),
        "videos.csv": a_file(videos, lambda: find_videos(videos), mutated_bytes),
    }


def odd_array(dice: Random) -> Any:
    """Return what is, or is not, a clip."""
    shape = dice.choice(((5, 54, 2), (5, 108), (0, 54, 2), (54, 2), (108,), (), (3, 54, 3), (400, 54, 2)))
    kind = dice.choice(("f4", "f8", "f2", "i4", "u8", "?", "c8", "O", "U1", "M8[s]"))
    array = np.full(shape, 0.5).astype(kind) if kind != "O" else np.full(shape, None)
    if array.size and kind in ("f4", "f8") and dice.randrange(2):
        array.flat[dice.randrange(array.size)] = dice.choice((np.nan, np.inf, -np.inf, 1e38, -5, 1e7))
    kind = dice.randrange(9)  # chosen first: a list of a large array takes longer than all else
    if kind == 1 and array.ndim:
        return array.tolist()
    if kind == 2 and array.ndim:
        return array[::-1]
    others = (array, array, array, memoryview(b"abc"), None, "clip.npy", {}, object(), [array])
    return others[kind]


def _calls(place: Place) -> dict[str, Run]:
    recognizer = Recognizer.load(place.bundle, "ort-cpu", threads=1, tuned=False)
    shortening = Recognizer.load(place.bundle, "ort-cpu", threads=1, tuned=False, long="resample")

    def predict(dice: Random) -> None:
        recognizer.predict(odd_array(dice))

    def predict_many(dice: Random) -> None:
        many = [odd_array(dice) for _ in range(dice.randrange(4))]
        recognizer.predict_many(dice.choice((many, many, tuple(many), 5, None)))

    def resample(dice: Random) -> None:
        shortening.predict(odd_array(dice))

    def mediapipe(dice: Random) -> None:
        landmarks_from_mediapipe(*(odd_array(dice) for _ in range(3)))

    def load(dice: Random) -> None:
        odd = dice.choice(
            ("", ".", "/", "\0", "a\0b", "a" * 5000, "/dev/zero", "/dev/null", os.devnull, "/proc/self")
        )
        Recognizer.load(dice.choice((odd, Path(odd), place.bundle / odd)))

    return {
        "predict": predict,
        "predict_many": predict_many,
        "predict, resampled": resample,
        "landmarks_from_mediapipe": mediapipe,
        "load": load,
    }
