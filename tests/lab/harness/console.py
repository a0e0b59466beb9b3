"""What a process says on its standard output, read as it comes, so that the process never waits for its reader."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import IO

PATIENCE = 240  # seconds for anything that a software CPU does


class Console:
    """Patterns are searched with re.MULTILINE; carriage returns are left out of the text."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._name = name
        self._said = bytearray()
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                with self._news:
                    self._said += chunk
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def text(self) -> str:
        with self._news:
            return self._said.decode(errors="replace").replace("\r", "")

    def find(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.text, re.MULTILINE)

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """Until the console says it; fails at the deadline, and when nothing more can come."""
        deadline = time.monotonic() + seconds
        while True:
            with self._news:
                seen, ended = len(self._said), self._ended
            if found := self.find(pattern):
                return found
            assert not ended, f"{self._name} ended and did not say: {pattern}"
            with self._news:
                left = deadline - time.monotonic()
                came = self._news.wait_for(lambda: len(self._said) > seen or self._ended, left)
            assert came, f"{self._name} does not say: {pattern}"

    def wait_for_its_end(self) -> None:
        """To be called when the process has ended: all that it said is in the text then."""
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), f"the output of {self._name} is still open"

    def after(self, pattern: str, lines: int = 1) -> str:
        """The line that is so many lines below the first that matches."""
        said = self.text.splitlines()
        index = next((i for i, line in enumerate(said) if re.search(pattern, line)), None)
        assert index is not None and index + lines < len(said), f"{self._name} says nothing after: {pattern}"
        return said[index + lines]
