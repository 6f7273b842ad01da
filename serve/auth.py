"""Bearer tokens."""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.requests import Request

from serve.config import AuthSettings


class UnauthorizedError(Exception):
    """No key, or one that is not accepted."""


class Auth:
    """Checks the keys of requests.

    Args:
        sha256: hexadecimal sums of the accepted keys; none: everybody may call.
    """

    def __init__(self, sha256: Iterable[str]) -> None:
        self._accepted = tuple(sha256)

    def check(self, request: Request) -> None:
        """Raises UnauthorizedError."""
        if not self._accepted:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise UnauthorizedError("an API key must be given: Authorization: Bearer KEY")
        given = hash_key(key.strip())
        # Every one is compared, so that the time tells nothing.
        if not any([hmac.compare_digest(given, accepted) for accepted in self._accepted]):
            raise UnauthorizedError("incorrect API key")


def hash_key(key: str) -> str:
    """What is kept of a key. Keys are long and random, so no slower hash is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def key_sums(settings: AuthSettings) -> tuple[str, ...]:
    """SHA-256 sums of all accepted keys."""
    plain = (hash_key(key.get_secret_value()) for key in settings.api_keys)
    return tuple(dict.fromkeys([*plain, *settings.api_keys_sha256]))
