"""Who exported a bundle: its manifest signed with Ed25519 (RFC 8032). The check is in trust.py, which bundles carry.

What is signed are the bytes of manifest.json, which lists every other file with its SHA-256. The signature itself lies
beside it and is not listed, as the manifest is not. A private key is read when it is used, and written nowhere else.
"""

import base64
import os
from pathlib import Path
from typing import Any

from ...studies import UserError
from .contents import read_whole

MOST_KEY_BYTES = 16 << 10
NOT_INSTALLED = "signing needs the package cryptography: pip install 'paretune[signing]'"


def trust_file() -> Path:
    """The source of trust.py, for beside an apply.py that loads artefacts."""
    return Path(__file__).with_name("trust.py")


def make_keys(private: Path) -> Path:
    """Write a new private key to `private`, readable for its owner alone, and its public half beside it, with ".pub"
    in place of the ending. Returns the latter. Raises UserError, and never overwrites anything.
    """
    serialization, ed25519 = _cryptography()
    public = private.with_suffix(".pub")
    if public == private:
        raise UserError(f"{private} is how the public key would be called: choose another name, such as signing.pem")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    text = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for file in (private, public):
        if os.path.lexists(file):
            raise UserError(f"{file} exists already: choose another name, because a lost key cannot be made again")
    try:
        for file, content, mode in ((private, pem, 0o600), (public, text, 0o644)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as written:
                written.write(content)
    except OSError as error:
        raise UserError(f"{private} cannot be written ({error.strerror}): choose another place") from None
    return public


def read_private_key(file: Path) -> Any:
    """The Ed25519PrivateKey in a PEM file. Raises UserError; nothing of the file's content is repeated."""
    serialization, ed25519 = _cryptography()
    pem = read_whole(file, MOST_KEY_BYTES)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise UserError(f"{file} is encrypted: decrypt it for this (openssl pkey -in {file} -out ...)") from None
    except Exception:  # whatever a parser says of a file that is no key
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UserError(f"{file} is no private Ed25519 key in PEM: make one with paretune keygen")
    return key


def signature_of(manifest: bytes, key: Any) -> bytes:
    """The content of the signature's file, for the bytes of a manifest and what `read_private_key` returned."""
    return base64.b64encode(key.sign(manifest)) + b"\n"


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise UserError(NOT_INSTALLED) from None
    return serialization, ed25519
