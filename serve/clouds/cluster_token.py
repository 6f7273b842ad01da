"""The access token for a cluster on other machines, in the file where Ray looks for it."""

import os
import secrets
from pathlib import Path


def make_token(path: Path | None = None) -> bool:
    """Write a new token that only its owner may read, unless there is one.

    Args:
        path: by default ~/.ray/auth_token.

    Returns:
        Whether a new one was written.
    """
    path = path or Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return True
