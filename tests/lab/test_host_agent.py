"""The example of a host agent, in the lab: each request has a Linux guest of its own, cloned from a snapshot."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts import artifact
from harness.console import PATIENCE, Console
from harness.guests import CHECKOUT, build_initrd
from harness.jail import drop_all, make_base
from harness.machine import base_arguments
from harness.process import ended_within, exit_code

pytestmark = pytest.mark.lab(batch=4, seconds=900)

FUNCTION = "/cgi-bin/function"
CLONES = 2


@artifact
def function_initrd(directory: Path) -> Path:
    return build_initrd(directory / "function-initrd", "--add", f"{CHECKOUT}/tests/host-agent/linux_function:/www{FUNCTION}")


class Agent:
    def __init__(self, program: Path, directory: Path, monitor: Path, options: list[str], environment: dict[str, str]) -> None:
        command = [str(program), "--mayfly", str(monitor), "--directory", str(directory), *options]
        self.process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.console = Console(self.process.stdout, "the agent")
        self._port = 0

    def wait_until_ready(self) -> None:
        self._port = int(self.console.wait_for(r"^ready: http://.*:(\d+)\n")[1])

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def hello(self, number: int) -> str:
        status, answer = self.ask("POST", FUNCTION, f"hello {number}")
        assert status == 200
        # The first request was that by which the agent learned that the guest is ready.
        assert re.search("^I am clone-[0-9]+, at request 2$", answer, re.MULTILINE), answer
        assert f"HELLO {number}" in answer.splitlines(), answer
        return answer

    def stats(self) -> Any:
        return json.loads(self.ask("GET", "/stats")[1])

    def wait_for_clones(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.stats()["clones"]["ready"] != CLONES:
            assert time.monotonic() < deadline, "the clones are not ready"
            # The clones need the CPU; the agent's end would be news.
            assert not ended_within(self.process, 0.1), "the agent ended"


@pytest.fixture
def directory(room: Path) -> Path:
    """The agent's own."""
    path = room / "agent"
    path.mkdir()
    return path


@pytest.fixture
def agent(loopback: None, build: Path, mayfly: Path, tuned: Path, function_initrd: Path, directory: Path) -> Iterator[Agent]:
    monitor, environment = mayfly, {}
    if os.geteuid() == 0:
        make_base()
        monitor = CHECKOUT / "tests/lab/jailed_mayfly"
        environment = {"MAYFLY": str(mayfly), "SHOWN": f"{directory} {tuned} {function_initrd}"}
    configure = "ip addr add 10.12.0.2/24 dev eth0 && ip link set eth0 up && ip route add 169.254.169.254 dev eth0"
    arguments = f'{base_arguments()} mayfly.end=reboot mayfly.run="{configure}; httpd -f -p 80 -h /www"'
    options = {
        "--kernel": tuned,
        "--initrd": function_initrd,
        "--memory-mib": 96,
        "--boot-args": arguments,
        "--ready-path": FUNCTION,
        "--boot-deadline-s": PATIENCE,
        "--port": 0,
        "--clones": CLONES,
        "--deadline-ms": PATIENCE * 1000,
    }
    words = [str(word) for option in options.items() for word in option]
    agent = Agent(build / "tests/host-agent/host_agent", directory, monitor, words, environment)
    try:
        agent.wait_until_ready()
        yield agent
    finally:
        agent.process.kill()
        agent.process.wait()
        drop_all()


def test_each_request_has_a_guest_of_its_own(agent: Agent, mayfly: Path, directory: Path) -> None:
    answers = [agent.hello(number) for number in range(1, 5)]
    agent.wait_for_clones()
    # As many at once as have a clone or may wait for one.
    with ThreadPoolExecutor(4) as requests:
        answers += requests.map(agent.hello, range(5, 9))
    names = {re.search("^I am .*$", answer, re.MULTILINE)[0] for answer in answers}  # type: ignore[index]
    assert len(names) == 8, names
    status, _ = agent.ask("GET", f"{FUNCTION}?die")
    assert status == 502
    stats = agent.stats()
    assert stats["requests"] == {"answered": 8, "refused": 0, "failed": 1, "late": 0, "unasked": 0}
    assert stats["latency_us"]["whole"]["count"] == 8

    # The agent's end leaves nothing.
    agent.process.send_signal(signal.SIGTERM)
    assert exit_code(agent.process, "the agent") == 0
    assert os.listdir(directory) == []
    left = subprocess.run([str(mayfly), "ps"], stdout=subprocess.PIPE, text=True, check=False)
    assert str(directory) not in left.stdout, "clones are left"
