"""The example of a host agent (tests/host-agent) as a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from harness.console import PATIENCE, Console
from harness.process import ended_within, exit_code

FUNCTION = "/cgi-bin/function"  # tests/host-agent/linux_function


class Agent:
    """`directory` is where it keeps its files."""

    def __init__(
        self, program: Path, directory: Path, monitor: Path, options: dict[str, object], environment: dict[str, str], *more: str,
        user: int | None = None,
    ) -> None:
        words = [str(word) for option in options.items() for word in option]
        command = [str(program), "--mayfly", str(monitor), "--directory", str(directory), *words, *more]
        self.directory = directory
        self.process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, user=user, group=user)
        assert self.process.stdout is not None
        self.console = Console(self.process.stdout, "the agent")
        self.port = 0

    def wait_until_ready(self) -> None:
        self.port = int(self.console.wait_for(r"^ready: http://.*:(\d+)\n")[1])

    @property
    def status_port(self) -> int:
        return int(self.console.wait_for(r"^status: http://127\.0\.0\.1:(\d+)\n")[1])

    def ask(self, method: str, path: str, body: str | None = None, *, port: int = 0) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def hello(self, number: int) -> tuple[str, int]:
        """Who has answered, and at which of its requests it was."""
        status, answer = self.ask("POST", FUNCTION, f"hello {number}")
        assert status == 200, answer
        said = re.search("^I am ([a-z]+-[0-9]+), at request ([0-9]+)$", answer, re.MULTILINE)
        assert said, answer
        assert f"HELLO {number}" in answer.splitlines(), answer
        return said[1], int(said[2])

    def stats(self) -> Any:
        return json.loads(self.ask("GET", "/stats")[1])

    def wait_for_stats(self, **clones: int) -> Any:
        """Until so many clones are ready, busy or waited for."""
        deadline = time.monotonic() + PATIENCE
        while (stats := self.stats())["clones"] | clones != stats["clones"]:
            assert time.monotonic() < deadline, f"{clones} does not come: {stats}"
            # The clones need the CPU; the agent's end would be news.
            assert not ended_within(self.process, 0.1), "the agent ended"
        return stats

    def end(self, mayfly: Path) -> None:
        """Which leaves nothing."""
        self.process.send_signal(signal.SIGTERM)
        assert exit_code(self.process, "the agent") == 0
        assert os.listdir(self.directory) == []
        assert machines_in(mayfly, self.directory) == [], "clones are left"


def machines_in(mayfly: Path, directory: Path) -> list[str]:
    said = subprocess.run([str(mayfly), "ps"], stdout=subprocess.PIPE, text=True, check=False).stdout
    return [line for line in said.splitlines() if str(directory) in line]
