"""Bundles that Python refuses, one change each: every face refuses them with the same reason."""

from __future__ import annotations


def first(**change):
    return lambda manifest: manifest["artefacts"][0].update(change)


def ranges(**change):
    return lambda manifest: manifest["contract"]["ranges"].update(change)


def contract(**change):
    return lambda manifest: manifest["contract"].update(change)


def labels(*names):
    return contract(labels=[{"name": name} for name in names])


def rule(**change):
    good = {"temperature": 1.0, "min_probability": 0.5, "min_margin": 0.1, "min_hand_share": 0.1}
    good |= {"target": 0.05, "background": [], "evidence": {}}
    return lambda manifest: manifest.update(abstention=good | change)


# Name → what is done to the values of bundle.json, whose seal is made to fit.
SEALED = {
    "no artefacts": lambda manifest: manifest.pop("artefacts"),
    "files none": lambda manifest: manifest.update(files=None),
    "hash a number": lambda manifest: manifest["files"].update({"goldens.npz": 5}),
    "hash short": lambda manifest: manifest["files"].update({"goldens.npz": "5"}),
    "name a path": lambda manifest: manifest.update(name="../escaped"),
    "name long": lambda manifest: manifest.update(name="x" * 200),
    "name half a letter": lambda manifest: manifest.update(name="\u0000"),
    "path a number": first(path=5),
    "path with a zero": first(path="\x00"),
    "kind a script": first(kind="a script"),
    "engine without engine": first(kind="engine"),
    "precision a path": first(precision="../fp8"),
    "size true": first(size_bytes=True),
    "size negative": first(size_bytes=-1),
    "tolerance negative": first(max_logit_diff=-1),
    "tolerance a text": first(max_logit_diff="1e-4"),
    "requires a number": first(requires={"onnxruntime": 1}),
    "requires long": first(requires={"onnxruntime": "9" * 99}),
    "no hash": lambda manifest: manifest["artefacts"][0].pop("sha256"),
    "unknown field": first(colour="red"),
    "no labels": lambda manifest: manifest["contract"].pop("labels"),
    "label unknown field": contract(labels=[{"word": "tea"}]),
    "labels empty": contract(labels=[]),
    "label twice": labels("a", "a"),
    "label of letters": labels("", "a"),
    "missing otherwise": contract(missing="?"),
    "tensor otherwise": contract(outputs={"logits": {"dtype": "float16", "shape": ["batch", 5]}}),
    "frames infinite": ranges(frames=[1, float("inf")]),
    "frames of 31 digits": ranges(frames=[1, 10**30]),
    "frames many": ranges(frames=[1, 10**15]),
    "batch one value": ranges(batch=["1"]),
    "batch from two": ranges(batch=[2, 4]),
    "no ranges": lambda manifest: manifest["contract"].pop("ranges"),
    "no frames": lambda manifest: manifest["contract"]["ranges"].pop("frames"),
    "newer": lambda manifest: manifest.update(schema_version=2),
    "twice": lambda manifest: manifest["files"].update({"model.onnx": "0" * 64}),
    "outside": first(path="../outside/model.onnx"),
    "absolute": first(path="/etc/model.onnx"),
    "backslash": first(path="..\\outside.onnx"),
    "temperature": rule(temperature=0.0),
    "share": rule(min_margin=1.5),
    "rule a text": rule(min_probability="0.5"),
    "likeness": rule(min_likeness=-1.1),
    "typical logits not square": rule(typical_logits=["1 2", "3"]),
    "typical logits of others": rule(typical_logits=["1 2", "3 4"]),
    "typical logits a fraction": rule(typical_logits=["1.5"]),
    "typical logits a number": rule(typical_logits=[1]),
}

# Name → the bytes of bundle.json.
FOREIGN = {
    "empty": b"",
    "no JSON": b"not JSON",
    "cut off": b'{"schema_version": 1',
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "a list": b"[1, 2]",
    "a text": b'"bundle"',
    "of others": b'{"name": "foreign"}',
    "not sealed": b'{"schema_version": 1}',
    "name twice": b'{"schema_version": 1, "name": "a", "name": "b"}',
}
