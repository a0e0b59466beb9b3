"""Whole lives of Linux guests by clients that nobody here wrote: the Go SDK, and Python's requests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from go_clients import NoModules, go_clients
from harness.artifacts import artifact
from harness.guests import CHECKOUT, build_rootfs
from harness.jail import drop_all
from harness.network import Network

pytestmark = pytest.mark.lab
HERE = Path(__file__).parent
# The clients know nothing of jails.
MONITOR = str(CHECKOUT / "tests/lab/jailed_mayfly")
NO_MODULES = "no-modules"


@artifact
def go_life(directory: Path) -> Path:
    """The program; or a file with the reason why there is none."""
    try:
        return go_clients() / "go_life"
    except NoModules as reason:
        (directory / NO_MODULES).write_text(str(reason))
        return directory / NO_MODULES


@artifact
def python_life(_: Path) -> Path:
    subprocess.run([CHECKOUT / ".ci/install-packages", "clients"], check=True)
    return HERE / "life.py"


@artifact
def small_root(directory: Path) -> Path:
    return build_rootfs(directory / "small-root", "--size", "16M")


@pytest.fixture
def tap_of_root(loopback: None) -> Iterator[str]:
    """Here the monitor in its jail is root's."""
    network = Network(owner=None)
    network.tap("tap0", "10.9.0.1/24")
    yield "tap0"
    network.drop_all()


@pytest.fixture
def environment(mayfly: Path, room: Path, stock: Path, stock_initrd: Path, small_root: Path) -> Iterator[dict[str, str]]:
    """Of the client, and of the monitor that it starts."""
    yield {
        **os.environ,
        "MAYFLY": str(mayfly),
        "SHOWN": " ".join(map(str, (room, stock, stock_initrd, small_root))),
        # What the SDK waits for an answer, and for the socket: half a second and three, where a software CPU takes longer.
        "FIRECRACKER_GO_SDK_REQUEST_TIMEOUT_MILLISECONDS": "60000",
        "FIRECRACKER_GO_SDK_INIT_TIMEOUT_SECONDS": "60",
    }
    drop_all()


# The stock kernel listens to its keyboard, as the tuned kernel does not.
def test_go_life(
    go_life: Path, environment: dict[str, str], stock: Path, stock_initrd: Path, small_root: Path, tap_of_root: str, room: Path
) -> None:
    if go_life.name == NO_MODULES:
        pytest.skip(go_life.read_text())
    files = ["-kernel", stock, "-initrd", stock_initrd, "-root", small_root]
    subprocess.run([go_life, "-monitor", MONITOR, *files, "-tap", tap_of_root, "-work", room], env=environment, check=True)


def test_python_life(
    python_life: Path, environment: dict[str, str], stock: Path, stock_initrd: Path, small_root: Path, tap_of_root: str, room: Path
) -> None:
    subprocess.run([python_life, MONITOR, stock, stock_initrd, small_root, tap_of_root, room], env=environment, check=True)
