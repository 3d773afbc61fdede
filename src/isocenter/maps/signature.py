"""Who vouches for an image: a signature over its digest, checked with keys that the site trusts.

What is signed is the digest as text, `sha256:` and 64 hexadecimal digits, without an end of line. Two kinds of keys are
taken: Ed25519 (RFC 8032), as `openssl pkeyutl -sign -rawin` uses them, and ECDSA on P-256 with SHA-256, as
`cosign sign-blob --key` does. A signature is its bytes, or these in Base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isocenter_operators.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["signer"]

_ED25519_BYTES = 64


def signer(digest: str, signature: bytes, trusted: Sequence[Path]) -> Path | None:
    """The key, of these, that the signature was made with; None where it is of none of them.

    trusted: files of public keys in PEM. Raises ConfigurationError for one that is not, or of another kind.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    given, signed = _plain(signature), digest.encode()
    for file in trusted:
        key = _key(file)
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(given, signed)
            else:
                key.verify(given, signed, ECDSA(SHA256()))
        except InvalidSignature:
            continue
        return file
    return None


def _plain(signature: bytes) -> bytes:
    if len(signature) == _ED25519_BYTES:
        return signature
    try:
        return base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError):
        return signature


def _key(file: Path) -> Ed25519PublicKey | EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"maps.trusted_keys: {file} can not be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"maps.trusted_keys: {file} is no public key in PEM") from error
    if isinstance(key, Ed25519PublicKey):
        return key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    raise ConfigurationError(f"maps.trusted_keys: {file} is neither an Ed25519 key nor one on P-256")
