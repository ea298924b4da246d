"""A signed bundle: who signed what, and what is refused by a device that asks."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from datetime import date, timedelta

import pytest

from spoter_export.bundle.sign import PASSWORD, make_key, sign_bundle
from spoter_runtime import verify_bundle
from spoter_runtime.bundle.signature import files_in, read_trusted, trusted_by
from spoter_runtime.errors import BundleError, ConfigError
from spoter_runtime.recognizer import Recognizer

TODAY = date.today()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two signers: (private, public) of Ada, and of Bo."""
    folder = tmp_path_factory.mktemp("keys")
    return [(folder / name, make_key(folder / name)) for name in ("ada.key", "bo.key")]


@pytest.fixture
def signed(bundle_copy, keys):
    sign_bundle(bundle_copy, keys[0][0])
    return bundle_copy


def refused(folder, public, message):
    """Check that nothing of a bundle is loaded, and that the error says why."""
    with pytest.raises(BundleError, match=message) as caught:
        Recognizer.load(folder, trust=[public])
    return str(caught.value)


def test_a_signed_bundle_is_loaded_and_verified(signed, keys):
    (_, ada), (_, bo) = keys
    for trust in ([ada], [bo, ada], str(ada), [ada.read_bytes()]):
        assert Recognizer.load(signed, trust=trust).labels
    report = verify_bundle(signed, trust=[ada])
    assert report.passed
    assert re.fullmatch(r"signed by [0-9a-f]{12}…, a trusted key", report.lines()[-1])
    assert verify_bundle(signed).signer is None


def test_what_is_unsigned_or_by_another_is_refused(bundle_copy, keys):
    (private, ada), (_, bo) = keys
    refused(bundle_copy, ada, r"is not signed\. Fix: ask its maker to sign it")
    sign_bundle(bundle_copy, private)
    refused(bundle_copy, bo, "signed by [0-9a-f]{12}…, which trust does not name")
    with pytest.raises(BundleError, match="a lone ONNX file is not signed"):
        Recognizer.load(bundle_copy / "model.onnx", trust=[ada])


def test_a_bit_of_any_file_is_noticed_before_an_engine_sees_it(signed, keys, monkeypatch):
    monkeypatch.setattr("spoter_runtime.recognizer.open_runner", None)  # loading further would be a TypeError
    dice = random.Random(0)
    files = [*files_in(signed).values(), signed / "model.sig"]
    for path in files:
        whole = path.read_bytes()
        for _ in range(8):
            changed, bit = bytearray(whole), dice.randrange(8 * len(whole))
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(BundleError):
                Recognizer.load(signed, trust=[keys[0][1]])
        path.write_bytes(whole)
    with pytest.raises(TypeError):
        Recognizer.load(signed, trust=[keys[0][1]])


@pytest.mark.parametrize(("name", "most"), [("goldens.npz", 1 << 28), ("parity.json", 1 << 26)])
def test_a_signed_file_that_became_huge_is_refused_unread(signed, keys, name, most):
    os.truncate(signed / name, 1 << 30)
    refused(signed, keys[0][1], rf"{name}: cannot be read \({1 << 30} bytes, expected at most {most}\)")


def test_files_that_are_added_removed_renamed_or_swapped_are_refused(signed, keys, tmp_path):
    ada = keys[0][1]
    (signed / "extra").write_text("x")
    refused(signed, ada, "extra was added after it was signed")
    (signed / "extra").unlink()
    (signed / "MODEL_CARD.md").rename(tmp_path / "card")
    refused(signed, ada, "MODEL_CARD.md")
    (tmp_path / "card").rename(signed / "CARD.md")
    refused(signed, ada, "MODEL_CARD.md|CARD.md")
    (signed / "CARD.md").rename(signed / "MODEL_CARD.md")
    assert read_trusted(signed, ada)
    (tmp_path / "card").write_bytes((signed / "MODEL_CARD.md").read_bytes())
    (signed / "MODEL_CARD.md").unlink()
    (signed / "MODEL_CARD.md").symlink_to(tmp_path / "card")
    refused(signed, ada, "is no regular file|outside")


def test_a_bundle_that_is_sealed_again_is_refused(signed, keys, reseal, tmp_path):
    other = tmp_path / "other.spoter"
    shutil.copytree(signed, other)
    reseal(other, lambda manifest: manifest.update(name="other"))
    refused(other, keys[0][1], r"bundle\.json: sha256 is")
    sign_bundle(other, keys[0][0])  # the same signer's bundle of another name: its files do not fit ours
    shutil.copy(other / "bundle.json", signed / "bundle.json")
    refused(signed, keys[0][1], r"bundle\.json: sha256 is")
    shutil.copy(other / "model.sig", signed / "model.sig")
    assert Recognizer.load(signed, trust=[keys[0][1]])  # it is the other bundle now, all of it


def edited(signed, edit):
    path = signed / "model.sig"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_signature_that_was_changed_is_refused(signed, keys):
    whole = (signed / "model.sig").read_text()

    def payload(change):
        def edit(content):
            envelope = content["dsseEnvelope"]
            statement = json.loads(base64.b64decode(envelope["payload"]))
            change(statement)
            envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

        return edit

    for edit, message in [
        (payload(lambda one: one["predicate"]["resources"].pop()), "the signature is not by"),
        (payload(lambda one: one["predicate"].update(expires="2999-01-01")), "the signature is not by"),
        (lambda one: one.update(mediaType="x"), "mediaType: 'x', expected"),
        (lambda one: one["dsseEnvelope"].update(payloadType="text/plain"), "payloadType"),
        (lambda one: one["dsseEnvelope"].update(signatures=[]), "0 signatures, expected 1"),
        (lambda one: one["dsseEnvelope"].update(payload="%%%"), "is no base64"),
        (lambda one: one["dsseEnvelope"].update(payload="QUJDRB=="), "is no base64 as anybody writes it"),
        (lambda one: one["dsseEnvelope"].update(note=1), "dsseEnvelope: 'note' is unknown"),
        (lambda one: one["dsseEnvelope"]["signatures"][0].update(keyie=""), "'keyie' is unknown"),
        (lambda one: one["verificationMaterial"].pop("publicKey"), "publicKey"),
        (lambda one: one.update(dsseEnvelope=None), "dsseEnvelope"),
    ]:
        edited(signed, edit)
        refused(signed, keys[0][1], message)
        (signed / "model.sig").write_text(whole)
    (signed / "model.sig").write_text("[" * 100_000)
    refused(signed, keys[0][1], "more than 64 levels")


def test_several_signers_and_a_change_of_keys(signed, keys):
    (ada_private, ada), (bo_private, bo) = keys
    second = sign_bundle(signed, bo_private)
    assert (second.path.parent.name, len(second.others), second.removed) == ("model.sigs", 1, ())
    for public in (ada, bo):
        assert Recognizer.load(signed, trust=[public])
    (signed / "model.sig").unlink()  # the old key is given up
    refused(signed, ada, "which trust does not name")
    assert Recognizer.load(signed, trust=[bo])
    again = sign_bundle(signed, bo_private)
    assert (again.path.name, again.others) == ("model.sig", ())
    assert not (signed / "model.sigs").exists()
    (signed / "note.txt").write_text("changed since")
    third = sign_bundle(signed, ada_private)
    assert (third.path.name, third.others, len(third.removed)) == ("model.sig", (), 1)


def test_a_signature_expires(bundle_copy, keys, monkeypatch):
    private, ada = keys[0]
    with pytest.raises(ConfigError, match=r"is over\. Fix: name a later day"):
        sign_bundle(bundle_copy, private, expires=TODAY - timedelta(days=2))
    sign_bundle(bundle_copy, private, expires=TODAY + timedelta(days=1))
    assert Recognizer.load(bundle_copy, trust=[ada])
    monkeypatch.setattr("spoter_export.bundle.sign._check_day", lambda day: None)
    sign_bundle(bundle_copy, private, expires=TODAY - timedelta(days=2))
    refused(bundle_copy, ada, f"the signature expired on {TODAY - timedelta(days=2)}, today is")


def test_another_process_checks_the_same_keys(signed, keys, tmp_path):
    there = tmp_path / "ada.pub"
    shutil.copy(keys[0][1], there)
    pickled = pickle.dumps(Recognizer.load(signed, trust=[there]))
    there.unlink()
    assert pickle.loads(pickled).labels
    (signed / "extra").write_text("x")
    program = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    done = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True)
    assert b"extra was added after it was signed" in done.stderr


def test_keys_that_are_none_are_named(signed, keys, tmp_path, monkeypatch):
    private, ada = keys[0]
    for trust, message in [
        ([], "trust: no key"),
        ([tmp_path / "none.pub"], "none.pub: cannot be read"),
        ([tmp_path], "cannot be read: .*not a file"),
        ([private.read_bytes()], "is no public key or certificate in PEM"),
        ([b"text"], "is no public key or certificate in PEM"),
        ([5], "trust: 5: cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Recognizer.load(signed, trust=trust)
    with pytest.raises(ConfigError, match=r"no such key\. Fix: .* --new-key makes one"):
        sign_bundle(signed, tmp_path / "none.key")
    with pytest.raises(ConfigError, match="is no private key in PEM"):
        sign_bundle(signed, ada)
    with pytest.raises(ConfigError, match="exists already"):
        make_key(private)
    assert private.stat().st_mode & 0o077 == 0
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    def written(key, protection):
        path = tmp_path / "other.key"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
        return path

    with pytest.raises(ConfigError, match="a key of type Ed25519PublicKey, expected secp256r1"):
        sign_bundle(signed, written(ed25519.Ed25519PrivateKey.generate(), NoEncryption()))
    locked = written(ec.generate_private_key(ec.SECP384R1()), BestAvailableEncryption(b"secret"))
    with pytest.raises(ConfigError, match=f"put its password into {PASSWORD}"):
        sign_bundle(signed, locked)
    monkeypatch.setenv(PASSWORD, "secret")
    assert sign_bundle(signed, locked).files == 6


def test_the_official_command_accepts_our_signatures_and_refuses_changes(signed, keys):
    pytest.importorskip("model_signing", reason="pip install model-signing")
    sign_bundle(signed, keys[1][0])

    def official(public, signature):
        command = [sys.executable, "-m", "model_signing", "verify", "key", signed]
        rest = ["--signature", signature, "--public_key", public]
        return subprocess.run([*command, *rest], capture_output=True, text=True)

    more = next((signed / "model.sigs").iterdir())
    for (_, public), signature in zip(keys, (signed / "model.sig", more), strict=True):
        done = official(public, signature)
        assert done.returncode == 0, done.stdout + done.stderr
    assert official(keys[1][1], signed / "model.sig").returncode != 0
    (signed / "MODEL_CARD.md").write_text("changed")
    assert official(keys[0][1], signed / "model.sig").returncode != 0


def test_what_the_official_command_signs_is_loaded(bundle_copy, keys):
    pytest.importorskip("model_signing", reason="pip install model-signing")
    command = [sys.executable, "-m", "model_signing", "sign", "key", bundle_copy]
    rest = ["--signature", bundle_copy / "model.sig", "--private_key", keys[0][0]]
    done = subprocess.run([*command, *rest], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Recognizer.load(bundle_copy, trust=[keys[0][1]])


def test_a_signed_bundle_that_nobody_checks_is_said_once(signed, python):
    load = "Recognizer.load(sys.argv[1])"
    program = f"import sys; from spoter_runtime import Recognizer; {load}; {load}"
    done = python("-c", program, signed)
    assert done.stderr.count("is signed, and nobody has checked who made it") == 1


def test_no_signature_is_copied_to_a_bundle_with_other_files(signed):
    from spoter_export.bundle.engines import replace_bundle
    from spoter_runtime.bundle.manifest import read_bundle

    with pytest.warns(UserWarning, match="is no longer signed"):
        replace_bundle(read_bundle(signed), [], [], {})
    assert not (signed / "model.sig").exists()
    assert (signed / "bundle.json").exists()


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_a_key_is_read_and_named_as_cryptography_does(curve):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    public = ec.generate_private_key(getattr(ec, curve)()).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for given in (pem, pem.replace(b"\n", b"\r\n"), b"\n" + pem):
        ((signer, key),) = trusted_by(given).keys.items()
        assert key == load_pem_public_key(pem)
        assert signer == hashlib.sha256(pem).hexdigest()
    no_point = pem.splitlines()
    no_point[2] = no_point[2][:-4] + (b"AAAA" if no_point[2][-4:] != b"AAAA" else b"BBBB")
    with pytest.raises(ConfigError, match="is no public key or certificate in PEM"):
        trusted_by(b"\n".join(no_point))


def test_trust_imports_no_cipher_and_no_ssh(signed, keys, python):
    code = "import sys; from spoter_runtime.bundle.signature import read_trusted; "
    code += "read_trusted(sys.argv[1], sys.argv[2]); "
    code += "print([name for name in sys.modules if '.ssh' in name or '.ciphers' in name])"
    done = python("-c", code, signed, keys[0][1])
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
