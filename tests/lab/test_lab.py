"""The lab itself, in a few starts of it. Each start is a fixture; the cases look at what it has left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.process import ended_within, exit_code

# A lab's start where others keep the machine busy, and once the making of its QEMU and kernel.
pytestmark = pytest.mark.timeout(1800)

LAB = Path(__file__).parent / "lab"
TIMEOUT, FAILURE = 124, 125  # the lab's own exit statuses


@dataclass
class Ended:
    """A run of the lab that is over."""

    status: int
    output: bytes
    error: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")

    @property
    def complaint(self) -> str:
        return self.error.decode(errors="replace")


def run(*words: str | Path, merged: bool = False, cwd: Path | None = None, **environment: str) -> Ended:
    begin = time.monotonic()
    ended = subprocess.run(
        [str(LAB), *map(str, words)],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr or b"", time.monotonic() - begin)


@pytest.fixture(scope="module")
def made() -> None:
    """What a lab is made of is made at its first start, which takes minutes."""
    assert run("--no-native", "true").status == 0


# --- Everything that a healthy lab offers, in one start --------------------------------------------------------------

# probe: opens KVM. probe FILE: writes to a mapping of FILE.
PROBE = r"""
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
int main(int count, char** arguments) {
  if (count == 2) {
    char* bytes = mmap(NULL, 6, PROT_READ | PROT_WRITE, MAP_SHARED, open(arguments[1], O_RDWR), 0);
    return bytes == MAP_FAILED ? 1 : memcpy(bytes, "MAPPED", 6) == NULL;
  }
  int kvm = open("/dev/kvm", O_RDWR);
  int version = kvm < 0 ? -1 : ioctl(kvm, KVM_GET_API_VERSION, 0);
  int machine = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
  int cpu = machine < 0 ? -1 : ioctl(machine, KVM_CREATE_VCPU, 0);
  printf("version %d, machine %d, cpu %d\n", version, machine >= 0, cpu >= 0);
}
"""

# Runs in the lab; leaves one file a finding in the share.
INSIDE = r"""#!/bin/bash
cd "$LAB_SHARE"
printf '%s\0' "$@" > arguments
printf '%s' "$OLDPWD" > directory
printf '%s' "${SELFTEST_PASSED-unset}:${SELFTEST_KEPT-unset}:$MAYFLY_LAB" > environment
cat from-outside > to-outside
"$WORK/probe" > kvm 2>&1
grep -qw svm /proc/cpuinfo && echo svm > cpu
nproc > cpus
hostname > hostname
stat -fc %T /sys/fs/cgroup > cgroup
cat /sys/fs/cgroup/cgroup.controllers > controllers
{ modprobe bridge && ip link add b0 type bridge && ip tuntap add t0 mode tap && ip link set t0 master b0 &&
  ip -o link show b0; } > network 2>&1
ip -o link show lo > loopback
truncate -s 4M disk.img && mkfs.ext4 -q disk.img && mkdir -p /mnt/selftest && mount -o loop disk.img /mnt/selftest &&
  findmnt -no FSTYPE /mnt/selftest > loop 2>&1
umount /mnt/selftest
echo thrown-away > "$WORK/probe.c"
printf mapped-through > mapped
"$WORK/probe" mapped
"$LAB" -- sh -c 'echo "$MAYFLY_LAB:$(cd "$LAB_SHARE" && echo entered)"; exit 7' > native 2>&1
echo "status $?" >> native
sleep 1000 &  # must not hold the lab up
read -r line; echo "stdin:$line:$?" > stdin
bash -c 'echo to-stderr > /dev/stderr'
# All byte values, then more than any buffer on the way.
for i in {0..255}; do printf "\\x$(printf %x "$i")"; done
yes 'a line of the long output' | head -c 3000000
kill -SEGV "$BASHPID"
"""
LONG_OUTPUT = bytes(range(256)) + (b"a line of the long output\n" * 120_000)[:3_000_000]

ARGUMENTS = ["with space", "quotes ' and \"", "two\nlines", "", "*", "$HOME", "\\backslash", "tab\t", "comma,s", "ä"]


class Healthy(Ended):
    work: Path

    def found(self, name: str) -> str:
        """What the command has left in the share."""
        return (self.work / "share" / name).read_text()


@pytest.fixture(scope="module")
def healthy(made: None, tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    work = tmp_path_factory.mktemp("healthy")
    share, directory = work / "share", work / "with space"
    share.mkdir()
    directory.mkdir()
    (share / "from-outside").write_text("from outside\n")
    (work / "probe.c").write_text(PROBE)
    subprocess.run(["gcc", "-static", "-o", str(work / "probe"), str(work / "probe.c")], check=True)
    (work / "inside").write_text(INSIDE)
    (work / "inside").chmod(0o755)
    options = ["--no-native", "--timeout", "120", "--share", share, "--env", "WORK", "--env", "LAB", "--env", "SELFTEST_PASSED"]
    environment = {"WORK": str(work), "LAB": str(LAB), "SELFTEST_PASSED": "a b", "SELFTEST_KEPT": "no"}
    healthy = Healthy(**vars(run(*options, "--", work / "inside", *ARGUMENTS, cwd=directory, **environment)))
    healthy.work = work
    return healthy


def test_a_signal_that_ends_the_command_becomes_128_and_its_number(healthy: Healthy) -> None:
    assert healthy.status == 128 + signal.SIGSEGV


def test_standard_output_arrives_byte_by_byte(healthy: Healthy) -> None:
    assert healthy.output == LONG_OUTPUT


def test_standard_error_arrives_and_nothing_else_does(healthy: Healthy) -> None:
    assert healthy.error == b"to-stderr\n"


def test_the_share_can_be_mapped(healthy: Healthy) -> None:
    assert healthy.found("mapped") == "MAPPED-through"


def test_writes_elsewhere_are_thrown_away(healthy: Healthy) -> None:
    assert (healthy.work / "probe.c").read_text() == PROBE


def test_the_working_directory_is_kept(healthy: Healthy) -> None:
    assert healthy.found("directory") == str(healthy.work / "with space")


NATIVE = "lab: this CPU has hardware virtualization; running natively\nnative:entered\nstatus 7\n"


@pytest.mark.parametrize(
    "name, expected",
    [
        pytest.param("stdin", "stdin::1\n", id="standard input is empty"),
        pytest.param("arguments", "".join(f"{word}\0" for word in ARGUMENTS), id="arguments arrive unchanged"),
        pytest.param("environment", "a b:unset:software", id="the environment is what was asked for"),
        pytest.param("to-outside", "from outside\n", id="the share is writable from both sides"),
        pytest.param("kvm", "version 12, machine 1, cpu 1\n", id="KVM makes a machine with a CPU"),
        pytest.param("cpu", "svm\n", id="the CPU has AMD-V"),
        pytest.param("native", NATIVE, id="where there is AMD-V, the lab runs commands natively"),
        pytest.param("cpus", "2\n", id="there are two CPUs"),
        pytest.param("hostname", "lab\n", id="the host name is lab"),
        pytest.param("cgroup", "cgroup2fs\n", id="cgroup v2 is mounted"),
        pytest.param("loop", "ext4\n", id="loop devices and file systems load on demand"),
    ],
)
def test_finds(healthy: Healthy, name: str, expected: str) -> None:
    assert healthy.found(name) == expected


def test_cgroup_controllers_are_there(healthy: Healthy) -> None:
    assert "memory" in healthy.found("controllers").split()


def test_modules_load_by_name_and_on_demand(healthy: Healthy) -> None:
    """The bridge's by name, that of TAPs on demand."""
    assert "b0:" in healthy.found("network")


def test_the_loopback_interface_is_up(healthy: Healthy) -> None:
    assert "LOOPBACK,UP" in healthy.found("loopback")


# --- A command that takes too long, with one stream for both outputs --------------------------------------------------


@pytest.fixture(scope="module")
def limit(healthy: Healthy) -> int:
    """Enough for a lab to start where others keep the host busy: more than what the one above took in all."""
    return 5 + 2 * round(healthy.seconds)


@pytest.fixture(scope="module")
def too_long(limit: int) -> Ended:
    script = "echo one; echo two >&2; echo three; sleep 1000"
    return run("--no-native", "--timeout", str(limit), "--cpus", "1", "--", "bash", "-c", script, merged=True)


def test_the_time_limit_ends_with_124(too_long: Ended) -> None:
    assert too_long.status == TIMEOUT


def test_the_time_limit_holds(too_long: Ended) -> None:
    assert too_long.seconds < 500


def test_output_before_the_limit_is_not_lost_and_in_order(too_long: Ended) -> None:
    assert re.findall("^(?:one|two|three)$", too_long.text, re.MULTILINE) == ["one", "two", "three"]


def test_the_time_limit_is_named(too_long: Ended, limit: int) -> None:
    assert f"lab: time limit of {limit} s reached" in too_long.text


@pytest.fixture(scope="module")
def silent(limit: int) -> Ended:
    script = "for i in 1 2 3; do echo $i; sleep 2; done; sleep 1000"
    options = ("--no-native", "--timeout", "500", "--silence", str(limit), "--cpus", "1")
    return run(*options, "--", "bash", "-c", script, merged=True)


def test_silence_ends_with_124(silent: Ended) -> None:
    assert silent.status == TIMEOUT


def test_silence_is_what_was_not_heard_lately(silent: Ended, limit: int) -> None:
    assert limit < silent.seconds < 490


def test_the_silence_is_named(silent: Ended, limit: int) -> None:
    assert f"lab: nothing was said for {limit} s" in silent.text


# --- A kernel that changes its code ---------------------------------------------------------------------------------

# The scheduler's code is written over again and again, on one CPU, while two processes keep the other in it.
CHANGES = r"""
import os
if (child := os.fork()) == 0:
    os.sched_setaffinity(0, {1})
    there, back = os.pipe(), os.pipe()
    mine, others = (there, back) if os.fork() == 0 else (back, there)
    if mine is back:
        os.write(others[1], b"x")
    while True:
        os.write(others[1], os.read(mine[0], 1))
os.sched_setaffinity(0, {0})
for number in range(500):
    with open("/proc/sys/kernel/sched_schedstats", "w") as switch:
        switch.write(str(number & 1))
    if number % 100 == 0:
        print(number, flush=True)
print("changed", flush=True)
os._exit(0)
"""


def test_a_cpu_runs_what_another_has_written(made: None, limit: int) -> None:
    """It does not run the int3 for ever that was there for a moment."""
    options = ["--no-native", "--timeout", "600", "--silence", str(60 + limit)]
    ended = run(*options, "--", "/usr/bin/python3", "-c", CHANGES)
    assert ended.status == 0, ended.text + ended.complaint
    assert ended.text.endswith("changed\n")


# --- A kernel that panics ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panicked(made: None, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The kernel panics once its command's output has come out: what is still in a pipe then is lost."""
    share = tmp_path_factory.mktemp("share")
    command = 'echo before; until [ -e "$LAB_SHARE/heard" ]; do :; done; echo c > /proc/sysrq-trigger; sleep 60'
    begin = time.monotonic()
    with subprocess.Popen(
        [LAB, "--no-native", "--timeout", "120", "--share", share, "--", "sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as lab:
        assert lab.stdout is not None
        first = lab.stdout.readline()
        (share / "heard").touch()
        rest, complaint = lab.communicate()
    return Ended(lab.returncode, first + rest, complaint, time.monotonic() - begin)


def test_a_panic_ends_with_125(panicked: Ended) -> None:
    assert panicked.status == FAILURE


def test_output_before_the_panic_is_not_lost(panicked: Ended) -> None:
    assert panicked.text == "before\n"


def test_a_panic_shows_the_end_of_the_console(panicked: Ended) -> None:
    assert re.search(r"console \| .*Kernel panic", panicked.complaint)


# --- Without a lab -----------------------------------------------------------------------------------------------------


def test_a_wrong_option_ends_with_125_and_says_why() -> None:
    ended = run("--timeout", "soon", "true")
    assert (ended.status, ended.complaint.count("positive whole number")) == (FAILURE, 1)


def test_a_kernel_of_another_name_is_refused() -> None:
    for ended in (run("--kernel", "newest", "true"), run("true", MAYFLY_LAB_KERNEL="newest")):
        assert (ended.status, ended.complaint) == (FAILURE, "lab: --kernel is stable or backports, not 'newest'\n")


def test_a_named_kernel_has_a_cache_of_its_own(made: None, tmp_path: Path) -> None:
    cache = Path(os.environ.get("MAYFLY_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mayfly"))
    *_, stable = sorted((cache / "lab-kernel").glob("[0-9]*"), key=lambda each: each.stat().st_mtime)
    # What `backports` is on this release; nothing is in the other one's place, and nothing is fetched.
    is_bookworm = "VERSION_CODENAME=bookworm\n" in Path("/etc/os-release").read_text()
    kernel = tmp_path / ("lab-kernel-backports" if is_bookworm else "lab-kernel") / stable.name
    kernel.mkdir(parents=True)
    for part in stable.iterdir():
        (kernel / part.name).symlink_to(part)
    for part in ("lab-qemu", "lab-initramfs", "sources"):
        (tmp_path / part).symlink_to(cache / part)
    ended = run("--no-native", "--kernel", "backports", "uname", "-r", MAYFLY_CACHE=str(tmp_path))
    assert (ended.status, ended.text) == (0, stable.name + "\n"), ended.complaint
    assert "fetching" not in ended.complaint


def test_missing_programs_are_named_and_the_way_to_get_them(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "readlink", "mktemp", "mkdir", "rm", "grep", "stat", "find", "sort", "tail"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    ended = run("--no-native", "true", PATH=str(tmp_path))
    assert ended.status == FAILURE
    assert len(re.findall("qemu-system-x86_64.*install-packages lab", ended.complaint)) == 1


def emulator_of(lab: subprocess.Popen[bytes], directory: Path) -> int:
    """The process of its QEMU, once it has one."""
    while not ended_within(lab, 0.1):
        # Its console is made just before it. What bears its name earlier (build-qemu) is not it.
        if next(directory.glob("mayfly-lab.*/console"), None) is None:
            continue
        for child in Path(f"/proc/{lab.pid}/task/{lab.pid}/children").read_text().split():
            if "qemu" in Path("/proc", child, "comm").read_text():
                return int(child)
    raise AssertionError(f"the lab ended with {lab.returncode}")


@pytest.fixture(scope="module")
def terminated(made: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, list[Path]]]:
    """A lab that got TERM: its status, its QEMU's process, and the files that it left."""
    directory = tmp_path_factory.mktemp("terminated")
    command = [str(LAB), "--no-native", "--timeout", "60", "sleep", "50"]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(directory)}, stderr=subprocess.DEVNULL) as lab:
        emulator = emulator_of(lab, directory)
        lab.terminate()
        status = exit_code(lab, "the lab")
    yield status, emulator, list(directory.glob("mayfly-lab.*"))


def test_term_ends_the_lab_with_143(terminated: tuple[int, int, list[Path]]) -> None:
    assert terminated[0] == 128 + signal.SIGTERM


def test_term_leaves_no_qemu_behind(terminated: tuple[int, int, list[Path]]) -> None:
    assert not Path("/proc", str(terminated[1])).exists()


def test_term_leaves_no_files_behind(terminated: tuple[int, int, list[Path]]) -> None:
    assert terminated[2] == []
