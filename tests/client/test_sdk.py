"""The Go SDK's own tests, as sdk_tests.list says, on this machine's /dev/kvm.

A bare-metal guest takes the kernel's place: the tests look at the monitor, to which they give 250 ms for some things, and
never at its guest, which needs to listen to its keyboard only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from go_clients import NoModules, go_clients
from harness.guests import CHECKOUT
from harness.jail import ALL_JAILS

HERE = Path(__file__).parent
LONGEST_TEST = 120  # seconds


class Entry(NamedTuple):
    """A line of the list."""

    kind: str  # machine, jailer, alone, not
    name: str
    rest: str  # subtests with | between, or a reason


def entries() -> list[Entry]:
    lines = (HERE / "sdk_tests.list").read_text().splitlines()
    return [Entry(*f"{line} ".split(" ", 2)) for line in lines if line and not line.startswith("#")]


ENTRIES = [entry._replace(rest=entry.rest.strip()) for entry in entries()]


class Namespaces:
    """A network and mounts of one's own."""

    def __init__(self) -> None:
        # They last as long as this process, which ends with its input.
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"\n"

    def enter(self, *command: str | Path) -> list[str]:
        """The command that runs this there."""
        return ["nsenter", f"--target={self._keeper.pid}", "--net", "--mount", *map(str, command)]

    def run(self, *command: str | Path, check: bool = True) -> None:
        subprocess.run(self.enter(*command), check=check)

    def close(self) -> None:
        self._keeper.communicate()


class Sdk:
    """What its tests find."""

    def __init__(self, built: Path, build: Path, work: Path, namespaces: Namespaces) -> None:
        self.program = built / "sdk.test"
        self._work, self._namespaces = work, namespaces
        for binary in ("mayfly", "mayfly-jailer"):
            shutil.copy(build / binary, work)
        data = shutil.copytree(built / "testdata", work / "data")
        shutil.copy(build / "guests/keyboard", data / "vmlinux")
        for image in ("root-drive.img", "root-drive-with-ssh.img"):
            with (data / image).open("wb") as file:
                file.truncate(4 << 20)
        (data / "root-drive-ssh-key").touch()
        namespaces.run("ip", "tuntap", "add", "fc-test-tap0", "mode", "tap")

    def run(self, entry: Entry) -> tuple[int, str]:
        """Status and output of one of its tests."""
        pattern = f"^{entry.name}$"
        if entry.rest:
            # In a name that has ( or ) these would be others; the list has none of these.
            pattern += f"/^({entry.rest})$"
        monitor = CHECKOUT / "tests/lab/jailed_mayfly" if entry.kind == "machine" else self._work / "mayfly"
        environment = {
            **os.environ,
            "MAYFLY": str(self._work / "mayfly"),
            "SHOWN": str(self._work),
            "FC_TEST_DATA_PATH": str(self._work / "data"),
            "FC_TEST_BIN": str(monitor),
            "FC_TEST_JAILER_BIN": str(self._work / "mayfly-jailer"),
            "TMPDIR": str(self._work),
        }
        command = ["env", f"--chdir={self._work}", "timeout", str(LONGEST_TEST), self.program, "-test.v", "-test.run", pattern]
        ended = subprocess.run(
            self._namespaces.enter(*command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        self._namespaces.run("sh", "-c", f"! mountpoint -q {ALL_JAILS} || umount -l {ALL_JAILS}")
        return ended.returncode, ended.stdout


def cpuset_hierarchy() -> Path | None:
    """Of cgroup v1."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpuset" in options.split(","):
            return Path(where)
    return None


@pytest.fixture(scope="module")
def sdk(build: Path) -> Iterator[Sdk]:
    if os.geteuid() != 0 or not os.access("/dev/kvm", os.W_OK):
        pytest.skip("the Go SDK's own tests want root and a /dev/kvm")
    try:
        built = go_clients()
    except NoModules as reason:
        pytest.skip(str(reason))
    namespaces = Namespaces()
    # Short, as sockets are in it; all of its path root's alone, as the jailer wants it.
    work = Path(tempfile.mkdtemp(prefix="sdk.", dir="/run"))
    cpuset = cpuset_hierarchy()
    if cpuset is None and Path("/sys/devices/system/node").is_dir():
        # The SDK asks for a cpuset of cgroup v1 on hosts that have NUMA nodes; this one has no such cpuset, so it has no nodes.
        namespaces.run("mount", "-t", "tmpfs", "none", "/sys/devices/system/node")
    yield Sdk(built, build, work, namespaces)
    if cpuset is not None:  # the cgroup of the jailer's test, which leaves it
        for name in ("mayfly/b", "mayfly"):
            if (cpuset / name).is_dir():
                (cpuset / name).rmdir()
    namespaces.close()
    shutil.rmtree(work)


def test_whole_list(sdk: Sdk, capsys: pytest.CaptureFixture[str]) -> None:
    """Another version of the SDK may have other tests."""
    said = subprocess.run([sdk.program, "-test.list", ".*"], stdout=subprocess.PIPE, text=True, check=True).stdout
    names = {name for name in said.split() if name.startswith("Test")}
    assert names == {entry.name.partition("/")[0] for entry in ENTRIES}
    with capsys.disabled():
        for entry in ENTRIES:
            if entry.kind == "not":
                print(f"not run {entry.name}: {entry.rest}")


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in ENTRIES if entry.kind != "not"])
def test_sdk(sdk: Sdk, entry: Entry) -> None:
    status, said = sdk.run(entry)
    print("\n".join(said.splitlines()[-60:]))
    assert status == 0
    assert re.search(f"^--- PASS: {entry.name} ", said, re.MULTILINE), "it was not run"
    if entry.rest:
        passed = re.findall(f"^    --- PASS: {entry.name}/", said, re.MULTILINE)
        assert len(passed) == len(entry.rest.split("|")), f"not all of its subtests passed: {entry.rest}"
