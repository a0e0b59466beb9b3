"""The example of a host agent with clones of a template (--template), and its page's numbers, in the lab."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from functions import PORT, busybox_layer
from images import Image

from harness.console import PATIENCE
from harness.fixtures import JAIL_USER
from harness.guests import CHECKOUT
from harness.host_agent import FUNCTION, Agent, machines_in
from harness.machine import base_arguments
from harness.process import ended_within, exit_code, until

pytestmark = pytest.mark.lab(batch=8, seconds=900)

CLONES = 2
HANGS = "/cgi-bin/hangs"
APPLETS = ("sh", "cat", "echo", "httpd", "head", "tail", "tr", "nc", "wget", "reboot", "sleep")


def function_image(layout: Path) -> None:
    layer = busybox_layer(*APPLETS)
    layer.folder("tmp", mode=0o1777)
    layer.file(f"www{FUNCTION}", (CHECKOUT / "tests/host-agent/linux_function").read_bytes(), mode=0o755)
    layer.file(f"www{HANGS}", b"#!/bin/sh\nexec sleep 100000\n", mode=0o755)
    serve = ["/bin/httpd", "-f", "-p", str(PORT), "-h", "/www"]
    run = {"Env": ["PATH=/bin"], "Entrypoint": serve, "ExposedPorts": {f"{PORT}/tcp": {}}}
    Image([layer.bytes()], run=run).layout(layout)


@pytest.fixture(scope="module")
def template(build: Path, tuned: Path) -> Iterator[Path]:
    """Its function has answered once (--warm-up)."""
    with tempfile.TemporaryDirectory(prefix="mayfly-") as name:
        room = Path(name)
        room.chmod(0o755)
        function_image(room / "layout")
        arguments = [word for word in base_arguments().split() if word.startswith("lapic")]
        append = ["--append", " ".join(arguments)] if arguments else []
        command = [
            build / "mayfly-template", "build", "--image", room / "layout", "--output", room / "app.template", "--kernel", tuned,
            "--disk", "64M", "--warm-up", FUNCTION, *append,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        yield room / "app.template"


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
        options = self.options() | {"--deadline-ms": deadline_ms} | {f"--{name.replace('_', '-')}": value for name, value in more.items()}
        agent = Agent(self.program, self.directory, self.mayfly, options, {}, user=user)
        self.agents.append(agent)
        return agent

    def start_ready(self, **more: int) -> Agent:
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


def template_at_port(template: Path, port: int, place: Path) -> Path:
    """The same machine, said to serve there."""
    shutil.copytree(template, place, copy_function=os.link)
    described = json.loads((template / "template.json").read_text())
    described["machine"]["ready_port"] = port
    (place / "template.json").unlink()
    (place / "template.json").write_text(json.dumps(described))
    return place


def test_each_request_has_a_clone_of_its_own(host: Host) -> None:
    agent = host.start_ready()
    answers = [agent.hello(number) for number in range(16)]
    # As many at once as have a clone or may wait for one.
    agent.wait_for_stats(ready=CLONES)
    with ThreadPoolExecutor(2 * CLONES) as requests:
        answers += requests.map(agent.hello, range(16, 20))
    assert len({name for name, _ in answers}) == 20, answers
    # The first request was the build's. What one writes to its disk, no other finds.
    assert {number for _, number in answers} == {2}, answers
    status, _ = agent.ask("GET", f"{FUNCTION}?die")
    assert status == 502
    status, _ = agent.ask("GET", "/nothing-here")
    assert status == 404, "the function's own"

    stats = agent.wait_for_stats(ready=CLONES, busy=0, waiting=0)
    assert stats["requests"] == {"answered": 21, "refused": 0, "failed": 1, "late": 0, "unasked": 0}
    assert stats["answered_by"] == {"source": 0, "clones": 21}
    for histogram in stats["latency_us"].values():
        assert histogram["count"] == 21
        assert sum(bucket["count"] for bucket in histogram["buckets"]) == 21
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
    agent.end(host.mayfly)


def test_a_client_that_hangs_up_frees_its_clone(host: Host) -> None:
    agent = host.start_ready()
    agent.wait_for_stats(ready=CLONES)
    with socket.create_connection(("127.0.0.1", agent.port)) as client:
        client.sendall(f"GET {HANGS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        agent.wait_for_stats(busy=1)
    stats = agent.wait_for_stats(ready=CLONES, busy=0)
    assert stats["requests"] == {"answered": 0, "refused": 0, "failed": 0, "late": 0, "unasked": 1}
    assert agent.hello(1)[1] == 2
    agent.wait_for_stats(ready=CLONES)
    [own] = host.directory.iterdir()
    until(lambda: len(list(own.iterdir())) == CLONES, f"used clones leave files: {list(own.iterdir())}")
    agent.end(host.mayfly)


def test_a_function_that_does_not_answer_is_a_gateway_timeout(host: Host) -> None:
    agent = host.start_ready(deadline_ms=2000)
    agent.wait_for_stats(ready=CLONES)
    status, said = agent.ask("GET", HANGS)
    assert (status, said) == (504, "the function has not answered in time\n")
    stats = agent.wait_for_stats(ready=CLONES, busy=0)
    assert stats["requests"]["late"] == 1
    agent.end(host.mayfly)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become another user")
def test_needs_no_root(host: Host, room: Path) -> None:
    device = Path("/dev/kvm")
    mode, owner = device.stat().st_mode, device.stat().st_uid
    room.chmod(0o755)
    os.chown(host.directory, JAIL_USER, JAIL_USER)
    os.chown(device, JAIL_USER, -1)
    try:
        agent = host.start_ready(user=JAIL_USER)
        assert agent.hello(1)[1] == 2
        agent.wait_for_stats(ready=CLONES)
        until(lambda: agent.stats()["memory"]["monitors"] == CLONES, "the memory of all clones is not measured")
        agent.end(host.mayfly)
    finally:
        os.chown(device, owner, -1)
        device.chmod(mode & 0o7777)


def test_clones_do_not_outlive_an_agent_that_is_killed(host: Host) -> None:
    agent = host.start_ready()
    agent.wait_for_stats(ready=CLONES)
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
