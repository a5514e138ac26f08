"""Keys for signatures."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def write_keys(folder: Path, kind: str = "p256") -> None:
    """Write key.pem and public.pem; of other kinds, those that cannot be used."""
    folder.mkdir(exist_ok=True)
    private = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256K1() if kind == "secp256k1" else ec.SECP256R1())
    )
    lock = BestAvailableEncryption(b"a word") if kind == "locked" else NoEncryption()
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    instead = {"text": b"no key", "public": public}
    (folder / "key.pem").write_bytes(instead.get(kind, content))
    (folder / "public.pem").write_bytes(public)
