"""The example of a host agent, in the lab: each request has a Linux guest of its own, cloned from a snapshot."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
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

    def hello(self, number: int) -> tuple[str, int]:
        """Who has answered, and at which of its requests it was."""
        status, answer = self.ask("POST", FUNCTION, f"hello {number}")
        assert status == 200
        said = re.search("^I am ([a-z]+-[0-9]+), at request ([0-9]+)$", answer, re.MULTILINE)
        assert said, answer
        assert f"HELLO {number}" in answer.splitlines(), answer
        return said[1], int(said[2])

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


StartAgent = Callable[..., Agent]


@pytest.fixture
def start_agent(
    loopback: None, build: Path, mayfly: Path, tuned: Path, function_initrd: Path, directory: Path
) -> Iterator[StartAgent]:
    """Starts one with more arguments, which ends with the case."""
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
    agents = []

    def start(*more: str) -> Agent:
        agents.append(Agent(build / "tests/host-agent/host_agent", directory, monitor, [*words, *more], environment))
        agents[-1].wait_until_ready()
        return agents[-1]

    try:
        yield start
    finally:
        for agent in agents:
            agent.process.kill()
            agent.process.wait()
        drop_all()


def end(agent: Agent, mayfly: Path, directory: Path) -> None:
    """The agent's end leaves nothing."""
    agent.process.send_signal(signal.SIGTERM)
    assert exit_code(agent.process, "the agent") == 0
    assert os.listdir(directory) == []
    left = subprocess.run([str(mayfly), "ps"], stdout=subprocess.PIPE, text=True, check=False)
    assert str(directory) not in left.stdout, "clones are left"


def test_each_request_has_a_guest_of_its_own(start_agent: StartAgent, mayfly: Path, directory: Path) -> None:
    agent = start_agent()
    answers = [agent.hello(number) for number in range(1, 5)]
    agent.wait_for_clones()
    # As many at once as have a clone or may wait for one.
    with ThreadPoolExecutor(4) as requests:
        answers += requests.map(agent.hello, range(5, 9))
    names = {name for name, _ in answers}
    assert len(names) == 8, names
    # The first request was that by which the agent learned that the guest is ready.
    assert {number for _, number in answers} == {2}
    status, _ = agent.ask("GET", f"{FUNCTION}?die")
    assert status == 502
    stats = agent.stats()
    assert stats["requests"] == {"answered": 8, "refused": 0, "failed": 1, "late": 0, "unasked": 0}
    assert stats["latency_us"]["whole"]["count"] == 8
    end(agent, mayfly, directory)


def test_branches_take_over_from_the_booted_guest(start_agent: StartAgent, mayfly: Path, directory: Path) -> None:
    warm = 2
    agent = start_agent("--live", "--warm-requests", str(warm), "--branch")
    answers: list[tuple[str, int]] = []
    deadline = time.monotonic() + PATIENCE
    while sum(name.startswith("clone-") for name, _ in answers) < 4:
        assert time.monotonic() < deadline, answers
        answers.append(agent.hello(len(answers)))
    by_source = [number for name, number in answers if name == "source-1"]
    by_branches = {name: number for name, number in answers if name.startswith("clone-")}
    assert by_source == list(range(2, 2 + len(by_source))), "each request once, in their order"
    assert len(by_source) >= warm
    # Before a branch's own request: the agent's first, and those after which the snapshot was taken.
    assert set(by_branches.values()) == {1 + warm + 1}, answers
    assert len(by_branches) == 4, "each has answered once"
    stats = agent.stats()
    assert stats["answered_by"] == {"source": len(by_source), "clones": 4}
    assert stats["live_snapshot"]["pause_us"] > 0
    end(agent, mayfly, directory)
