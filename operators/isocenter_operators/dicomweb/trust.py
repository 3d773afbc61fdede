"""Whom we believe where nobody said it; and why a secure connection did not come about, in words for a person."""

from __future__ import annotations

import ssl
from functools import cache

import httpx

__all__ = ["distrust", "trusted"]

_UNSIGNED = {2, 18, 19, 20, 21}  # X509_V_ERR_*: the chain ends with nobody whom we know


@cache
def trusted() -> ssl.SSLContext:
    """The authorities that everybody believes. To read them takes longer than most requests, so it is done once."""
    return httpx.create_ssl_context(trust_env=False)


def distrust(error: BaseException) -> str | None:
    """Why we do not believe the other side's certificate; None where that is not what is wrong."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _UNSIGNED:
                return f"its certificate is not signed by an authority that is trusted here ({cause.verify_message})"
            return f"its certificate is not trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return None
