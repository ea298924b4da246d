"""Bundles signed with a certificate: who trusts its authority loads them, whatever key the signer has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from spoter_export.bundle.sign import make_key, sign_bundle
from spoter_runtime.bundle.signature import read_trusted
from spoter_runtime.errors import BundleError, ConfigError

NOW = datetime.now(timezone.utc).replace(microsecond=0)
KEY_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Certified:
    """A name with a private key and a certificate."""

    def __init__(self, name, issuer=None, *, authority=False, usage="digital_signature", days=(-9, 9)):
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.by = issuer or self
        public = self.key.public_key()
        usage = "key_cert_sign" if authority else usage
        builder = (
            x509.CertificateBuilder(self.by.name, self.name, public, x509.random_serial_number())
            .not_valid_before(NOW + timedelta(days=days[0]))
            .not_valid_after(NOW + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**{one: one == usage for one in KEY_USAGES}), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.by.key.public_key()), critical=False
            )
        )
        self.certificate = builder.sign(self.by.key, hashes.SHA256())

    def files(self, folder, *between):
        """Write the private key and the certificates; return their paths."""
        key, chain = folder / "private.key", folder / "chain.pem"
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        chain.write_bytes(b"".join(one.pem() for one in (self, *between)))
        return key, chain

    def pem(self):
        return self.certificate.public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def root():
    return Certified("root", authority=True)


@pytest.fixture(scope="module")
def between(root):
    return Certified("between", root, authority=True)


def signed_by(bundle, folder, signer, *between):
    """Sign with a certificate; no other signature stays."""
    (bundle / "model.sig").unlink(missing_ok=True)
    shutil.rmtree(bundle / "model.sigs", ignore_errors=True)
    key, chain = signer.files(folder, *between)
    return sign_bundle(bundle, key, certificates=chain)


def test_who_trusts_the_authority_loads_the_bundle_also_after_a_change_of_keys(
    bundle_copy, tmp_path, root, between
):
    for name in ("first key", "second key"):
        signed = signed_by(bundle_copy, tmp_path, Certified(name, between), between)
        assert read_trusted(bundle_copy, root.pem())[1] == signed.signer
    another = make_key(tmp_path / "b.key")
    sign_bundle(bundle_copy, tmp_path / "b.key")
    assert read_trusted(bundle_copy, [another])[1] != signed.signer
    assert read_trusted(bundle_copy, [another, root.pem()])
    (bundle_copy / "README").touch()
    with pytest.raises(BundleError, match="README was added after it was signed"):
        read_trusted(bundle_copy, root.pem())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"days": (-9, -1)},
            "no trusted authority issued its certificate: cert is not valid at validation time",
        ),
        (
            {"days": (1, 9)},
            "no trusted authority issued its certificate: cert is not valid at validation time",
        ),
        ({"usage": "key_agreement"}, "its certificate is not for signing"),
    ],
    ids=["over", "not yet", "not for signing"],
)
def test_a_certificate_that_does_not_count_is_refused(bundle_copy, tmp_path, root, how, message):
    signed_by(bundle_copy, tmp_path, Certified("signer", root, **how))
    with pytest.raises(BundleError, match=message):
        read_trusted(bundle_copy, root.pem())


def test_a_certificate_of_others_is_refused(bundle_copy, tmp_path, root, between):
    signed_by(bundle_copy, tmp_path, Certified("signer", between), between)
    for other in (Certified("root", authority=True), Certified("root")):
        with pytest.raises(BundleError, match="no trusted authority issued its certificate"):
            read_trusted(bundle_copy, other.pem())
    signed_by(bundle_copy, tmp_path, Certified("signer", between))  # the certificate between is left out
    with pytest.raises(BundleError, match="no trusted authority issued its certificate"):
        read_trusted(bundle_copy, root.pem())
    signed_by(bundle_copy, tmp_path, Certified("x", no_authority := Certified("signer", root)), no_authority)
    with pytest.raises(BundleError, match="no trusted authority issued its certificate"):
        read_trusted(bundle_copy, root.pem())


def test_a_certificate_of_another_key_or_none_is_no_ones(bundle_copy, tmp_path, root):
    key, chain = Certified("signer", root).files(tmp_path)
    chain.write_bytes(root.pem())
    with pytest.raises(ConfigError, match="its first certificate is of another key"):
        sign_bundle(bundle_copy, key, certificates=chain)
    chain.write_bytes(b"text")
    with pytest.raises(ConfigError, match="is no certificate in PEM"):
        sign_bundle(bundle_copy, key, certificates=chain)


def official(*words):
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_official_command_and_ours_accept_each_others_certificates(bundle_copy, tmp_path, root, between):
    (tmp_path / "root.pem").write_bytes(root.pem())
    (tmp_path / "between.pem").write_bytes(between.pem())
    signer = Certified("signer", between)
    signed_by(bundle_copy, tmp_path, signer, between)
    asked = ("verify", "certificate", bundle_copy, "--signature", bundle_copy / "model.sig")
    done = official(*asked, "--certificate_chain", tmp_path / "root.pem")
    assert done.returncode == 0, done.stderr
    (bundle_copy / "model.sig").unlink()
    key, chain = signer.files(tmp_path)
    done = official(
        *("sign", "certificate", bundle_copy, "--signature", bundle_copy / "model.sig", "--private_key", key),
        *("--signing_certificate", chain, "--certificate_chain", tmp_path / "between.pem"),
    )
    assert done.returncode == 0, done.stderr
    assert read_trusted(bundle_copy, root.pem())
