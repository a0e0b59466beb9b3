"""Requests to a monitor over its Unix socket, as a host agent makes them."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST_ANSWER = 60  # seconds


class Refused(AssertionError):
    """An answer other than 2xx."""

    def __init__(self, request: str, status: int, text: str) -> None:
        super().__init__(f"{request} answered {status}: {text}")
        self.status = status
        self.text = text


class Connection(http.client.HTTPConnection):
    """HTTP/1.1 to a path instead of a host."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LONGEST_ANSWER)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Api:
    def __init__(self, path: Path, before_each: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._before_each = before_each

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> str:
        """The text of the answer, which is 2xx."""
        self._before_each()
        connection = Connection(self._path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status // 100 != 2:
            raise Refused(f"{method} {path}", answer.status, text)
        return text

    def get(self, path: str) -> Any:
        return json.loads(self.request("GET", path))

    def put(self, path: str, **fields: Any) -> None:
        self.request("PUT", path, fields)

    def patch(self, path: str, **fields: Any) -> None:
        self.request("PATCH", path, fields)
