"""Guests whose root is a container image: init's image mode, and the agent, in the lab."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agent_peer import Channel, Listener
from functions import busybox_layer
from images import Image, Layer
from listing import listing_of

from harness.guests import Guest
from harness.machine import POWERED_OFF, RESET, Machine, Machines
from harness.network import Network

pytestmark = pytest.mark.lab(batch=8, seconds=400)

HOST_OF_AGENTS = "169.254.169.254"
APPLETS = ("sh", "cat", "echo", "id", "ls", "sleep", "mount", "hostname", "stat", "ip", "wget", "tty", "grep", "ps")
APP = """#!/bin/sh
echo "ids $(id -u) $(id -g) $(id -G)"
echo "in $PWD with $# <$1> <$2>"
echo "A=$A HOME=$HOME PATH=$PATH"
echo "writes $(echo new > /srv/new && cat /srv/new /srv/old)"
echo "root $(stat -c %a /) $(mount | grep -c 'on / type overlay')"
echo "name $(hostname) $(cat /etc/hostname), $(cat /etc/resolv.conf)"
echo to standard error > /dev/stderr
ls -1d /dev/shm /sys/fs/cgroup/cgroup.procs /dev/fd/0 /run/prepared
exit 42
"""


def app_layer() -> Layer:
    layer = busybox_layer(*APPLETS, mode=0o555)
    layer.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n")
    layer.file("etc/group", b"web:x:34:\nmedia:x:44:web\n")
    layer.folder("srv", uid=33, gid=34).file("srv/old", b"old\n").file("run/prepared")
    return layer.file("app", APP.encode(), mode=0o755)


@dataclass
class ImageMachine:
    """A machine that boots an image."""

    machine: Machine
    guest: Guest
    words: list[str] = field(default_factory=lambda: ["mayfly.image=/dev/vda"])

    def boot(self, *words: str, run: str | None = None) -> Machine:
        self.machine.boot(self.guest, mib=192, arguments=" ".join([*self.words, *words]), run=run)
        return self.machine


ImageMachines = Callable[..., ImageMachine]


@pytest.fixture
def image_machine(machines: Machines, build: Path, room: Path, tuned: Path) -> ImageMachines:
    """image_machine(Entrypoint=[...], ...): a machine, not started yet, whose first drive is the base of such an image."""

    def make(run_file: bytes | None = None, **run: object) -> ImageMachine:
        layout = room / "layout"
        if not layout.exists():
            Image([app_layer().bytes()], run=run).layout(layout)
        inside = room / "initramfs"
        (inside / "mayfly").mkdir(parents=True, exist_ok=True)
        base = room / "base"
        subprocess.run([build / "mayfly-template", "base", "--image", layout, "--output", base, "--run-file",
                        inside / "mayfly/run"], check=True, stdout=subprocess.DEVNULL)
        if run_file is not None:
            (inside / "mayfly/run").write_bytes(run_file)
        shutil.copy(build / "mayfly-guest-init", inside / "init")
        shutil.copy(build / "mayfly-guest-agent", inside / "mayfly/agent")
        initrd = room / "initrd"
        with initrd.open("wb") as archive:
            subprocess.run("find . | cpio --quiet -o -H newc", shell=True, cwd=inside, stdout=archive, check=True)
        machine = machines.start()
        machine.add_drive("base", base, is_read_only=True)
        return ImageMachine(machine, Guest(tuned, initrd))

    return make


def test_runs_as_the_image_wants(image_machine: ImageMachines, room: Path) -> None:
    image = image_machine(
        Entrypoint=["/app", "one word"], Cmd=[""], Env=["A=b c", "PATH=/bin"], User="web", WorkingDir="/made/here"
    )
    before = (room / "base").read_bytes()
    machine = image.boot("mayfly.hostname=lab", "mayfly.nameserver=192.0.2.1")
    machine.wait_until_ready()
    machine.ends_with(POWERED_OFF)
    for line in (
        "ids 33 34 34 44", "in /made/here with 2 <one word> <>", "A=b c HOME=/home/web PATH=/bin", "writes new old", "root 555 1",
        "name lab lab, nameserver 192.0.2.1", "to standard error", "/dev/fd/0", "/dev/shm", "/run/prepared",
        "/sys/fs/cgroup/cgroup.procs",
    ):
        machine.says(rf"(?m)^{line.replace('<', '[<]')}\r?$" if line != "writes new old" else "writes new\r?\nold")
    machine.says("mayfly-init: command exited with status 42")
    assert (room / "base").read_bytes() == before


def test_keeps_what_was_written_on_a_drive(image_machine: ImageMachines, room: Path) -> None:
    layer = room / "layer"
    with layer.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(layer)], check=True)
    for said in ("count:", "count: 1"):
        image = image_machine(Entrypoint=["/bin/sh", "-c", "echo count: $(cat /count); echo 1 >> /count; stat -c %a /"])
        image.machine.add_drive("layer", layer)
        machine = image.boot("mayfly.overlay=/dev/vdb")
        machine.ends_with(POWERED_OFF)
        machine.says(rf"(?m)^{said} *\r?$")
        machine.says(r"(?m)^555\r?$")
        checked = subprocess.run(["e2fsck", "-fn", str(layer)], stdout=subprocess.PIPE, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        dumped = subprocess.run(["dumpe2fs", "-h", str(layer)], capture_output=True, text=True, check=True)
        assert "needs_recovery" not in dumped.stdout  # it was left sound, and not by a replay


def test_a_command_runs_in_place_of_the_image_s(image_machine: ImageMachines) -> None:
    image = image_machine(Entrypoint=["/app"], User="web", Env=["PATH=/bin"])
    machine = image.boot(run="id -u; exit 3")
    machine.ends_with(POWERED_OFF)
    machine.says(r"(?m)^33\r?$")
    machine.says("mayfly-init: command exited with status 3")


def test_stop_signal_reaches_the_program(image_machine: ImageMachines) -> None:
    # As Ctrl-Alt-Del does, which the tuned kernel has no keyboard for.
    script = "trap 'echo asked; exit 5' USR1; kill -INT 1; while :; do sleep 1; done"
    machine = image_machine(Entrypoint=["/bin/sh", "-c", script], StopSignal="SIGUSR1").boot()
    machine.ends_with(RESET)
    machine.says("asked")
    machine.says("mayfly-init: command exited with status 5")


@pytest.mark.parametrize(
    ("run_file", "words", "said"),
    [
        (None, ["mayfly.image=/dev/vdz"], "mayfly-init: cannot mount /dev/vdz: No such file or directory"),
        (None, ["mayfly.overlay=/dev/vda"], "mayfly-init: cannot mount /dev/vda: "),
        (b"mayfly-run-1\0nonsense\0", [], "mayfly-init: /mayfly/run: 'nonsense' is not understood"),
        (b"mayfly-run-1\0", [], "mayfly-init: the image names no program to run, and there is no mayfly.run"),
        (b"mayfly-run-1\0arg=/none\0", [], "mayfly-init: cannot run /none: No such file or directory"),
    ],
    ids=["no-drive", "no-layer", "no-run-file", "no-program", "missing-program"],
)
def test_says_what_is_wrong(image_machine: ImageMachines, run_file: bytes | None, words: list[str], said: str) -> None:
    machine = image_machine(run_file, Entrypoint=["/app"]).boot(*words)
    machine.ends_with(POWERED_OFF)
    machine.says(said)


def test_reaches_the_host_without_an_address(image_machine: ImageMachines, tap: str) -> None:
    fetch = f"wget -q -O - http://{HOST_OF_AGENTS}/name"
    image = image_machine(Entrypoint=["/bin/sh", "-c", f"{fetch}; echo; ip addr show dev eth0; ip addr show dev lo"])
    image.machine.add_interface("eth0", tap, guest_mac="06:00:00:00:01:02")
    image.machine.api.put("/mmds/config", version="V1", network_interfaces=["eth0"])
    image.machine.api.put("/mmds", name="by metadata")
    machine = image.boot()
    machine.ends_with(POWERED_OFF)
    machine.says(r"(?m)^by metadata\r?$")
    machine.says(r"inet 169\.254\.2\.2/16")
    machine.says(r"inet 127\.0\.0\.1/8")


def test_keeps_the_address_that_the_kernel_was_given(image_machine: ImageMachines, tap: str) -> None:
    fetch = f"wget -q -O - http://{HOST_OF_AGENTS}/name"
    image = image_machine(Entrypoint=["/bin/sh", "-c", f"{fetch}; echo; ip addr show dev eth0"])
    image.machine.add_interface("eth0", tap)
    image.machine.api.put("/mmds/config", version="V1", network_interfaces=["eth0"])
    image.machine.api.put("/mmds", name="by metadata")
    machine = image.boot("ip=10.9.0.2::10.9.0.1:255.255.255.0::eth0:off")
    machine.ends_with(POWERED_OFF)
    machine.says(r"(?m)^by metadata\r?$")
    machine.says(r"inet 10\.9\.0\.2/24")
    assert "inet 169.254" not in machine.console.text


def test_agent_runs_commands_and_copies_files(
    image_machine: ImageMachines, network: Network, room: Path, mayfly: Path
) -> None:
    network.tap("tap0", f"{HOST_OF_AGENTS}/16")
    place = room / "channel"
    place.mkdir()
    channel = Channel(place, Listener(1024, HOST_OF_AGENTS))
    begin = ["/bin/sh", "-c", "echo begun; exec sleep 1000"]
    image = image_machine(Entrypoint=begin, User="web", Env=["A=b", "PATH=/bin"], WorkingDir="/srv")
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
