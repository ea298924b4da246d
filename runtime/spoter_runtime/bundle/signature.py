"""Check who signed a bundle. The format is that of OpenSSF's model-signing: DSSE in a Sigstore bundle."""

from __future__ import annotations

import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from spoter_runtime.bundle.certificates import (
    BEGIN,
    MOST_CERTIFICATES,
    certificate_from_der,
    certificates_in,
    check_issued,
)
from spoter_runtime.bundle.manifest import MANIFEST, SIGNATURE, Bundle, check_sha256, read_bundle
from spoter_runtime.checked_file import COPY_AGAIN, check_file
from spoter_runtime.errors import BundleError, ConfigError, require
from spoter_runtime.files import read_bytes
from spoter_runtime.strict import expect, is_unicode, json_from_text, read_json, shown

MORE_SIGNATURES: Final = "model.sigs"  # a folder: one file for each further signer
IGNORED: Final = (SIGNATURE, MORE_SIGNATURES)  # no signature covers the signatures

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
CURVES: Final = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # as model-signing
# What stands before the point in a public key in DER (SubjectPublicKeyInfo), and the bytes of a coordinate.
_BEFORE_POINT: Final = {
    "secp256r1": (bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"), 32),
    "secp384r1": (bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"), 48),
    "secp521r1": (bytes.fromhex("30819b301006072a8648ce3d020106052b810400230381860004"), 66),
}
_PEM: Final = (b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----")
_MOST_BYTES: Final = 1 << 22  # of a signature; one over ten files has 3,000
_MOST_SIGNATURES: Final = 100
_KEY_FIX: Final = "name the .pub file of the signer, which spoter-kit sign --new-key wrote"
_UNSIGNED_FIX: Final = "ask its maker to sign it: spoter-kit sign BUNDLE --key KEY"

# Public keys, or certificates of authorities, in PEM: files, or their bytes.
Trust = Sequence[Path | str | bytes] | Path | str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """Whom to trust: signer → public key, and certificates of authorities."""

    keys: dict[str, Any]
    roots: tuple[Any, ...]

    def key_of(self, signature: Signature) -> Any:
        """Return the public key of a trusted signer; None: trust does not name them.

        Raises:
            BundleError: their certificate comes from no trusted authority, is over, or is not for signing.
        """
        if key := self.keys.get(signature.signer):
            return key
        if not self.roots or not signature.chain:
            return None
        try:
            check_issued(signature.chain, self.roots)
        except ValueError as error:
            raise BundleError(
                f"{signature.path}: {error}",
                fix="trust the authority that issued it, or ask for a new signature",
            ) from error
        return signature.chain[0].public_key()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature file, which is not checked yet.

    Attributes:
        signer: hex sha256 of the signer's public key in PEM, as model-signing has it.
        payload: the signed bytes.
        sig: the signature of them.
        chain: the signer's certificate, and those between it and an authority; empty: a key alone.
    """

    path: Path
    signer: str
    payload: bytes
    sig: bytes
    chain: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What was signed.

    Attributes:
        files: path → sha256, of every file of the bundle.
        expires: after this day (UTC) the signature no longer counts; None: never.
    """

    files: dict[str, str]
    expires: str | None = None


def signing_bytes(payload: bytes) -> bytes:
    """Return the bytes that are signed for a payload: DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def signer_of(public_key: Any) -> str:
    """Return the name of a public key: the hex sha256 of its PEM.

    Raises:
        ConfigError: no elliptic key, or on another curve than P-256, P-384 and P-521.
    """
    if (name := getattr(getattr(public_key, "curve", None), "name", None)) not in CURVES:
        raise ConfigError(
            f"a key of type {name or type(public_key).__name__}, expected {', '.join(CURVES)}",
            fix="spoter-kit sign BUNDLE --key NEW.key --new-key",
        )
    before, size = _BEFORE_POINT[name]
    point = public_key.public_numbers()
    der = before + point.x.to_bytes(size, "big") + point.y.to_bytes(size, "big")
    text = binascii.b2a_base64(der, newline=False)
    lines = [_PEM[0], *(text[begin : begin + 64] for begin in range(0, len(text), 64)), _PEM[1], b""]
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _public_key(pem: bytes) -> Any:
    """Read a public key in PEM.

    One on our curves is read here: `load_pem_public_key` imports ciphers and SSH, half of the cost of trust.

    Raises:
        ValueError, UnsupportedAlgorithm: it is none.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    lines = pem.strip().splitlines()
    if len(lines) > 2 and (lines[0], lines[-1]) == _PEM:
        der = binascii.a2b_base64(b"".join(lines[1:-1]))
        for name, (before, size) in _BEFORE_POINT.items():
            if der.startswith(before) and len(der) == len(before) + 2 * size:
                curve = getattr(ec, name.upper())()
                return ec.EllipticCurvePublicKey.from_encoded_point(curve, der[len(before) - 1 :])
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(pem)


def ecdsa_of(key: Any) -> Any:
    """Return how signatures by a key are made: ECDSA with the hash of its curve.

    The initialiser of `ECDSA` imports ciphers and padding, a quarter of the cost of trust; this one does not.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    class Ecdsa(ec.ECDSA):
        algorithm = getattr(hashes, CURVES[key.curve.name])()
        deterministic_signing = False

        def __init__(self) -> None:
            pass

    return Ecdsa()


def pem_of(trust: Trust) -> tuple[bytes, ...]:
    """Return public keys as bytes in PEM.

    Raises:
        ConfigError: a file cannot be read.
    """
    found = []
    for given in [trust] if isinstance(trust, (str, bytes, os.PathLike)) else trust:
        try:
            found.append(
                given if isinstance(given, bytes) else read_bytes(Path(given), most_bytes=_MOST_BYTES)
            )
        except (OSError, TypeError) as error:
            raise ConfigError(f"trust: {given!s}: cannot be read: {error}", fix=_KEY_FIX) from error
    return tuple(found)


def trusted_by(trust: Trust) -> Trusted:
    """Read public keys and certificates.

    Raises:
        ConfigError: no key, or one that cannot be read.
        MissingExtraError: the package cryptography is not installed.
    """
    require("cryptography", extra="sign")
    from cryptography.exceptions import UnsupportedAlgorithm

    keys: dict[str, Any] = {}
    roots: list[Any] = []
    for pem in pem_of(trust):
        try:
            if BEGIN in pem:
                roots += certificates_in(pem)
            else:
                key = _public_key(pem)
                keys[signer_of(key)] = key
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"trust: {shown(pem)}: is no public key or certificate in PEM: {error}", fix=_KEY_FIX
            ) from error
    if not keys and not roots:
        raise ConfigError("trust: no key, so no bundle could be loaded", fix="name a public key in PEM")
    return Trusted(keys=keys, roots=tuple(roots))


def is_signed(folder: Path) -> bool:
    """Tell whether a bundle has a signature, by whomever."""
    return os.path.lexists(folder / SIGNATURE) or any((folder / MORE_SIGNATURES).glob("*.sig"))


def read_trusted(folder: Path | str, trust: Trust) -> tuple[Bundle, str]:
    """Read a bundle that one of some keys signed; return it, and the signer.

    All its files are hashed, and the manifest that is returned is the one that was signed.

    Args:
        folder: the bundle.
        trust: public keys and certificates of authorities; one signature that fits one of them is enough.

    Raises:
        BundleError: it is not signed, not by one of them, the signature has expired, or a file was changed,
            added or removed since; or as `read_bundle`.
        ConfigError, MissingExtraError: as `trusted_by`.
    """
    folder, trusted = Path(folder), trusted_by(trust)
    signatures, foreign = signatures_of(folder)
    if not signatures and not foreign:
        read_bundle(folder)  # says best what is no bundle at all
    refused: BundleError | None = None
    for found in signatures:
        try:
            if (key := trusted.key_of(found)) is None:
                continue
            return _signed_bundle(folder, statement_of(found, key).files), found.signer
        except BundleError as error:
            refused = refused or error
    if refused:
        raise refused
    if foreign and not signatures:
        raise foreign[0]
    by = ", ".join(f"{found.signer[:12]}…" for found in signatures)
    raise BundleError(
        f"{folder}: signed by {by}, which trust does not name" if by else f"{folder}: is not signed",
        fix="check who made it, then trust their key" if by else _UNSIGNED_FIX,
    )


def signatures_of(folder: Path) -> tuple[list[Signature], list[BundleError]]:
    """Return the signatures of a bundle, by whomever, and an error for each file that is none.

    Raises:
        MissingExtraError: one has a certificate, and the package cryptography is not installed.
    """
    paths = [folder / SIGNATURE] if os.path.lexists(folder / SIGNATURE) else []
    found, foreign = [], []
    for path in [*paths, *sorted((folder / MORE_SIGNATURES).glob("*.sig"))[:_MOST_SIGNATURES]]:
        try:
            found.append(_signature(path))
        except (OSError, ValueError) as error:
            what = f"is no signature with a key or a certificate, in the format of model-signing: {error}"
            foreign.append(BundleError(f"{path}: {what}", fix=COPY_AGAIN))
    return found, foreign


def _signature(path: Path) -> Signature:
    content = _named(
        read_json(path, most_bytes=_MOST_BYTES),
        "mediaType verificationMaterial dsseEnvelope",
        "the signature",
    )
    if content.get("mediaType") != MEDIA_TYPE:
        raise ValueError(f"mediaType: {shown(content.get('mediaType'))}, expected {MEDIA_TYPE}")
    names = "publicKey x509CertificateChain tlogEntries"
    material = _named(content.get("verificationMaterial"), names, "verificationMaterial")
    envelope = _named(content.get("dsseEnvelope"), "payload payloadType signatures", "dsseEnvelope")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise ValueError(f"payloadType: {shown(envelope.get('payloadType'))}, expected {PAYLOAD_TYPE}")
    signatures = expect(envelope.get("signatures"), list[Any], "signatures")
    if len(signatures) != 1:
        raise ValueError(f"{len(signatures)} signatures, expected 1")
    sig = _named(signatures[0], "sig keyid", "signatures")
    signer, chain = _signer(material)
    return Signature(
        path=path,
        signer=signer,
        chain=chain,
        payload=_decoded(envelope.get("payload"), "payload"),
        sig=_decoded(sig.get("sig"), "sig"),
    )


def _signer(material: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """Return the signer that a signature names, and their certificates."""
    if "x509CertificateChain" not in material:
        key = _named(material.get("publicKey"), "hint", "publicKey")
        return expect(key.get("hint"), str, "publicKey.hint"), ()
    require("cryptography", extra="sign")
    if "publicKey" in material:
        raise ValueError("verificationMaterial: a key and a certificate, expected one of them")
    stated = _named(material["x509CertificateChain"], "certificates", "x509CertificateChain")
    given = expect(stated.get("certificates"), list[dict[str, str]], "certificates")
    if not 0 < len(given) <= MOST_CERTIFICATES:
        raise ValueError(f"{len(given)} certificates, expected 1..{MOST_CERTIFICATES}")
    chain = tuple(
        certificate_from_der(_decoded(_named(one, "rawBytes", "certificates").get("rawBytes"), "rawBytes"))
        for one in given
    )
    try:
        return signer_of(chain[0].public_key()), chain
    except ConfigError as error:
        raise ValueError(error.message) from error


def _decoded(value: Any, where: str) -> bytes:
    text = expect(value, str, where)
    try:
        decoded = binascii.a2b_base64(text)
    except ValueError as error:
        raise ValueError(f"{where}: is no base64: {error}") from error
    # The last letter may have bits that count for nothing.
    if binascii.b2a_base64(decoded, newline=False).decode() != text:
        raise ValueError(f"{where}: is no base64 as anybody writes it")
    return decoded


def _named(value: Any, names: str, where: str) -> dict[str, Any]:
    """Return a table whose names are all known: nothing in it may change unseen."""
    table: dict[str, Any] = expect(value, dict[str, Any], where)
    if unknown := sorted(table.keys() - set(names.split())):
        raise ValueError(f"{where}: {shown(unknown[0])} is unknown, expected {names}")
    return table


def statement_of(signature: Signature, public_key: Any) -> Statement:
    """Return what was signed, if the key signed it, and it has not expired.

    Raises:
        BundleError: the signature is wrong, has expired, or states no files.
    """
    from cryptography.exceptions import InvalidSignature

    path = signature.path
    try:
        public_key.verify(signature.sig, signing_bytes(signature.payload), ecdsa_of(public_key))
    except InvalidSignature:
        raise BundleError(
            f"{path}: the signature is not by {signature.signer[:12]}…, as it says, or was changed",
            fix=COPY_AGAIN,
        ) from None
    try:
        statement = _statement(json_from_text(signature.payload))
    except ValueError as error:
        raise BundleError(f"{path}: states no files: {error}", fix="spoter-kit sign it again") from error
    today = datetime.now(timezone.utc).date().isoformat()
    if statement.expires is not None and statement.expires < today:
        raise BundleError(
            f"{path}: the signature expired on {statement.expires}, today is {today}",
            fix="ask its maker for a newer one, or set the clock",
        )
    return statement


def _statement(value: Any) -> Statement:
    content = expect(value, dict[str, Any], "")
    for name, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if content.get(name) != expected:
            raise ValueError(f"{name}: {shown(content.get(name))}, expected {expected}")
    predicate = expect(content.get("predicate"), dict[str, Any], "predicate")
    serialization = expect(predicate.get("serialization"), dict[str, Any], "serialization")
    found = serialization.get("method"), serialization.get("hash_type")
    if found != ("files", "sha256"):
        raise ValueError(f"serialization: {shown(found)}, expected files and sha256")
    files = {}
    for resource in expect(predicate.get("resources"), list[dict[str, str]], "resources"):
        name, digest = resource.get("name", ""), resource.get("digest", "")
        if resource.get("algorithm") != "sha256" or not name or name in files:
            raise ValueError(f"resources: {shown(resource)}")
        check_sha256(digest, f"resources.{name}")
        files[name] = digest
    expires = expect(predicate.get("expires"), str | None, "expires")
    if expires is not None:
        datetime.strptime(expires, "%Y-%m-%d")
    return Statement(files=files, expires=expires)


def files_in(folder: Path) -> dict[str, Path]:
    """Return the path in the bundle → file, of every file but the signatures.

    Raises:
        BundleError: a link, or something else that is no regular file.
    """
    found = {}
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).as_posix()
        if inside == SIGNATURE or inside.startswith(f"{MORE_SIGNATURES}/"):
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file() or not is_unicode(inside):
            raise BundleError(f"{path}: is no regular file with a name in Unicode, so it cannot be signed")
        found[inside] = path
    return found


def _signed_bundle(folder: Path, signed: Mapping[str, str]) -> Bundle:
    """Return the bundle of the manifest that was signed; its folder holds the signed files and no other.

    Raises:
        BundleError: names the first file that is missing, not signed, larger than it may be, or changed.
    """
    there = files_in(folder)
    if added := sorted(there.keys() - signed.keys()):
        raise BundleError(f"{folder}: {added[0]} was added after it was signed", fix=COPY_AGAIN)
    if missing := sorted(signed.keys() - there.keys()):
        raise BundleError(f"{folder}: {missing[0]} was signed and is not there", fix=COPY_AGAIN)
    if MANIFEST not in signed:
        raise BundleError(f"{folder}: its signature leaves out {MANIFEST}", fix=_UNSIGNED_FIX)
    bundle = read_bundle(folder, sha256=signed[MANIFEST])
    for name, digest in bundle.hashes().items():
        if signed.get(name) != digest:
            raise BundleError(f"{folder}: {MANIFEST} and the signature differ on {name}", fix=COPY_AGAIN)
    for name in sorted(signed.keys() - {MANIFEST}):
        try:
            check_file(there[name], signed[name], most_bytes=bundle.most_bytes(name))
        except OSError as error:
            raise BundleError(f"{there[name]}: cannot be read ({error.strerror})", fix=COPY_AGAIN) from error
    return bundle
