from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from _support.keys import write_keys
from adadm.deployment.signatures import check_signature, signature_path, signer
from adadm.runtime.errors import SignatureError


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    write_keys(tmp_path)
    path = tmp_path / "certificate.json"
    path.write_text('{"passed": true}')
    signer(tmp_path / "key.pem")(path)
    return path


def test_a_signature_holds_until_a_bit_is_changed(signed: Path) -> None:
    key = signed.with_name("public.pem")
    check_signature(signed, key)
    content = signed.read_bytes()
    for index in range(len(content)):
        signed.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with pytest.raises(SignatureError, match="is not what was signed"):
            check_signature(signed, key)
    signed.write_bytes(content)
    check_signature(signed, key)


def test_no_damage_of_a_signature_is_more_than_an_error(signed: Path) -> None:
    path, key = signature_path(signed), signed.with_name("public.pem")
    content, other = path.read_bytes(), b'{"passed": false}'
    signed.write_bytes(other)
    rng = random.Random(1)
    for _ in range(200):
        index = rng.randrange(len(content))
        path.write_bytes(content[:index] + rng.randbytes(rng.randrange(4)) + content[index + 1 :])
        with pytest.raises(SignatureError):
            check_signature(signed, key)


def test_another_key_is_named(signed: Path, tmp_path: Path) -> None:
    write_keys(tmp_path / "other")
    with pytest.raises(
        SignatureError, match=r"not what was signed .*public\.pem, by .*Key mismatch"
    ):
        check_signature(signed, tmp_path / "other" / "public.pem")


def test_what_is_not_signed_is_named(signed: Path) -> None:
    signature_path(signed).unlink()
    with pytest.raises(
        SignatureError, match=r"certificate\.json\.sig is missing: .* is not signed"
    ):
        check_signature(signed, signed.with_name("public.pem"))


@pytest.mark.parametrize("kind", ["rsa", "locked", "secp256k1", "text", "public"])
def test_a_key_that_cannot_be_used_is_named(signed: Path, kind: str) -> None:
    write_keys(signed.with_name(kind), kind)
    with pytest.raises(SignatureError, match=r"key\.pem: expected an elliptic-curve key in PEM"):
        signer(signed.with_name(kind) / "key.pem")
    if kind != "locked":  # whose public key is fit
        with pytest.raises(SignatureError, match=r"expected an elliptic-curve key|not what"):
            check_signature(signed, signed.with_name(kind) / "key.pem")
    with pytest.raises(FileNotFoundError):
        signer(signed.with_name("nowhere"))


def test_nothing_goes_online(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    signer(signed.with_name("key.pem"))(signed)
    check_signature(signed, signed.with_name("public.pem"))
