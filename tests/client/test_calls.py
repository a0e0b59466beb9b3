"""Other people's clients, call by call, each by a row of a table: on this machine's /dev/kvm, with bare-metal guests.

A client says of each call that it passed, or that it was refused as it is meant to be: what Mayfly does not have.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from go_clients import NEWEST_SDK, OLDEST_SDK, NoModules, go_clients
from harness.network import Network
from harness.tables import Row
from other_clients import CHECKOUT, PYTHON_CLIENT, NotToBeHad, python_client, rust_client

HERE = Path(__file__).parent
LONGEST_CLIENT = 120  # seconds


@pytest.fixture
def work() -> Iterator[Path]:
    """Short, as sockets are in it."""
    path = Path(tempfile.mkdtemp(prefix="calls.", dir="/run" if os.access("/run", os.W_OK) else None))
    yield path
    shutil.rmtree(path)


class Client:
    """Runs one, and makes its row."""

    def __init__(self, node: pytest.Item, build: Path, work: Path) -> None:
        self._node = node
        self._work = work
        self.monitor = build / "mayfly"
        self.guests = build / "guests"

    def run(self, name: str, version: str, *command: str | Path, path: Path | None = None) -> None:
        row = Row(self._node, "clients", "client", name)
        row.put("version", version)
        environment = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
        log = self._work / "said"
        with log.open("wb") as said:  # not a pipe, which a monitor that is left would keep open
            ended = subprocess.run(
                ["timeout", "--kill-after=5", str(LONGEST_CLIENT), *map(str, command)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
            )
        text = log.read_text(errors="replace")
        print("\n".join(text.splitlines()[-40:]))
        results = re.findall(r"^call .* (passed|refused)$", text, re.MULTILINE)
        row.put("calls", str(len(results)))
        row.put("passed", str(results.count("passed")))
        row.put("refused on purpose", str(results.count("refused")))
        row.put("failed", "none" if ended.returncode == 0 else "the next one")
        assert ended.returncode == 0
        assert results.count("passed") >= 5


@pytest.fixture
def client(request: pytest.FixtureRequest, build: Path, mayfly: Path, work: Path) -> Client:
    if not os.access("/dev/kvm", os.W_OK):
        pytest.skip("clients want a /dev/kvm")
    return Client(request.node, build, work)


def go_program(name: str) -> Path:
    try:
        program = go_clients() / name
    except NoModules as reason:
        pytest.skip(str(reason))
    if not program.exists():
        pytest.skip(program.with_suffix(".why").read_text())
    return program


@pytest.mark.parametrize("program, version", [("calls", OLDEST_SDK), ("calls_newest", NEWEST_SDK)], ids=["oldest", "newest"])
def test_go_sdk(client: Client, work: Path, program: str, version: str) -> None:
    files = ("-monitor", client.monitor, "-kernel", client.guests / "keyboard", "-work", work)
    client.run("Go: firecracker-go-sdk", version, go_program(program), *files)


def test_e2b(client: Client, work: Path) -> None:
    """As the orchestrator of E2B drives its machines: it keeps memory itself."""
    if not os.access("/dev/userfaultfd", os.W_OK):
        pytest.skip("the orchestrator wants userfaultfd")
    files = ("-monitor", client.monitor, "-kernel", client.guests / "survivor", "-work", work)
    client.run("Go: as E2B's orchestrator", "fork 1.12, 1.14", go_program("e2b"), *files)


def test_rust_crate(client: Client, work: Path) -> None:
    subprocess.run([CHECKOUT / ".ci/install-packages", "clients"], check=True)
    try:
        program = rust_client()
    except NotToBeHad as reason:
        pytest.skip(str(reason))
    client.run("Rust: firecracker-rs-sdk", "0.1.0", program, client.monitor, client.guests / "keyboard", work)


def test_python_package(client: Client, work: Path) -> None:
    subprocess.run([CHECKOUT / ".ci/install-packages", "clients"], check=True)
    try:
        package = python_client()
    except NotToBeHad as reason:
        pytest.skip(str(reason))
    name, _, version = PYTHON_CLIENT.partition("==")
    command = ("/usr/bin/python3", HERE / "calls.py", client.monitor, client.guests / "keyboard", work)
    client.run(f"Python: {name}", version, *command, path=package)


def test_getting_started(client: Client, work: Path) -> None:
    """By curl, as Firecracker's page has it."""
    if os.geteuid() != 0:
        pytest.skip("a TAP takes root")
    image = work / "rootfs"
    image.write_bytes(bytes(1 << 20))
    version = subprocess.run(["curl", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[1]
    network = Network(owner=None)
    network.tap("tap0", "172.16.0.1/30")
    try:
        client.run("curl, the page's steps", version, HERE / "getting_started.py", client.monitor, client.guests / "keyboard", image, work)
    finally:
        network.drop_all()
