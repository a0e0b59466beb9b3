"""The example of a host agent with clones of a template (--template), and its page's numbers, in the lab."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from functions import HELLO, PORT

from harness.console import PATIENCE
from harness.fixtures import JAIL_USER
from harness.host_agent import Agent, machines_in
from harness.process import ended_within, exit_code, until
from harness.templates import DIES, HANGS, SharedTemplate, template_at_port

pytestmark = pytest.mark.lab

CLONES = 2


@pytest.fixture
def template(shared_template: SharedTemplate) -> Path:
    """Its function has answered once (--warm-up)."""
    return shared_template("function")


@dataclass
class Host:
    """Starts agents."""

    program: Path
    mayfly: Path
    directory: Path
    template: Path
    agents: list[Agent]

    def options(self) -> dict[str, object]:
        return {"--template": self.template, "--boot-deadline-s": PATIENCE, "--port": 0, "--status-port": 0, "--clones": CLONES}

    def start(self, *, user: int | None = None, deadline_ms: int = PATIENCE * 1000, **more: object) -> Agent:
        named = {f"--{name.replace('_', '-')}": value for name, value in more.items()}
        options = self.options() | {"--deadline-ms": deadline_ms} | named
        agent = Agent(self.program, self.directory, self.mayfly, options, {}, user=user)
        self.agents.append(agent)
        return agent

    def start_ready(self, **more: Any) -> Agent:
        agent = self.start(**more)
        agent.wait_until_ready()
        return agent

    def refusal(self, template: Path, *more: str) -> str:
        """What one says that cannot begin."""
        command = [self.program, "--mayfly", self.mayfly, "--directory", self.directory, "--port", "0", "--template", template, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert os.listdir(self.directory) == []
        return done.stderr


@pytest.fixture
def host(loopback: None, build: Path, mayfly: Path, template: Path, room: Path) -> Iterator[Host]:
    directory = room / "agent"
    directory.mkdir()
    made = Host(build / "tests/host-agent/host_agent", mayfly, directory, template, [])
    try:
        yield made
    finally:
        for agent in made.agents:
            agent.process.kill()
            agent.process.wait()


@pytest.fixture
def user(host: Host, room: Path) -> Iterator[int | None]:
    """Another one than root, who may open /dev/kvm."""
    if os.geteuid() != 0:
        yield None  # as this one is
        return
    device = Path("/dev/kvm")
    mode, owner = device.stat().st_mode, device.stat().st_uid
    room.chmod(0o755)
    os.chown(host.directory, JAIL_USER, JAIL_USER)
    os.chown(device, JAIL_USER, -1)
    yield JAIL_USER
    os.chown(device, owner, -1)
    device.chmod(mode & 0o7777)


def test_each_request_has_a_clone_of_its_own_without_root(host: Host, user: int | None) -> None:
    agent = host.start_ready(user=user)
    answers = [agent.hello(number) for number in range(2)]
    # As many at once as have a clone or may wait for one.
    agent.wait_for_stats(ready=CLONES)
    with ThreadPoolExecutor(2 * CLONES) as requests:
        answers += requests.map(agent.hello, range(2, 6))
    assert len({name for name, _ in answers}) == 6, answers
    # The first request was the build's. What one writes to its disk, no other finds.
    assert {number for _, number in answers} == {2}, answers
    status, _ = agent.ask("GET", DIES)
    assert status == 502
    status, _ = agent.ask("GET", "/nothing-here")
    assert status == 404, "the function's own"

    stats = agent.wait_for_stats(ready=CLONES, busy=0, waiting=0)
    assert stats["requests"] == {"answered": 7, "refused": 0, "failed": 1, "late": 0, "unasked": 0}
    assert stats["answered_by"] == {"source": 0, "clones": 7}
    for histogram in stats["latency_us"].values():
        assert histogram["count"] == 7
        assert sum(bucket["count"] for bucket in histogram["buckets"]) == 7
        assert 0 < histogram["p50"] <= histogram["p99"] <= 1.07 * histogram["longest"], histogram
    # The measurement may be half a second old.
    until(lambda: agent.stats()["memory"]["monitors"] == CLONES, "the memory of all clones is not measured")
    memory = agent.stats()["memory"]
    assert 0 < memory["private_kib"] <= memory["pss_kib"] < 1 << 20, memory

    watched = json.loads(agent.ask("GET", "/stats", port=agent.status_port)[1])
    assert watched["requests"] == stats["requests"]
    assert watched["latency_us"] == stats["latency_us"]
    assert watched["uptime_ms"] >= stats["uptime_ms"] > 0
    status, page = agent.ask("GET", "/", port=agent.status_port)
    assert status == 200 and "<title>host_agent</title>" in page

    # A client that hangs up frees its clone.
    with socket.create_connection(("127.0.0.1", agent.port)) as client:
        client.sendall(f"GET {HANGS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        agent.wait_for_stats(busy=1)
    stats = agent.wait_for_stats(ready=CLONES, busy=0)
    assert stats["requests"] == {"answered": 7, "refused": 0, "failed": 1, "late": 0, "unasked": 1}
    assert agent.hello(6)[1] == 2
    agent.wait_for_stats(ready=CLONES)
    [own] = host.directory.iterdir()
    until(lambda: len(list(own.iterdir())) == CLONES, f"used clones leave files: {list(own.iterdir())}")
    agent.end(host.mayfly)


@pytest.mark.parametrize("name", ["python", "static"])
def test_other_functions_serve(host: Host, shared_template: SharedTemplate, name: str) -> None:
    """Neither image has a program of Mayfly's; that of the static function has no other file."""
    agent = host.start_ready(template=shared_template(name))
    assert [agent.ask("GET", "/") for _ in range(CLONES + 1)] == [(200, HELLO.decode())] * (CLONES + 1)
    if name == "static":
        assert agent.ask("GET", "/requests") == (200, "2\n"), "the first request was the build's"
    status, _ = agent.ask("POST", "/", "not its own")
    assert status == 501, "the function's own"
    answered = agent.wait_for_stats(ready=CLONES, busy=0)["answered_by"]
    assert answered == {"source": 0, "clones": CLONES + (3 if name == "static" else 2)}
    agent.end(host.mayfly)


def test_a_late_answer_is_a_timeout_and_no_clone_outlives_a_killed_agent(host: Host) -> None:
    agent = host.start_ready(deadline_ms=2000)
    agent.wait_for_stats(ready=CLONES)
    status, said = agent.ask("GET", HANGS)
    assert (status, said) == (504, "the function has not answered in time\n")
    stats = agent.wait_for_stats(ready=CLONES, busy=0)
    assert stats["requests"]["late"] == 1

    assert len(machines_in(host.mayfly, host.directory)) == CLONES
    agent.process.kill()
    assert exit_code(agent.process, "the agent") == -signal.SIGKILL
    until(lambda: machines_in(host.mayfly, host.directory) == [], "clones are left")


def test_says_why_it_cannot_begin(host: Host, room: Path) -> None:
    missing = host.refusal(room / "none.template")
    assert missing.startswith("host_agent: ") and "none.template/template.json" in missing, missing
    assert "is it a directory of mayfly-template build?" in missing, missing
    portless = host.refusal(template_at_port(host.template, 0, room / "portless"))
    assert "portless: its function serves at no port; build it with --ready-port" in portless, portless
    silent = template_at_port(host.template, PORT + 1, room / "silent")
    refused = host.refusal(silent, "--boot-deadline-s", "2", "--clones", "1")
    assert f"no clone: port {PORT + 1} of a clone of {silent}: " in refused, refused

    # And is told to stop meanwhile.
    agent = host.start(template=silent)
    until(lambda: len(machines_in(host.mayfly, host.directory)) == CLONES, "no clones are tried")
    agent.process.send_signal(signal.SIGTERM)
    assert ended_within(agent.process, PATIENCE / 2), "it waits for the function"
    assert agent.process.returncode == 1
    assert os.listdir(host.directory) == []
    assert machines_in(host.mayfly, host.directory) == []
