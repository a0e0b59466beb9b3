"""Guests whose root is a container image: init's image mode, and the agent, in the lab."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agent_peer import Channel, Listener
from functions import busybox_layer, make_initrd
from images import Image, Layer
from listing import listing_of

from harness.artifacts import artifact
from harness.guests import Guest
from harness.machine import POWERED_OFF, RESET, Machine, Machines
from harness.network import Network

pytestmark = pytest.mark.lab

HOST_OF_AGENTS = "169.254.169.254"
APPLETS = (
    "sh", "cat", "echo", "id", "ls", "sleep", "mount", "hostname", "stat", "ip", "wget", "tty", "grep", "ps", "touch", "httpd",
)  # fmt: skip
FETCH = f"wget -q -O - http://{HOST_OF_AGENTS}/name; echo; ip addr show dev eth0"
APP = f"""#!/bin/sh
echo "ids $(id -u) $(id -g) $(id -G)"
echo "in $PWD with $# <$1> <$2>"
echo "A=$A HOME=$HOME PATH=$PATH"
echo "writes $(echo new > /srv/new && cat /srv/new /srv/old)"
echo "root $(stat -c %a /) $(mount | grep -c 'on / type overlay')"
echo "name $(hostname) $(cat /etc/hostname), $(cat /etc/resolv.conf)"
echo "hosts $(cat /etc/hosts)"
echo to standard error > /dev/stderr
ls -1d /dev/shm /sys/fs/cgroup/cgroup.procs /dev/fd/0 /run/prepared
{FETCH}; ip addr show dev lo
exit 42
"""
# The first time it waits for a signal. Init's is as Ctrl-Alt-Del, which the tuned kernel has no keyboard for.
COUNTS_AND_WAITS = """
echo count: $(cat /count)
stat -c %a /
echo hosts: $(grep -c 127.0.1.1 /etc/hosts)
test ! -e /count || exit 0
echo 1 > /count
(trap '' TERM; exec 9>> /held; while :; do sleep 1; done) &
trap 'echo asked; exit 5' USR1
kill -INT 1
while :; do sleep 1; done
"""
# What no user but root has where users share a machine.
USES_THE_MACHINE = """
touch /run/x && echo "run $(stat -c '%u %g %a' /run)"
echo "files $(ulimit -n) $(ulimit -Hn)"; ulimit -n 65536 && echo "more $(ulimit -n)"
echo "volume $(stat -c '%u %g %a' /data/db)"
httpd -p 80 -h /srv && echo "page $(wget -q -O - http://127.0.0.1/old)"
echo pings $(cat /proc/sys/net/ipv4/ping_group_range)
"""
# How each wants to be run. All have the same files, but for the last.
RUNS: dict[str, dict[str, object]] = {
    "app": {
        "Entrypoint": ["/app", "one word"], "Cmd": [""], "Env": ["A=b c", "PATH=/bin"], "User": "web", "WorkingDir": "/made/here",
    },
    "counts": {"Entrypoint": ["/bin/sh", "-c", COUNTS_AND_WAITS], "StopSignal": "SIGUSR1"},
    "begins": {
        "Entrypoint": ["/bin/sh", "-c", "echo begun; exec sleep 1000"], "Env": ["A=b", "PATH=/bin"], "User": "web", "WorkingDir": "/srv",
    },
    "user": {"Entrypoint": ["/bin/sh", "-c", USES_THE_MACHINE], "User": "1000:1000", "Volumes": {"/data/db": {}}},
}  # fmt: skip
DAMAGED: dict[str, bytes] = {
    "nonsense": b"mayfly-run-1\0nonsense\0",
    "no-program": b"mayfly-run-1\0",
    "missing-program": b"mayfly-run-1\0arg=/none\0",
}


def app_layer() -> Layer:
    layer = busybox_layer(*APPLETS, mode=0o555)
    layer.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n")
    layer.file("etc/group", b"web:x:34:\nmedia:x:44:web\n")
    layer.file("etc/hosts", b"192.0.2.9 db")  # its last line without an end
    layer.folder("srv", uid=33, gid=34).file("srv/old", b"old\n").file("run/prepared")
    return layer.file("app", APP.encode(), mode=0o755)


def user_layer() -> Layer:
    layer = busybox_layer(*APPLETS).folder("run", uid=1000, gid=1000, mode=0o750)
    return layer.file("srv/old", b"old")


def base_of(name: str) -> str:
    return "user-base" if name == "user" else "base"


@artifact
def image_files(directory: Path, build: Path) -> Path:
    """A directory with the base, and an initramfs by the name of each run."""
    place = directory / "image-guests"
    place.mkdir()
    layers = {"base": app_layer().bytes(), "user-base": user_layer().bytes()}
    run_files = dict(DAMAGED)
    for name, run in RUNS.items():
        files = ["--output", directory / name, "--run-file", directory / "run"]
        layout = Image([layers[base_of(name)]], run=run).layout(directory / f"layout-{name}")
        subprocess.run([build / "mayfly-template", "base", "--image", layout, *files], check=True, stdout=subprocess.DEVNULL)
        run_files[name] = (directory / "run").read_bytes()
        (directory / name).rename(place / base_of(name))  # the same each time
    for name, content in run_files.items():
        make_initrd(place / name, build, content)
    return place


@dataclass
class ImageMachine:
    """A machine that boots an image, not started yet."""

    machine: Machine
    guest: Guest
    words: list[str] = field(default_factory=lambda: ["mayfly.image=/dev/vda"])

    def serve_metadata(self, tap: str, **more: str) -> None:
        self.machine.add_interface("eth0", tap, **more)
        self.machine.api.put("/mmds/config", version="V1", network_interfaces=["eth0"])
        self.machine.api.put("/mmds", name="by metadata")

    def boot(self, *words: str, run: str | None = None) -> Machine:
        self.machine.boot(self.guest, mib=192, arguments=" ".join([*self.words, *words]), run=run)
        return self.machine


ImageMachines = Callable[[str], ImageMachine]


@pytest.fixture
def image_machine(machines: Machines, image_files: Path, tuned: Path) -> ImageMachines:
    """image_machine(NAME): its first drive is the base, its initramfs that run's."""

    def make(name: str) -> ImageMachine:
        machine = machines.start()
        machine.add_drive("base", image_files / base_of(name), is_read_only=True)
        return ImageMachine(machine, Guest(tuned, image_files / name))

    return make


def test_runs_as_the_image_wants_and_reaches_the_host(image_machine: ImageMachines, image_files: Path, tap: str) -> None:
    before = (image_files / "base").read_bytes()
    image = image_machine("app")
    image.serve_metadata(tap, guest_mac="06:00:00:00:01:02")
    machine = image.boot("mayfly.hostname=lab", "mayfly.nameserver=192.0.2.1")
    machine.wait_until_ready()
    machine.ends_with(POWERED_OFF)
    for line in (
        "ids 33 34 34 44", "in /made/here with 2 <one word> <>", "A=b c HOME=/home/web PATH=/bin", "writes new old", "root 555 1",
        "name lab lab, nameserver 192.0.2.1", "hosts 192.0.2.9 db", "127.0.1.1 lab", "to standard error", "/dev/fd/0", "/dev/shm", "/run/prepared",
        "/sys/fs/cgroup/cgroup.procs", "by metadata",
    ):
        machine.says(rf"(?m)^{line.replace('<', '[<]')}\r?$" if line != "writes new old" else "writes new\r?\nold")
    # Nobody has given it an address.
    machine.says(r"inet 169\.254\.2\.2/16")
    machine.says(r"inet 127\.0\.0\.1/8")
    machine.says("mayfly-init: command exited with status 42")
    assert (image_files / "base").read_bytes() == before


def test_a_user_of_the_image_has_what_containers_have(image_machine: ImageMachines) -> None:
    machine = image_machine("user").boot()
    machine.ends_with(POWERED_OFF)
    for line in ("run 1000 1000 750", "files 1024 1048576", "more 65536", "volume 0 0 755", "page old", "pings 0 2147483647"):
        machine.says(rf"(?m)^{line}\r?$")
    machine.says("mayfly-init: command exited with status 0")


def test_keeps_what_was_written_on_a_drive_and_stops_by_the_image_s_signal(image_machine: ImageMachines, room: Path) -> None:
    layer = room / "layer"
    with layer.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(layer)], check=True)
    for said, end, status in (("count:", RESET, 5), ("count: 1", POWERED_OFF, 0)):
        image = image_machine("counts")
        image.machine.add_drive("layer", layer)
        machine = image.boot("mayfly.overlay=/dev/vdb")
        machine.ends_with(end)
        machine.says(rf"(?m)^{said} *\r?$")
        machine.says(r"(?m)^555\r?$")
        machine.says(r"(?m)^hosts: 1\r?$")
        assert ("asked" in machine.console.text) == (end == RESET)
        machine.says(f"mayfly-init: command exited with status {status}")
        assert "cannot make read-only" not in machine.console.text
        checked = subprocess.run(["e2fsck", "-fn", str(layer)], stdout=subprocess.PIPE, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        dumped = subprocess.run(["dumpe2fs", "-h", str(layer)], capture_output=True, text=True, check=True)
        assert "needs_recovery" not in dumped.stdout  # it was left sound, and not by a replay


def test_keeps_the_kernel_s_address_and_runs_a_command_in_place_of_the_image_s(image_machine: ImageMachines, tap: str) -> None:
    image = image_machine("app")
    image.serve_metadata(tap)
    machine = image.boot("ip=10.9.0.2::10.9.0.1:255.255.255.0::eth0:off", run=f"id -u; {FETCH}; exit 3")
    machine.ends_with(POWERED_OFF)
    machine.says(r"(?m)^33\r?$")
    machine.says(r"(?m)^by metadata\r?$")
    machine.says(r"inet 10\.9\.0\.2/24")
    assert "inet 169.254" not in machine.console.text
    machine.says("mayfly-init: command exited with status 3")


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("app", ["mayfly.image=/dev/vdz"], "mayfly-init: cannot mount /dev/vdz: No such file or directory"),
        ("app", ["mayfly.overlay=/dev/vda"], "mayfly-init: cannot mount /dev/vda: "),
        ("nonsense", [], "mayfly-init: /mayfly/run: 'nonsense' is not understood"),
        ("no-program", [], "mayfly-init: the image names no program to run, and there is no mayfly.run"),
        ("missing-program", [], "mayfly-init: cannot run /none: No such file or directory"),
    ],
    ids=["no-drive", "no-layer", "no-run-file", "no-program", "missing-program"],
)
def test_says_what_is_wrong(image_machine: ImageMachines, name: str, words: list[str], said: str) -> None:
    machine = image_machine(name).boot(*words)
    machine.ends_with(POWERED_OFF)
    machine.says(said)


def test_agent_runs_commands_and_copies_files(
    image_machine: ImageMachines, network: Network, room: Path, mayfly: Path
) -> None:
    network.tap("tap0", f"{HOST_OF_AGENTS}/16")
    place = room / "channel"
    place.mkdir()
    channel = Channel(place, Listener(1024, HOST_OF_AGENTS))
    image = image_machine("begins")
    image.machine.add_interface("eth0", "tap0")
    machine = image.boot()

    def ask(verb: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [mayfly, verb, "--agent-socket", channel.path, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    ran = ask("exec", "--", "sh", "-c", "id -u; echo $A $PWD $HOME; exit 9")
    assert (ran.returncode, ran.stdout, ran.stderr) == (9, "33\nb /srv /home/web\n", "")
    assert ask("exec", "--tty", "--user", "root", "--", "sh", "-c", "tty; id -u").stdout.split() == ["/dev/pts/0", "0"]
    tree = room / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "deep/data").write_bytes(os.urandom(1_000_000))
    (tree / "deep/link").symlink_to("data")
    for copied in (ask("cp", tree, ":/srv/"), ask("cp", ":/srv/tree", room / "back")):
        assert (copied.returncode, copied.stderr) == (0, "")
    assert listing_of(room / "back") == listing_of(tree)
    # Killed, it is started again.
    agent = "$(ps | grep -m 1 mayfly-guest-agent | grep -o '[0-9]*' | grep -m 1 .)"
    assert ask("exec", "--user", "root", "--", "sh", "-c", f"kill {agent}").returncode == 0
    machine.console.wait_for("mayfly-init: the agent has ended")
    assert ask("exec", "--", "echo", "again").stdout == "again\n"
    machine.kill()
    channel.close()
