"""Whether a Ray cluster requires a token, and whether this user has it.

Ray itself tries for 15 s, with a warning a second, and then says only that it cannot connect.
"""

import ipaddress
import os

MODE_VARIABLE = "RAY_AUTH_MODE"
_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_TIMEOUT_S = 10.0


class TokenError(Exception):
    """The cluster requires a token that this process does not send. The message says what to do."""


def settle_authentication(host: str, port: int) -> None:
    """Make sure that this process sends the token that a cluster requires.

    If the environment does not say whether tokens are used, that of this user is used for a cluster
    on this machine. It is not sent elsewhere unasked.

    Raises:
        TokenError: the cluster requires a token, and this process has none, another one or is told
            not to send it.
    """
    # Ray has no public API for a user's token, nor to make a process use it after its start.
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    where = f"{host}:{port}"
    if not _refuses(where, ""):
        return
    token = AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
    mode = os.environ.get(MODE_VARIABLE)
    if mode is None and not _is_loopback(host):
        raise TokenError(f"requires a token: set {MODE_VARIABLE}=token")
    if mode is not None and mode.lower() != "token":
        raise TokenError(f"requires a token, and {MODE_VARIABLE} is {mode}: set it to token")
    if not token or _refuses(where, token):
        has = "this one is another's" if token else "there is none"
        raise TokenError(
            f"requires its token, and {has}: put it into ~/.ray/auth_token, or into the file that "
            "RAY_AUTH_TOKEN_PATH names"
        )
    os.environ[MODE_VARIABLE] = "token"
    Config.initialize("")  # it was read when Ray was imported


def _refuses(where: str, token: str) -> bool:
    """Whether the cluster's control service (GCS) refuses a call with this token."""
    import grpc

    headers = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(where, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_METHOD)(b"", timeout=_TIMEOUT_S, metadata=headers)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
