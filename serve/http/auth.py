"""API keys in headers."""

import hmac
from collections.abc import Iterable

from starlette.requests import HTTPConnection, Request

from serve.settings.api_keys import hash_key

SCHEMES = ("bearer", "token")
"""Of the header with the key: OpenAI's clients say the first, Deepgram's the second."""


class UnauthorizedError(Exception):
    """The request has no API key, or one that is not accepted."""


class Auth:
    """Checks the keys of requests.

    Args:
        sha256: hexadecimal SHA-256 hashes of the accepted keys. With none, everybody may call.
    """

    def __init__(self, sha256: Iterable[str]) -> None:
        self._accepted = tuple(sha256)

    def caller(self, request: Request) -> str:
        """Who sends a request that has been checked: a key if keys are checked, else an address."""
        if self._accepted:
            return hash_key(request.headers.get("authorization", "").partition(" ")[2].strip())
        return request.client.host if request.client else ""

    def check(self, request: Request) -> None:
        """Check a request's key.

        Raises:
            UnauthorizedError: the key is missing or not accepted.
        """
        self.check_key(given_key(request))

    def check_key(self, key: str) -> None:
        """Check a key; an empty one is none.

        Raises:
            UnauthorizedError: the key is missing or not accepted.
        """
        if not self._accepted:
            return
        if not key.strip():
            raise UnauthorizedError("an API key must be given: Authorization: Bearer KEY")
        given = hash_key(key.strip())
        # Compare with every key, so that the time taken reveals nothing.
        if not any([hmac.compare_digest(given, accepted) for accepted in self._accepted]):
            raise UnauthorizedError("incorrect API key")


def given_key(request: HTTPConnection) -> str:
    """The key in the headers of a request or a socket; empty if there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() in SCHEMES else ""
