"""Signatures of certificates and bundles, with keys of the user, by OpenSSF model-signing.

A signature is a file beside what is signed, in Sigstore's bundle format: no service is asked, and
the network is not used. Of a bundle the manifest is signed, which has the digest of every file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from adadm.runtime.arguments import Paths
from adadm.runtime.errors import SignatureError, require
from adadm.runtime.files import check_readable, written_whole

_EXTRA = "sign"
_KEYS = "expected an elliptic-curve key in PEM (P-256, P-384 or P-521), without a password"


def add_sign(parser: argparse.ArgumentParser, paths: Paths) -> None:
    """Add `--sign`."""
    parser.add_argument(
        "--sign",
        type=paths.read_file,
        metavar="KEY.pem",
        help="sign with this private key; the signature is a file NAME.json.sig",
    )


def signature_path(path: Path) -> Path:
    """Path of the signature of a file."""
    return path.with_name(f"{path.name}.sig")


def signer(key: Path) -> Callable[[Path], None]:
    """Read a private key; the function that is returned signs a file.

    Raises:
        SignatureError: it is not a key that can be used.
        MissingDependencyError: model-signing is not installed.
    """
    signing = require("model_signing.signing", _EXTRA)
    config = signing.Config()
    check_readable(key)
    try:
        config.use_elliptic_key_signer(private_key=key)
    except OSError:
        raise
    except Exception as error:  # cryptography and model-signing share no narrower base
        raise SignatureError(f"{key}: {_KEYS}, got: {error}") from error

    def sign(path: Path) -> None:
        with written_whole(signature_path(path)) as partial:
            config.sign(path, partial)

    return sign


def check_signature(path: Path, key: Path) -> None:
    """Check the signature of a file by a public key.

    Raises:
        SignatureError: there is no signature, it is damaged, or not one of this file by this key;
            or the key cannot be used.
        MissingDependencyError: model-signing is not installed.
    """
    verifying = require("model_signing.verifying", _EXTRA)
    config, signature = verifying.Config(), signature_path(path)
    for file in (path, key, signature):
        check_readable(file)
    try:
        config.use_elliptic_key_verifier(public_key=key)
    except OSError:
        raise
    except Exception as error:
        raise SignatureError(f"{key}: {_KEYS}, got: {error}") from error
    if not signature.is_file():
        raise SignatureError(f"{signature} is missing: {path} is not signed")
    try:
        config.verify(path, signature)
    except Exception as error:
        raise SignatureError(
            f"{path} is not what was signed with the key of {key}, by {signature}: "
            f"{error or type(error).__name__}"
        ) from error
