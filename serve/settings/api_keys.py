"""API keys, and the hashes that are kept of them."""

import hashlib

from serve.settings.config import AuthSettings


def hash_key(key: str) -> str:
    """The hash that is kept of a key. Keys are long and random, so no slower hash is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def key_sums(settings: AuthSettings) -> tuple[str, ...]:
    """SHA-256 hashes of all accepted keys."""
    plain = (hash_key(key.get_secret_value()) for key in settings.api_keys)
    return tuple(dict.fromkeys([*plain, *settings.api_keys_sha256]))
