"""Sign a bundle with a key, in the format of OpenSSF's model-signing; `spoter_runtime` checks it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, Final

from spoter_export.bundle.files import bundle_lock
from spoter_runtime.bundle.certificates import certificates_in
from spoter_runtime.bundle.manifest import SIGNATURE, read_bundle
from spoter_runtime.bundle.signature import (
    IGNORED,
    MEDIA_TYPE,
    MORE_SIGNATURES,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Signature,
    ecdsa_of,
    files_in,
    signatures_of,
    signer_of,
    signing_bytes,
)
from spoter_runtime.errors import BundleError, ConfigError, require
from spoter_runtime.files import read_bytes, remove, replacing, sha256_of
from spoter_runtime.strict import json_from_text

PASSWORD: Final = "SPOTER_KIT_KEY_PASSWORD"
_KEY_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A signature that was made.

    Attributes:
        path: its file.
        signer: hex sha256 of the public key in PEM.
        files: number of files that it covers.
        others: signers whose signatures are there too and fit.
        removed: signers whose signatures did not fit the bundle any more.
    """

    path: Path
    signer: str
    files: int
    others: tuple[str, ...]
    removed: tuple[str, ...]


def make_key(path: Path) -> Path:
    """Write a new private key, that only its owner may read, and ``.pub`` beside it; return that.

    A private key without a public one is kept, and gets it: a kill between the two files leaves that.

    Raises:
        ConfigError: the public key exists, or there is a private one that cannot be read.
        MissingExtraError: the package cryptography is not installed.
    """
    require("cryptography", extra="sign")
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    public = path.with_name(f"{path.name}.pub")
    if os.path.lexists(public):
        raise ConfigError(f"{public}: exists already", fix="another --key, or leave out --new-key")
    if os.path.lexists(path):
        key = private_key(path)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        with replacing(path) as temporary:
            temporary.touch(0o600)
            temporary.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with replacing(public) as temporary:
        temporary.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


def sign_bundle(
    folder: Path, key: Path, *, expires: date | None = None, certificates: Path | None = None
) -> Signed:
    """Sign every file of a bundle.

    The first signature is ``model.sig``; those of further signers are in ``model.sigs/``. A signer's own
    earlier one is replaced, and one that does not fit the files any more is removed.

    Args:
        folder: the bundle.
        key: a private key in PEM on P-256, P-384 or P-521; its password is in `PASSWORD`, if it has one.
        expires: the last day (UTC) on which the signature counts; None: it always does.
        certificates: PEM file with the key's certificate, then those between it and an authority; None: the
            signature names the key alone.

    Raises:
        BundleError: no bundle, or a damaged one.
        ConfigError: the key or the certificates cannot be read, are of another key, or the day is over.
        MissingExtraError: the package cryptography is not installed.
    """
    _check_day(expires)
    read_bundle(folder)  # before the lock: report a wrong name at once
    private = private_key(key)
    signer = signer_of(private.public_key())
    chain = _chain(certificates, private) if certificates else []
    folder = Path(os.path.realpath(folder))
    with bundle_lock(folder):
        read_bundle(folder).check_files()  # a signature of damaged files would prove the damage
        files = {name: sha256_of(path) for name, path in sorted(files_in(folder).items())}
        kept, given_up = _sorted_out(folder, files, signer)
        first = folder / SIGNATURE
        content = _content(private, signer, chain, _payload(folder.name, files, expires))
        # In the folder that no signature covers: a kill leaves nothing that another signature would refuse.
        path = further = folder / MORE_SIGNATURES / f"{signer[:16]}.sig"
        with replacing(further) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        if first not in {one.path for one in kept}:
            path = further.replace(first)
        for one in given_up:  # only now: a signed bundle stays so after a kill
            if one.path not in (path, further):
                remove(one.path)
        with contextlib.suppress(OSError):  # it holds other signatures
            (folder / MORE_SIGNATURES).rmdir()
    return Signed(
        path=path,
        signer=signer,
        files=len(files),
        others=tuple(found.signer for found in kept),
        removed=tuple(found.signer for found in given_up if found.signer != signer),
    )


def _check_day(expires: date | None) -> None:
    if expires is not None and expires < datetime.now(timezone.utc).date():
        raise ConfigError(f"expires: {expires} is over", fix="name a later day")


def private_key(path: Path) -> Any:
    """Read a private key in PEM.

    Raises:
        ConfigError: no key, an encrypted one without its password, or not an elliptic one.
        MissingExtraError: the package cryptography is not installed.
    """
    require("cryptography", extra="sign")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    password = os.environ.get(PASSWORD)
    try:
        key = load_pem_private_key(
            read_bytes(path, most_bytes=_KEY_BYTES), password.encode() if password else None
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such key", fix=f"spoter-kit sign BUNDLE --key {path} --new-key makes one"
        ) from error
    except TypeError as error:
        fix = f"unset {PASSWORD}" if password else f"put its password into {PASSWORD}"
        raise ConfigError(f"{path}: {error}", fix=fix) from error
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: is no private key in PEM: {error}", fix="name another --key") from error
    signer_of(key.public_key())
    return key


def _sorted_out(folder: Path, files: dict[str, str], signer: str) -> tuple[list[Signature], list[Signature]]:
    """Return the signatures that stay, and those to give up: the signer's own, and what does not fit."""
    found, foreign = signatures_of(folder)
    if foreign:
        raise BundleError(f"{foreign[0].message}", fix="delete that file")
    kept = [one for one in found if one.signer != signer and _states(one, files)]
    return kept, [one for one in found if one not in kept]


def _states(signature: Signature, files: dict[str, str]) -> bool:
    """Tell whether a signature is about these files; not whether it is right."""
    try:
        resources = json_from_text(signature.payload)["predicate"]["resources"]
        return {one["name"]: one["digest"] for one in resources} == files
    except (ValueError, KeyError, TypeError):
        return False


def _payload(name: str, files: dict[str, str], expires: date | None) -> bytes:
    """Return the statement as model-signing 1.x writes it; it reads past ``expires``."""
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in files.values())).hexdigest()
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": list(IGNORED),
    }
    predicate: dict[str, Any] = {
        "serialization": serialization,
        "resources": [
            {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in files.items()
        ],
    }
    if expires is not None:
        predicate["expires"] = expires.isoformat()
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return json.dumps(statement, ensure_ascii=False).encode()


def _chain(path: Path, private: Any) -> list[Any]:
    try:
        chain = certificates_in(read_bytes(path, most_bytes=_KEY_BYTES))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is no certificate in PEM: {error}", fix="name another one") from error
    if chain[0].public_key() != private.public_key():
        raise ConfigError(
            f"{path}: its first certificate is of another key", fix="put the one of the private key first"
        )
    return chain


def _content(private: Any, signer: str, chain: Sequence[Any], payload: bytes) -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import Encoding

    sig = private.sign(signing_bytes(payload), ecdsa_of(private))
    raw = [{"rawBytes": base64.b64encode(one.public_bytes(Encoding.DER)).decode()} for one in chain]
    who = {"x509CertificateChain": {"certificates": raw}} if chain else {"publicKey": {"hint": signer}}
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": who | {"tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(sig).decode(), "keyid": ""}],
        },
    }
