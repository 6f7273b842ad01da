"""The token that lets into a cluster on other machines, at the place where Ray looks for it."""

import os
import secrets
from pathlib import Path


def make_token(path: Path | None = None) -> bool:
    """Write a token, for its owner alone; one that is there stays.

    Args:
        path: by default ~/.ray/auth_token.

    Returns:
        Whether there was none.
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
