"""Client secrets: keys for a short time, which a server hands to a browser instead of its own.

A secret carries the session object that its maker wants, and is signed. All ingresses of a cluster
sign with one key, which is made once and lives in Ray's control service.
"""

import base64
import binascii
import hmac
import json
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from ray.experimental import internal_kv

PREFIX = "ek_"
_NAMESPACE = "murmur"
_KEY_NAME = b"realtime_signing_key"
_N_KEY_BYTES = 32
_N_SIGNATURE_BYTES = 32


class SecretError(Exception):
    """The secret is none of ours, or its time is over."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What a secret says.

    Attributes:
        expires_at: in seconds since the epoch.
        session: the update of the session object that its maker wants.
    """

    expires_at: int
    session: dict[str, Any]


class Secrets:
    """Makes and reads secrets.

    Args:
        signing_key: returns the key of the cluster; may block.
        clock: seconds since the epoch.
    """

    def __init__(
        self, signing_key: Callable[[], bytes], clock: Callable[[], float] = time.time
    ) -> None:
        self._signing_key = signing_key
        self._clock = clock

    def make(self, ttl_s: int, session: dict[str, Any]) -> tuple[str, Secret]:
        """A new secret: its value, and what it says."""
        secret = Secret(int(self._clock()) + ttl_s, session)
        body = zlib.compress(json.dumps([secret.expires_at, session]).encode())
        return PREFIX + _text(self._sign(body) + body), secret

    def read(self, value: str) -> Secret:
        """
        Raises:
            SecretError: the secret is not valid.
        """
        try:
            data = base64.urlsafe_b64decode(value.removeprefix(PREFIX) + "==")
        except (binascii.Error, ValueError):
            raise SecretError("incorrect client secret") from None
        signature, body = data[:_N_SIGNATURE_BYTES], data[_N_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise SecretError("incorrect client secret")
        expires_at, session = json.loads(zlib.decompress(body))
        if expires_at <= self._clock():
            raise SecretError("the client secret has expired")
        return Secret(expires_at, session)

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._signing_key(), body, sha256)


def cluster_key() -> bytes:
    """The key with which this cluster signs. Blocks while the control service is unavailable."""
    fresh = secrets.token_bytes(_N_KEY_BYTES)
    internal_kv._internal_kv_put(_KEY_NAME, fresh, overwrite=False, namespace=_NAMESPACE)
    key = internal_kv._internal_kv_get(_KEY_NAME, namespace=_NAMESPACE)
    assert isinstance(key, bytes)
    return key


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
