"""Bearer tokens."""

import hmac
from collections.abc import Iterable

from starlette.requests import Request

from serve.settings.api_keys import hash_key


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
