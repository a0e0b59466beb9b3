"""The host of a guest's agent, as its monitor is, and what speaks to it byte by byte."""

from __future__ import annotations

import queue
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 30.0
PING, EXEC, CONNECT, GET, PUT, POWER_OFF = 1, 2, 3, 4, 5, 6
STDIN, STDIN_END, SIGNAL, RESIZE = 16, 17, 18, 19
DONE, REFUSED, STDOUT, STDERR, EXIT, STDIN_TAKEN = 32, 33, 34, 35, 36, 37
ENTRY, DATA, HOLE, LEAVE, TREE_END, NOTE = 48, 49, 50, 51, 52, 53
FILE, DIRECTORY, LINK, FIFO = 1, 2, 3, 4


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(raw)) + raw


def texts(*values: str) -> bytes:
    return struct.pack("<I", len(values)) + b"".join(text(each) for each in values)


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<BxxxI", kind, len(payload)) + payload


def exec_request(*command: str, user: str = "", directory: str = "", env: tuple[str, ...] = (), tty: bool = False) -> bytes:
    head = struct.pack("<BHH", tty, 24, 80)
    return frame(EXEC, head + text(user) + text(directory) + texts(*command) + texts(*env))


def entry(kind: int, name: str | bytes, target: str = "", mode: int = 0o644, size: int = 0) -> bytes:
    head = struct.pack("<BIIIqIQ", kind, mode, 0, 0, 1_600_000_000, 0, size)
    return frame(ENTRY, head + text(name) + text(target))


class Peer:
    """One connection, frame by frame."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(PATIENCE)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError(f"the peer has hung up, {count - len(data)} bytes before the end of a frame")
            data += piece
        return data

    def receive(self) -> tuple[int, bytes]:
        kind, length = struct.unpack("<BxxxI", self.exactly(8))
        return kind, self.exactly(length)

    def expect(self, kind: int) -> bytes:
        got, payload = self.receive()
        assert got == kind, f"frame {got} came, not {kind}: {payload!r}"
        return payload

    def refusal(self) -> str:
        return self.expect(REFUSED)[5:].decode()

    def has_hung_up(self) -> bool:
        return self.socket.recv(1) == b""

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def fetch(agent_socket: Path, port: int, path: str = "/", patience: float = PATIENCE) -> bytes:
    """The whole answer by HTTP of who serves at that port in the guest that has this agent."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(agent_socket))
        agent = Peer(connection)
        connection.settimeout(patience)
        agent.send(frame(CONNECT, struct.pack("<HI", port, 600_000)))
        agent.expect(DONE)
        agent.send(f"GET {path} HTTP/1.1\r\nHost: function\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


class Listener:
    """Where the agent dials."""

    def __init__(self, port: int = 0, address: str = "127.0.0.1") -> None:
        self.socket = socket.create_server((address, port), backlog=16)
        self.socket.settimeout(PATIENCE)
        self.port: int = self.socket.getsockname()[1]

    def accept(self) -> Peer:
        connection, _ = self.socket.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Peer(connection)

    def close(self) -> None:
        self.socket.close()


@contextmanager
def agent_of(program: Path, port: int, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that runs on this machine."""
    process = subprocess.Popen([program, "--address", f"127.0.0.1:{port}", *words], stdin=subprocess.DEVNULL)
    try:
        yield process
        assert process.poll() is None, f"the agent ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()


def copy_bytes(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
        return
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class Channel:
    """A channel on which the monitor listens: hosts at a Unix socket are paired with connections of the agent's, the oldest
    first."""

    def __init__(self, folder: Path, listener: Listener | None = None) -> None:
        self.path = folder / "agent.sock"
        self.listener = listener or Listener()
        self.listener.socket.settimeout(None)
        self.hosts = socket.socket(socket.AF_UNIX)
        self.hosts.bind(str(self.path))
        self.hosts.listen(64)
        self.parked: queue.Queue[Peer] = queue.Queue()
        threading.Thread(target=self._park, daemon=True).start()
        threading.Thread(target=self._pair, daemon=True).start()

    def _park(self) -> None:
        with suppress(OSError):
            while True:
                self.parked.put(self.listener.accept())

    def _pair(self) -> None:
        with suppress(OSError):
            while True:
                host, _ = self.hosts.accept()
                guest = self._next_parked()
                for ends in ((host, guest), (guest, host)):
                    threading.Thread(target=copy_bytes, args=ends, daemon=True).start()

    def _next_parked(self) -> socket.socket:
        """One whose agent is still there: what is parked says nothing, so its end is all that can be read."""
        while True:
            guest = self.parked.get().socket
            guest.settimeout(None)
            try:
                gone = guest.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
            except BlockingIOError:
                return guest
            except ConnectionResetError:
                gone = True
            assert gone, "an agent speaks before it is asked"
            guest.close()

    def close(self) -> None:
        # A thread that is within accept() keeps a socket open that is closed.
        for each in (self.hosts, self.listener.socket):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
