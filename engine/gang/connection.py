"""A line between the leader and a rank: pickled messages in frames over TCP.

Both ends prove that they know the gang's key before anything is unpickled.
"""

import hmac
import pickle
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

_LENGTH = struct.Struct("!Q")
_HELLO = struct.Struct("!32sI")
_MAC_BYTES = 32
_MAX_FRAME_BYTES = 1 << 30
_HANDSHAKE_S = 5.0


class HandshakeError(Exception):
    """The other end does not know the key."""


class Connection:
    """One end of a line. Any thread may send; only one may receive."""

    def __init__(self, connected: socket.socket) -> None:
        # Messages answer each other, so none may wait in a buffer for more to send.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.settimeout(None)
        self._socket = connected
        self._lock = threading.Lock()
        self.heard_s = time.monotonic()
        """When data last arrived, even part of a message."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: object) -> None:
        """Raises OSError if the other end is gone."""
        self.send_frame(pack(message))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame from `pack`; one frame may be sent on several lines."""
        with self._lock:
            self._socket.sendall(frame)

    def send_if_free(self, frame: bytes) -> None:
        """Send a small frame, unless that would block.

        Raises:
            OSError: the line is closed.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._socket.fileno() < 0:
                raise OSError("the line is closed")
            # What can be written to has room for much more than a small frame.
            writable = select.poll()
            writable.register(self._socket, select.POLLOUT)
            if writable.poll(0):
                self._socket.sendall(frame)
        finally:
            self._lock.release()

    @property
    def own_host(self) -> str:
        """The address of this end."""
        return str(self._socket.getsockname()[0])

    def receive(self) -> Any:
        """The next message; waits for it.

        Raises:
            EOFError, OSError: the other end is gone.
        """
        (length,) = _LENGTH.unpack(_read(self._socket, _LENGTH.size, self._heard))
        if length > _MAX_FRAME_BYTES:
            raise OSError(f"a frame of {length} bytes is none of ours")
        return pickle.loads(_read(self._socket, length, self._heard))

    def limit_receive(self, seconds: float) -> None:
        """Make `receive` fail if nothing comes for so long (socket(7), SO_RCVTIMEO); sending has no
        limit."""
        value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def _heard(self) -> None:
        self.heard_s = time.monotonic()

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes who receives
        except OSError:
            pass  # the other end was faster
        with self._lock:  # whoever sends is woken by the above, too
            self._socket.close()


def pack(message: object) -> bytes:
    """A message as a frame."""
    content = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(content)) + content


class Listener:
    """Accepts the ranks' calls to the leader, at a port that the system chooses.

    Args:
        host: address of this machine that the ranks can reach.
    """

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0))
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])
        self.key = secrets.token_bytes(32)

    def accept(self, timeout_s: float) -> tuple[int, Connection]:
        """The next rank that calls.

        Raises:
            TimeoutError: no rank called.
            HandshakeError: something else called.
        """
        self._socket.settimeout(max(timeout_s, 0.001))
        accepted, _ = self._socket.accept()
        try:
            return _welcome(accepted, self.key), Connection(accepted)
        except (OSError, EOFError) as error:
            accepted.close()
            raise HandshakeError(str(error)) from error

    def close(self) -> None:
        self._socket.close()


def call(address: tuple[str, int], key: bytes, rank: int, timeout_s: float) -> Connection:
    """Call the leader.

    Raises:
        OSError: it cannot be reached.
        HandshakeError: whatever answers does not know the key.
    """
    connected = socket.create_connection(address, timeout=timeout_s)
    nonce = secrets.token_bytes(32)
    connected.sendall(_HELLO.pack(nonce, rank))
    theirs = _read(connected, _MAC_BYTES + len(nonce))
    if not hmac.compare_digest(theirs[:_MAC_BYTES], _mac(key, b"leader", nonce, rank)):
        connected.close()
        raise HandshakeError("who answers is not this gang's leader")
    connected.sendall(_mac(key, b"rank", theirs[_MAC_BYTES:], rank))
    return Connection(connected)


def _welcome(accepted: socket.socket, key: bytes) -> int:
    """The leader's side of the handshake; returns the rank."""
    deadline = time.monotonic() + _HANDSHAKE_S

    def limit() -> None:
        accepted.settimeout(max(deadline - time.monotonic(), 0.001))

    limit()
    nonce, rank = _HELLO.unpack(_read(accepted, _HELLO.size, limit))
    own = secrets.token_bytes(32)
    accepted.sendall(_mac(key, b"leader", nonce, rank) + own)
    theirs = _read(accepted, _MAC_BYTES, limit)
    if not hmac.compare_digest(theirs, _mac(key, b"rank", own, rank)):
        raise EOFError("who calls does not know the key")
    return int(rank)


def _mac(key: bytes, role: bytes, nonce: bytes | bytearray, rank: int) -> bytes:
    return hmac.digest(key, role + nonce + struct.pack("!I", rank), "sha256")


def _read(
    source: socket.socket, n_bytes: int, on_some: Callable[[], None] = lambda: None
) -> bytearray:
    """Read so many bytes.

    Args:
        on_some: called whenever some have arrived.
    """
    content = bytearray(n_bytes)
    view = memoryview(content)
    while view:
        n_read = source.recv_into(view)
        if not n_read:
            raise EOFError("the connection was closed")
        view = view[n_read:]
        on_some()
    return content
