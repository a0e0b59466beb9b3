"""The example of a host agent, in the lab: each request has a Linux guest of its own, cloned from a snapshot."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.artifacts import artifact
from harness.console import PATIENCE
from harness.guests import CHECKOUT, build_initrd
from harness.host_agent import FUNCTION, Agent
from harness.jail import drop_all, make_base
from harness.machine import BASE_ARGUMENTS

pytestmark = pytest.mark.lab

CLONES = 2


@artifact
def function_initrd(directory: Path) -> Path:
    return build_initrd(directory / "function-initrd", "--add", f"{CHECKOUT}/tests/host-agent/linux_function:/www{FUNCTION}")


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
    arguments = f'{BASE_ARGUMENTS} mayfly.end=reboot mayfly.run="{configure}; httpd -f -p 80 -h /www"'
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
    agents = []

    def start(*more: str) -> Agent:
        agents.append(Agent(build / "tests/host-agent/host_agent", directory, monitor, options, environment, *more))
        agents[-1].wait_until_ready()
        return agents[-1]

    try:
        yield start
    finally:
        for agent in agents:
            agent.process.kill()
            agent.process.wait()
        drop_all()


def test_each_request_has_a_guest_of_its_own(start_agent: StartAgent, mayfly: Path) -> None:
    agent = start_agent()
    answers = [agent.hello(number) for number in range(1, 5)]
    agent.wait_for_stats(ready=CLONES)
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
    agent.end(mayfly)


def test_branches_take_over_from_the_booted_guest(start_agent: StartAgent, mayfly: Path) -> None:
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
    agent.end(mayfly)
