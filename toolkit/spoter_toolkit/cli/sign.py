"""`spoter-kit sign`: sign a bundle, so that a device can refuse what others made."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from spoter_toolkit.cli.console import BundleArgument, JsonOption, emit_json, next_step, say, tell


def sign(
    key: Annotated[
        Path, typer.Option(help="Sign with this private key: PEM, P-256, P-384 or P-521.", metavar="KEY")
    ],
    bundle: BundleArgument = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make KEY and KEY.pub first; keep KEY to yourself.")
    ] = False,
    certificate: Annotated[
        Path | None,
        typer.Option(
            help="Certificate of KEY in PEM, then those between it and an authority.", metavar="FILE"
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="Let the signature count up to this day; default: for ever.", metavar="DATE"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Sign every file of a bundle; `verify --trust` and Recognizer.load(trust=…) refuse any change since.

    The signature is model.sig, in the format of OpenSSF's model_signing; further signers get a file each.
    """
    from spoter_export.bundle.sign import make_key, sign_bundle
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_runtime.errors import from_options
    from spoter_toolkit.workspace import newest_bundle

    with from_options():
        last_day = None if expires is None else _day(expires)
    path = bundle or newest_bundle()
    read_bundle(path)  # before a key is made
    public = make_key(key) if new_key else key.with_name(f"{key.name}.pub")
    signed = sign_bundle(path, key, expires=last_day, certificates=certificate)
    if json:
        emit_json(
            {"path": str(signed.path), "signer": signed.signer, "files": signed.files, "expires": expires}
        )
        return
    until = f" until {expires}" if expires else ""
    tell(f"{signed.path}: {signed.files} files signed by {signed.signer[:12]}…{until}")
    if signed.others:
        tell(f"also signed by {', '.join(f'{one[:12]}…' for one in signed.others)}")
    for one in signed.removed:
        say(f"removed the signature of {one[:12]}…: the bundle was changed since")
    if new_key:
        tell(f"{key}: the private key, for you alone; {public}: give it to whoever loads the bundle")
    trusted = "AUTHORITY.pem" if certificate else public if public.exists() else "KEY.pub"
    next_step("spoter-kit verify {} --trust {}", path, trusted)


def _day(text: str) -> date:
    from spoter_runtime.errors import ConfigError

    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--expires {text!r}: {error}", fix="--expires 2030-12-31") from error
