"""Page servers of the shape of the dialect's example give Linux guests their memory."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.artifacts import artifact
from harness.guests import CHECKOUT, Guest
from harness.machine import RESET, Host, Machines
from harness.process import exit_code

pytestmark = pytest.mark.lab
SERVERS = CHECKOUT / "tests/support"

Serve = Callable[[Path, Path], "subprocess.Popen[str]"]


@artifact
def rust_page_server(directory: Path) -> Path:
    subprocess.run([CHECKOUT / ".ci/install-packages", "clients"], check=True)
    program = directory / "rust_page_server"
    source = SERVERS / "page_server.rs"
    subprocess.run([shutil.which("rustc") or "rustc", "--edition", "2021", "-o", program, source], check=True)
    return program


@pytest.fixture(params=["python", "rust"])
def serve(request: pytest.FixtureRequest, rust_page_server: Path) -> Iterator[Serve]:
    """serve(SOCKET, MEMORY): a page server that listens."""
    program = SERVERS / "page_server.py" if request.param == "python" else rust_page_server
    started: list[subprocess.Popen[str]] = []

    def start(socket: Path, memory: Path) -> subprocess.Popen[str]:
        server = subprocess.Popen([program, socket, memory], stdout=subprocess.PIPE, text=True)
        started.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        return server

    yield start
    for server in started:
        server.kill()
        server.wait()


def test_a_page_server(machines: Machines, host: Host, tuned_guest: Guest, room: Path, serve: Serve) -> None:
    if host.jails is not None:
        host.jails.flags = ("--allow-userfaultfd",)
    steps = (
        "head -c 8388608 /dev/urandom >/tmp/data",
        "echo BEFORE",
        "md5sum </tmp/data",
        "echo WAITING",
        "read line",
        "echo AFTER",
        "md5sum </tmp/data",
    )
    parent = machines.start()
    parent.boot(tuned_guest, run="; ".join(steps), arguments="mayfly.end=reboot", vcpus=2)
    parent.console.wait_for("^WAITING")
    before = parent.console.after("^BEFORE")
    parent.freeze("one")
    memory = room / "one.mem"
    assert memory.stat().st_size == 128 << 20
    server = serve(room / "pages", memory)
    clone = machines.start()
    backend = {"backend_type": "Uffd", "backend_path": str(room / "pages")}
    clone.api.put("/snapshot/load", snapshot_path=str(room / "one.state"), mem_backend=backend, resume_vm=True)
    clone.type("go on")
    clone.ends_with(RESET)
    assert clone.console.after("^AFTER") == before
    assert server.stdout is not None
    assert server.stdout.readline().startswith("the machine has ended: ")
    assert exit_code(server, "the page server") == 0
