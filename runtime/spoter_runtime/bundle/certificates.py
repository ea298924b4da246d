"""Check that a signer's certificate comes from a certificate authority that is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Final

BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
MOST_CERTIFICATES: Final = 10  # in a chain


def certificates_in(pem: bytes) -> list[Any]:
    """Return the certificates of a PEM file, in their order.

    Raises:
        ValueError: it holds none, or a broken one.
    """
    from cryptography import x509

    found = x509.load_pem_x509_certificates(pem)
    for one in found:
        _public_key_of(one)
    return list(found)


def certificate_from_der(der: bytes) -> Any:
    """Return a certificate.

    Raises:
        ValueError: it is none.
    """
    from cryptography import x509

    found = x509.load_der_x509_certificate(der)
    _public_key_of(found)
    return found


def _public_key_of(certificate: Any) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return certificate.public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError(f"a certificate's key: {error}") from error


def check_issued(chain: Sequence[Any], roots: Sequence[Any]) -> None:
    """Check that a root, or whom it certified, issued the first certificate of a chain, for signing, today.

    Raises:
        ValueError: says what is wrong.
    """
    from cryptography import x509
    from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

    try:
        # A signer is no server and no client: nothing is asked of the first certificate but its use, below.
        policies = {
            "ca_policy": ExtensionPolicy.webpki_defaults_ca(),
            "ee_policy": ExtensionPolicy.permit_all(),
        }
        builder = PolicyBuilder().store(Store(list(roots))).time(datetime.now(timezone.utc))
        builder.extension_policies(**policies).build_client_verifier().verify(chain[0], list(chain[1:]))
        usages = chain[0].extensions
    except (VerificationError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        reason = str(error).removeprefix("validation failed: ").partition(" (encountered")[0]
        raise ValueError(f"no trusted authority issued its certificate: {reason}") from error
    if not _may_sign(usages):
        raise ValueError("its certificate is not for signing: no digitalSignature, no codeSigning")


def _may_sign(extensions: Any) -> bool:
    """Tell what model-signing asks: a key usage for signatures, or an extended one for code."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    for kind, allows in (
        (x509.KeyUsage, lambda usage: usage.digital_signature),
        (x509.ExtendedKeyUsage, lambda usage: ExtendedKeyUsageOID.CODE_SIGNING in usage),
    ):
        try:
            if allows(extensions.get_extension_for_class(kind).value):
                return True
        except x509.ExtensionNotFound:
            continue
    return False
