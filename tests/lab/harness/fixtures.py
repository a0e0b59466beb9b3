"""What cases in the lab ask for by name. harness/guests.py has the kernels and images."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.artifacts import named_by
from harness.guests import CHECKOUT, Guest
from harness.jail import Jails
from harness.machine import Host, Machine, Machines
from harness.network import Network, ip

JAIL_USER = 30007


@pytest.fixture(scope="session")
def build(pytestconfig: pytest.Config) -> Path:
    """The directory of what is tested."""
    return CHECKOUT / pytestconfig.getoption("--build")


@pytest.fixture(scope="session")
def mayfly(build: Path) -> Path:
    return build / "mayfly"


@pytest.fixture(scope="session")
def machine_numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def room() -> Iterator[Path]:
    """A directory of the case's own."""
    path = Path(tempfile.mkdtemp(prefix="mayfly-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def host(request: pytest.FixtureRequest, mayfly: Path, room: Path, machine_numbers: Iterator[int]) -> Host:
    shown = [request.getfixturevalue(name) for name in named_by([request.node])]
    jails = Jails(JAIL_USER) if os.geteuid() == 0 else None
    return Host(mayfly, room, shown, jails, machine_numbers)


@pytest.fixture
def machines(host: Host) -> Iterator[Machines]:
    machines = Machines(host)
    yield machines
    machines.end()


@pytest.fixture
def machine(machines: Machines) -> Machine:
    return machines.start()


@pytest.fixture
def root_machine(machines: Machines, room: Path, tuned: Path, root_image: Path) -> Callable[..., Machine]:
    """root_machine(COMMAND, vcpus=1, mib=256): a machine on a root file system of its own, not started yet, so that
    devices may be added."""

    def configured(run: str, vcpus: int = 1, mib: int = 256) -> Machine:
        root = room / "root" if not machines.all else room / f"root-{len(machines.all)}"
        subprocess.run(["cp", "--sparse=always", str(root_image), str(root)], check=True)
        machine = machines.start()
        machine.add_drive("rootfs", root, is_root_device=True, cache_type="Writeback")
        machine.configure(Guest(tuned), vcpus=vcpus, mib=mib, run=run)
        return machine

    return configured


@pytest.fixture
def background() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """background(WORD...): a command that runs beside the case, and is ended with it."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(words))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def mount(room: Path) -> Iterator[Callable[..., Path]]:
    """mount(*words, at=NAME): mounts, by mount(8), a directory of the room."""
    mounted: list[Path] = []

    def mount(*words: str | Path, at: str) -> Path:
        path = room / at
        path.mkdir()
        subprocess.run(["mount", *map(str, words), str(path)], check=True)
        mounted.append(path)
        return path

    yield mount
    for path in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="session")
def loopback() -> None:
    ip("link set lo up")


@pytest.fixture
def network(loopback: None, host: Host) -> Iterator[Network]:
    network = Network(host.user)
    yield network
    network.drop_all()


@pytest.fixture
def tap(network: Network) -> str:
    """The host's end, 10.9.0.1/24, of what is a guest's eth0."""
    network.tap("tap0", "10.9.0.1/24")
    return "tap0"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]
    """A failure shows the ends of what the case's machines have said."""
    outcome = yield
    report = outcome.get_result()
    machines = getattr(item, "funcargs", {}).get("machines")
    if report.failed and machines is not None:
        for machine in machines.all:
            for what, text in (("console", machine.console.text), ("log", machine.log)):
                end = "\n".join(line[:4000] for line in text.splitlines()[-15:])
                report.sections.append((f"{what} of {machine.name}", end))
