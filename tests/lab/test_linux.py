"""Boots real Linux guests by API requests: the tuned kernel with and without ACPI, and Debian's unmodified cloud kernel."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.api import Refused
from harness.console import PATIENCE
from harness.guests import CHECKOUT, Guest
from harness.machine import POWERED_OFF, RESET, Machine, Machines

pytestmark = pytest.mark.lab

KERNEL_PANIC, TRIPLE_FAULT = 11, 12  # exit codes

each_kernel = pytest.mark.parametrize("guest", ["tuned", "plain", "stock"], indirect=True)

# Kernel, vCPUs and MiB. The gap below 4 GiB begins at 3,328 MiB.
SIZES = [
    *((kernel, vcpus, mib) for vcpus in (1, 2, 8) for kernel, mib in (("tuned", 128), ("plain", 128), ("stock", 256))),
    *(("tuned", 1, mib) for mib in (64, 3328, 5120)),
    ("plain", 2, 5120),
    *(("stock", 1, mib) for mib in (128, 3328, 5120)),
    ("tuned", 32, 256),
]


@pytest.mark.parametrize("guest, vcpus, mib", SIZES, indirect=["guest"])
def test_reaches_user_space(machine: Machine, guest: Guest, vcpus: int, mib: int) -> None:
    """With all its CPUs and memory, and powers off."""
    machine.boot(guest, vcpus=vcpus, mib=mib, run="nproc")
    ready = machine.console.wait_for(r"mayfly-init: ready .*cpus=(\d+).*memory_mib=(\d+).*\n")
    machine.ends_with(POWERED_OFF)
    assert int(ready[1]) == vcpus
    # The kernel keeps some: an eighth, and what its own image takes.
    assert mib * 7 // 8 - 64 <= int(ready[2]) <= mib


def test_what_a_clone_calls_lies_side_by_side(tuned: Path) -> None:
    """Each page of the kernel that it touches is a fault: rootfs-tools/kernel/functions.order."""
    order = (CHECKOUT / "rootfs-tools/kernel/functions.order").read_text().splitlines()[1:601]
    lines = subprocess.run(["nm", tuned], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    pages = {name: int(address, 16) >> 12 for address, _, name in (line.split() for line in lines if len(line.split()) == 3)}
    called = [pages[name] for name in order if name in pages]
    assert len(called) > 400, "has the kernel other names? perf/order-kernel writes them anew"
    assert len(set(called)) < 80, "the linker has left them where they were"


@each_kernel
def test_echoes_console_input(machine: Machine, guest: Guest) -> None:
    machine.boot(guest)
    machine.wait_until_ready()
    machine.type("echo sum $((40 + 2)) $(uname -s)")
    machine.console.wait_for("sum 42 Linux")
    machine.console.wait_for("echo sum")  # the terminal's echo of what was typed
    machine.type("poweroff")
    machine.ends_with(POWERED_OFF)


def test_no_timer_is_lost_before_a_halt(machine: Machine, build: Path, room: Path) -> None:
    """Of a bare-metal guest whose timer runs out as it halts; else any guest sleeps for half a minute now and then."""
    halts = Path(shutil.copy(build / "guests/halts", room))
    machine.boot(Guest(halts), arguments="times=5000")
    machine.ends_with(RESET)
    machine.says("GUEST PASS")


@each_kernel
def test_reboots(machine: Machine, guest: Guest) -> None:
    machine.boot(guest, run="true", arguments="mayfly.end=reboot")
    machine.ends_with(RESET)
    assert "asked for a reset" in machine.log


def test_tells_a_triple_fault(machine: Machine, tuned_guest: Guest) -> None:
    machine.boot(tuned_guest, run="true", arguments="reboot=t mayfly.end=reboot")
    machine.ends_with(TRIPLE_FAULT)
    assert "triple fault" in machine.log


@pytest.mark.parametrize("guest", ["tuned", "stock"], indirect=True)
def test_tells_a_panic(machine: Machine, guest: Guest) -> None:
    machine.boot(guest, run="true", arguments="mayfly.end=panic")
    machine.ends_with(KERNEL_PANIC)
    assert "kernel panicked" in machine.log


def test_pauses_and_resumes(machine: Machine, tuned_guest: Guest) -> None:
    machine.boot(tuned_guest, vcpus=2)
    machine.wait_until_ready()
    machine.pause()
    assert machine.api.get("/")["state"] == "Paused"
    machine.type("echo after the pause $((1 + 1))")
    machine.api.get("/vm/config")
    assert not machine.console.find("after the pause 2"), "a paused guest answered"
    machine.resume()
    machine.console.wait_for("after the pause 2")
    machine.type("poweroff")
    machine.ends_with(POWERED_OFF)


def test_is_locked_in(machines: Machines, tuned_guest: Guest) -> None:
    """What the other cases prove nothing without: that machines are in the jail that they are meant to be in."""
    if machines.host.jails is None:
        pytest.skip("root alone can make jails")
    machine = machines.start()
    machine.boot(tuned_guest, vcpus=2)
    machine.wait_until_ready()
    process = Path("/proc", str(machine.process.pid))
    assert (process / "root/mayfly").is_file()
    assert not (process / "root/etc").exists()
    rights = {"Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"}
    user, none = str(machines.host.user), "0" * 16
    for thread in os.listdir(process / "task"):
        fields = dict(line.split(":", 1) for line in (process / "task" / thread / "status").read_text().splitlines())
        held = {name: fields[name].split()[0] for name in rights}
        expected = {"Uid": user, "Gid": user, "CapEff": none, "CapBnd": none, "NoNewPrivs": "1", "Seccomp": "2"}
        assert held == expected, fields["Name"]
    machine.type("poweroff")
    machine.ends_with(POWERED_OFF)


def test_obeys_ctrl_alt_del(machine: Machine, stock_guest: Guest) -> None:
    machine.boot(stock_guest, mib=256)
    machine.wait_until_ready()
    machine.api.put("/actions", action_type="SendCtrlAltDel")
    machine.ends_with(RESET)


def test_refuses_an_initrd_that_does_not_fit(machine: Machine, tuned_guest: Guest, room: Path) -> None:
    big = room / "big"
    big.touch()
    os.truncate(big, 64 << 20)
    machine.configure(Guest(tuned_guest.kernel, big), mib=32)
    with pytest.raises(Refused, match="initrd_path"):
        machine.start()
    # Refused, and nothing is lost: with enough memory the same machine starts.
    machine.boot(tuned_guest, run="true")
    machine.ends_with(POWERED_OFF)


def test_runs_on_a_terminal(machines: Machines, tuned_guest: Guest) -> None:
    """script(1) gives `mayfly run` a terminal; the guest powers off by itself."""
    files = ["--kernel", str(tuned_guest.kernel), "--initrd", str(tuned_guest.initrd)]
    options = ["--memory", "128", "--append", 'quiet mayfly.run="echo on a terminal"']
    command = [*machines.host.monitor("lab-terminal"), "run", *files, *options]
    ended = subprocess.run(
        ["script", "-qec", shlex.join(command), "/dev/null"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )
    said = ended.stdout.decode(errors="replace")
    assert ended.returncode == POWERED_OFF, said
    assert "on a terminal" in said


def test_says_its_last_words(machine: Machine, tuned_guest: Guest) -> None:
    """The end of a command does not hang its terminal up: that throws away what the serial driver has not sent yet."""
    flood = "head -c 3500 /dev/zero | tr '\\0' x"
    machine.boot(tuned_guest, vcpus=2, run=f"echo session $(cut -d' ' -f6 /proc/self/stat); {flood}; echo; echo last words")
    machine.ends_with(POWERED_OFF)
    machine.says("^session 1")
    machine.says("^last words")


def test_tells_the_boot_time(machines: Machines, tuned_guest: Guest) -> None:
    machine = machines.start("--boot-timer")
    machine.boot(tuned_guest, run="true")
    machine.ends_with(POWERED_OFF)
    assert re.search(r"Guest-boot-time = \d+ us", machine.log)
