"""Snapshots of real Linux guests, in the lab."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts import artifact
from harness.console import PATIENCE
from harness.guests import Guest, build_initrd, with_libraries
from harness.machine import RESET, Machine, Machines
from harness.network import Network, ip
from harness.process import ended_within

pytestmark = pytest.mark.lab

Background = Callable[..., "subprocess.Popen[bytes]"]

HOST, GUEST = "10.9.0.1", "10.9.0.2"
CONFIGURE = f"ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up"

# Guests end by a reset. In the software lab init cannot switch the machine off after a restore: it writes to a port by
# ioperm(2), and QEMU's emulated CPU takes a TSS for none that KVM has marked busy, as real ones want it (check_io()).
ENDS_BY_RESET = "mayfly.end=reboot"


@artifact
def fio_initrd(directory: Path) -> Path:
    return build_initrd(directory / "fio-initrd", *with_libraries("fio"))


def boot(machine: Machine, guest: Guest, run: str, **configuration: Any) -> None:
    machine.boot(guest, run=run, arguments=ENDS_BY_RESET, **configuration)


def tell_guest(machine: Machine) -> None:
    """The guest goes on when the host says so."""
    machine.type("go on")


def test_sixteen_clones_beside_the_machine_whose_drive_was_frozen(
    machines: Machines, tuned_guest: Guest, room: Path, mayfly: Path
) -> None:
    """Each over the same layers, with an overlay of its own, in which it writes at a place of its own."""
    base, overlay, frozen, image = (room / name for name in ("base", "overlay", "frozen", "image"))
    base.write_bytes(os.urandom(1 << 20))
    whole = base.read_bytes()
    mine = "yes $n | head -c 4096 | dd of=/dev/vda bs=4k seek=$n conv=notrunc,fsync 2>/dev/null"
    steps = (
        "dd if=/dev/urandom of=/dev/vda bs=4k count=16 seek=70 conv=fsync",
        "echo WAITING",
        "read n",
        mine,
        "echo 3 >/proc/sys/vm/drop_caches",
        "md5sum /dev/vda",
    )
    parent = machines.start()
    parent.add_drive("data", overlay, base_path=str(base), cache_type="Writeback")
    boot(parent, tuned_guest, "; ".join(steps), mib=96)
    parent.console.wait_for("^WAITING")
    parent.pause()
    files = {"snapshot_path": str(room / "one.state"), "mem_file_path": str(room / "one.mem")}
    parent.api.put("/snapshot/create", **files, frozen_drives=[{"drive_id": "data", "path_on_host": str(frozen)}])
    parent.resume()
    clones = [
        machines.thaw("one", drive_overrides=[{"drive_id": "data", "path_on_host": str(room / f"clone-{number}")}])
        for number in range(16)
    ]
    machines_by_number = dict(enumerate([*clones, parent]))
    for number, machine in machines_by_number.items():
        machine.type(str(number))
    subprocess.run(
        [mayfly, "drive", "export", "--base", str(base), "--overlay", str(frozen), "--output", str(image)], check=True
    )
    known = image.read_bytes()
    for number, machine in machines_by_number.items():
        expected = bytearray(known)
        expected[number * 4096 : (number + 1) * 4096] = (f"{number}\n".encode() * 4096)[:4096]
        machine.ends_with(RESET)
        machine.says(hashlib.md5(expected).hexdigest())
    assert base.read_bytes() == whole


@pytest.mark.parametrize("vcpus", [1, 2])
def test_clones_differ_in_what_is_random(machines: Machines, tuned_guest: Guest, vcpus: int) -> None:
    draw = "head -c 16 /dev/urandom | sha256sum"
    parent = machines.start()
    steps = (draw, "echo WAITING", "read line", "echo RANDOM", draw, "dmesg | grep -c 'virtual machine for[k]'", "nproc")
    boot(parent, tuned_guest, "; ".join(steps), vcpus=vcpus)
    parent.console.wait_for("^WAITING")
    parent.freeze("one")
    drawn = []
    for _ in range(2):
        clone = machines.thaw("one")
        tell_guest(clone)
        clone.ends_with(RESET)
        drawn.append(clone.console.after("^RANDOM", 1))
        assert clone.console.after("^RANDOM", 2) == "1", "the kernel did not notice the fork"
        assert clone.console.after("^RANDOM", 3) == str(vcpus)
    assert len(drawn[0]) >= 64 and drawn[0] != drawn[1]


@pytest.mark.parametrize("goes_on", [None, False], ids=["by-default", "frozen"])
def test_clock_after_a_restore(machines: Machines, tuned_guest: Guest, goes_on: bool | None) -> None:
    parent = machines.start()
    boot(parent, tuned_guest, "echo BEFORE; date +%s; echo WAITING; read line; echo TIME; date +%s")
    parent.console.wait_for("^WAITING")
    host, before = time.time(), int(parent.console.after("^BEFORE"))
    parent.freeze("one")
    time.sleep(12)  # the time that must (or must not) pass for the guest
    clone = machines.thaw("one", **({} if goes_on is None else {"clock_realtime": goes_on}))
    tell_guest(clone)
    after = int(clone.console.wait_for(r"^TIME\n(\d+)\n")[1])
    host = time.time() - host
    clone.ends_with(RESET)
    guest = after - before
    if goes_on is None:
        assert abs(guest - host) <= 6
    else:
        assert guest <= host - 9


OLD = 500 * 24 * 3600


def test_the_clock_of_a_clone_of_an_old_snapshot(
    machines: Machines, tuned_guest: Guest, build: Path, room: Path
) -> None:
    parent = machines.start()
    boot(parent, tuned_guest, "echo WAITING; read line; echo TIME; date +%s; sleep 1; date +%s")
    parent.console.wait_for("^WAITING")
    parent.freeze("one")
    subprocess.run([build / "tests/support/age_state", room / "one.state", str(OLD)], check=True)
    clone = machines.thaw("one")
    before = time.time()
    tell_guest(clone)
    first, second = map(int, clone.console.wait_for(r"^TIME\n(\d+)\n(\d+)\n").groups())
    after = time.time()
    # As much later as the snapshot is old, and it goes on from there.
    assert before - 6 <= first - OLD <= after + 6
    assert 1 <= second - first <= after - before + 6
    clone.ends_with(RESET)


def has_verified(machines: Machines) -> bool:
    """Whichever of them it was that came to the end."""
    return any(machine.console.find("^verified") for machine in machines.all)


def wait_for_traffic(machine: Machine, machines: Machines) -> None:
    """Until its drive has had some since the monitor's start, or the guest has got to the end."""
    deadline = time.monotonic() + PATIENCE
    while not has_verified(machines):
        metrics = machine.api.request("GET", "/metrics/prometheus")
        written = re.search(r"^mayfly_block_write_bytes_total (\d+)", metrics, re.MULTILINE)
        if written and int(written[1]) >= 2_000_000:
            return
        assert time.monotonic() < deadline, "the drive has had no traffic"
        # The guest needs the CPU; its end would be news.
        assert not ended_within(machine.process, 1), "the monitor ended"


VERIFICATION = (
    "fio --name=v --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-64k"
    " --size=14M --io_size=20M --verify=crc32c --verify_fatal=1 --randrepeat=1 --output-format=terse"
)


def test_verification_goes_on(machines: Machines, tuned: Path, fio_initrd: Path, room: Path) -> None:
    data = room / "data"
    data.touch()
    os.truncate(data, 24 << 20)
    machine = machines.start()
    machine.add_drive("data", data, cache_type="Writeback")
    boot(machine, Guest(tuned, fio_initrd), f"echo BEGIN; {VERIFICATION} && echo verified; read line", vcpus=2, mib=384)
    machine.console.wait_for("^BEGIN")
    for part in range(3):
        # Somewhere in the middle.
        wait_for_traffic(machine, machines)
        machine.freeze(f"part-{part}")
        machine = machines.thaw(f"part-{part}")
    if not has_verified(machines):
        machine.console.wait_for("^verified")
    tell_guest(machine)
    machine.ends_with(RESET)


def test_verification_goes_on_in_a_live_snapshot_and_in_its_machine(
    machines: Machines, tuned: Path, fio_initrd: Path, room: Path
) -> None:
    data, copy = room / "data", room / "copy"
    data.touch()
    os.truncate(data, 24 << 20)
    machine = machines.start("--live-snapshots")
    machine.add_drive("data", data, cache_type="Writeback")
    boot(machine, Guest(tuned, fio_initrd), f"echo BEGIN; {VERIFICATION} && echo verified; read line", vcpus=2, mib=384)
    machine.console.wait_for("^BEGIN")
    wait_for_traffic(machine, machines)
    machine.take_live("moving")  # its image goes on changing, so nothing is restored of it
    # Image and memory are of one moment: that of the pause, in which the image is copied. Memory is written behind it.
    machine.pause()
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(machine.take_live, "one")
        while not taken.done() and machine.api.get("/snapshot")["state"] != "Writing":
            pass
        shutil.copyfile(data, copy)
        machine.resume()
        taken.result()
    clone = machines.thaw("one", drive_overrides=[{"drive_id": "data", "path_on_host": str(copy)}])
    for each in (machine, clone):
        each.console.wait_for("^verified")
        tell_guest(each)
        each.ends_with(RESET)


def test_verification_goes_on_in_branches_and_their_parent(
    machines: Machines, tuned: Path, fio_initrd: Path, room: Path
) -> None:
    """Of one drive, whose overlay each has of its own from then on; two of the parent, one of a child."""
    base = room / "base"
    base.touch()
    os.truncate(base, 24 << 20)
    parent = machines.start("--branches")
    parent.add_drive("data", room / "overlay", base_path=str(base), cache_type="Writeback")
    boot(parent, Guest(tuned, fio_initrd), f"echo BEGIN; {VERIFICATION} && echo verified; read line", vcpus=2, mib=384)
    parent.console.wait_for("^BEGIN")
    wait_for_traffic(parent, machines)
    of = parent
    for number in range(3):
        overlay = {"drive_id": "data", "path_on_host": str(room / f"overlay-{number}")}
        child = of.branch(f"child-{number}", drive_overrides=[overlay])
        machines.all.append(child)
        if number == 1:
            of = child
    for each in machines.all:
        each.console.wait_for("verified")
    tell_guest(parent)
    parent.ends_with(RESET)


def test_a_transfer_goes_on(machines: Machines, tuned_guest: Guest, tap: str, room: Path, background: Background) -> None:
    directory = room / "www"
    directory.mkdir()
    sent = os.urandom(16_000_000)
    (directory / "sent").write_bytes(sent)
    background("busybox", "httpd", "-f", "-p", f"{HOST}:7001", "-h", str(directory))
    parent = machines.start()
    parent.add_interface("eth0", tap)
    fetch = f"wget -q -O /tmp/got http://{HOST}:7001/sent; sha256sum /tmp/got"
    boot(parent, tuned_guest, f"{CONFIGURE}; echo BEGIN; {fetch}", mib=256)
    parent.console.wait_for("^BEGIN")
    parent.freeze("one")
    clone = machines.thaw("one")
    clone.ends_with(RESET)
    clone.says(hashlib.sha256(sent).hexdigest())


@artifact
def iperf_initrd(directory: Path) -> Path:
    return build_initrd(directory / "iperf-initrd", *with_libraries("iperf3"))


def test_a_measurement_goes_on_under_live_snapshots(
    machines: Machines, tuned: Path, iperf_initrd: Path, tap: str, background: Background
) -> None:
    """The machine's connection never ends; a clone's does, as its server has gone, and the clone makes the next one."""
    # A clone's connection meets none of this side in TIME-WAIT, to which it would write for minutes before it is told.
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("0")
    background("iperf3", "-s", "-1", "-B", HOST, "-p", "5201")
    background("iperf3", "-s", "-B", HOST, "-p", "5202")
    machine = machines.start("--live-snapshots")
    machine.add_interface("eth0", tap)
    up = f"iperf3 -c {HOST} -p 5201 -t 8 -i 1 --forceflush && echo measured || echo broken"
    down = f"until iperf3 -c {HOST} -p 5202 -b 8M -t 1 -R; do :; done && echo measured again"
    boot(machine, Guest(tuned, iperf_initrd), f"{CONFIGURE}; {up}; {down}", mib=256)
    machine.console.wait_for(r" 0\.00-1\.\d\d +sec")
    taken = ("one", "two")
    for name in taken:
        machine.take_live(name)
    assert not machine.console.find("^measured"), "both were taken while it measured"
    machine.console.wait_for("^measured")
    machine.ends_with(RESET)
    machine.says("^measured again")
    for name in taken:
        clone = machines.thaw(name)
        clone.ends_with(RESET)
        clone.says("^broken")
        clone.says("^measured again")


TOKENS = r"""
ask() { printf 'PUT /latest/api/token HTTP/1.0\r\nX-metadata-token-ttl-seconds: 600\r\n\r\n' | nc 169.254.169.254 80; };
token() { ask | tail -n 1; };
get() { wget -q -O - --header X-metadata-token:$token http://169.254.169.254/name && echo; };
clone() { wget -S -O - --header X-metadata-token:$token http://169.254.169.254/name 2>&1 | grep -i generation; };
ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; ip route add 169.254.169.254 dev eth0;
token=$(token); get; clone; echo WAITING; read line; get || echo REFUSED; token=$(token); get; clone;
device=$(basename $(readlink -f /sys/class/net/eth0/device)); cd /sys/bus/virtio/drivers/virtio_net;
cat /sys/class/net/eth0/address; echo $device > unbind; echo $device > bind; cat /sys/class/net/eth0/address
"""


def test_metadata_after_a_restore(machines: Machines, tuned_guest: Guest, tap: str, room: Path) -> None:
    """A clone serves what its own host puts, as its parent did; tokens of the parent are worth nothing there. It has another
    generation, and another address where its guest takes it."""
    metadata = room / "metadata"
    metadata.write_text('{"name": "the clone"}')
    parent = machines.start()
    parent.add_interface("eth0", tap)
    parent.api.put("/mmds/config", version="V2", network_interfaces=["eth0"])
    parent.api.put("/mmds", name="the parent")
    boot(parent, tuned_guest, TOKENS.replace("\n", " "))
    parent.console.wait_for("^WAITING")
    parent.says("^the parent")
    parent.freeze("one")
    clone = machines.start("--metadata", str(metadata))
    clone.thaw("one", network_overrides=[{"iface_id": "eth0", "host_dev_name": tap, "guest_mac": "06:00:ac:10:00:07"}])
    tell_guest(clone)
    clone.ends_with(RESET)
    clone.says("^REFUSED")
    clone.says("^the clone")
    generations = [re.findall(r"Mayfly-Generation: (\w{16})", each.console.text) for each in (parent, clone)]
    assert [len(seen) for seen in generations] == [1, 1] and generations[0] != generations[1]
    addresses = re.findall(r"^((?:\w\w:){5}\w\w)", clone.console.text, re.MULTILINE)
    assert len(addresses) == 2 and addresses[0] != addresses[1] == "06:00:ac:10:00:07"


def test_diffs_merge(machines: Machines, tuned_guest: Guest, mayfly: Path, room: Path) -> None:
    write = "head -c 3000000 /dev/urandom > /tmp/$i; sha256sum /tmp/$i > /tmp/$i.sum; echo WROTE"
    check = "cat /tmp/*.sum | sha256sum -c && echo intact"
    parent = machines.start()
    run = f"echo WAITING; for i in 1 2; do read line; {write}; done; read line; {check}"
    boot(parent, tuned_guest, run, track_dirty_pages=True)
    parent.console.wait_for("^WAITING")
    parent.freeze("base")
    for _ in range(2):
        clone = machines.thaw("base", track_dirty_pages=True)
        tell_guest(clone)
        clone.console.wait_for("^WROTE")
        clone.freeze("diff", "Diff")
        files = {"--base": "base.mem", "--diff": "diff.mem", "--output": "base.mem"}
        options = [word for option, name in files.items() for word in (option, str(room / name))]
        subprocess.run([str(mayfly), "snapshot", "merge", *options], check=True)
        (room / "diff.state").rename(room / "base.state")
    clone = machines.thaw("base")
    tell_guest(clone)
    clone.ends_with(RESET)
    clone.says("^intact")


CLONES = 8


@pytest.fixture
def clone_namespaces(network: Network) -> Any:
    """A network namespace a clone, each with a TAP of the same address."""
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    made: list[str] = []
    for number in range(CLONES):
        made.append(f"clone{number}")
        network.namespace_with_tap(made[-1], f"c{number}", f"{HOST}/24")
    yield made
    ip(*(f"netns del {name}" for name in made))
    subprocess.run(["umount", "--lazy", "/run"], check=True)


def test_eight_clones_answer(
    machines: Machines, tuned_guest: Guest, network: Network, clone_namespaces: list[str]
) -> None:
    network.tap("tap0", f"{HOST}/24")
    parent = machines.start()
    parent.add_interface("eth0", "tap0", guest_mac="06:00:00:00:00:02")
    serve = "echo I am here > /tmp/page; httpd -p 80 -h /tmp; echo SERVING; read line"
    boot(parent, tuned_guest, f"{CONFIGURE}; {serve}", mib=96)
    parent.console.wait_for("^SERVING")
    parent.freeze("one")
    network.drop("tap0")
    for number, namespace in enumerate(clone_namespaces):
        override = {"iface_id": "eth0", "host_dev_name": f"c{number}"}
        machines.thaw("one", launcher=("ip", "netns", "exec", namespace), network_overrides=[override])
    for namespace in clone_namespaces:
        within = ("ip", "netns", "exec", namespace)
        subprocess.run([*within, "busybox", "ping", "-c", "1", "-W", "30", GUEST], check=True)
        page = subprocess.run(
            [*within, "curl", "-sf", "--max-time", "60", f"http://{GUEST}/page"], stdout=subprocess.PIPE, check=True
        )
        assert page.stdout == b"I am here\n"


REVERTS, TURNS = 200, 10


def anonymous_kib(machine: Machine) -> int:
    status = Path(f"/proc/{machine.process.pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert found, status
    return int(found[1])


def test_two_hundred_reverts(machines: Machines, tuned_guest: Guest, tap: str, room: Path, background: Background) -> None:
    """A guest with a drive and a network is what it was at the snapshot after each of them, and draws other random numbers."""
    data, directory = room / "data", room / "www"
    data.write_bytes(os.urandom(1 << 20))
    directory.mkdir()
    (directory / "hello").write_text("hello from the host\n")
    background("busybox", "httpd", "-f", "-p", f"{HOST}:7002", "-h", str(directory))
    parent = machines.start()
    parent.add_interface("eth0", tap)
    parent.add_drive("data", data, is_read_only=True)
    # Memory, a drive that the guest's cache has not seen, the network, and randomness.
    turn = (
        "turns=$((turns + 1)); head -c 1000000 /dev/urandom > /tmp/dirt; "
        "echo turn $turns of $line: $(sha256sum < /dev/vda | cut -c -64)"
        f" $(wget -q -O - http://{HOST}:7002/hello) $(head -c 16 /dev/urandom | sha256sum | cut -c -64)."
    )
    boot(parent, tuned_guest, f"{CONFIGURE}; turns=0; echo WAITING; while read line; do {turn}; done", vcpus=2, mib=128)
    parent.console.wait_for("^WAITING")
    parent.freeze("one")
    machine = machines.thaw("one", revertible=True)
    content, drawn, flat = hashlib.sha256(data.read_bytes()).hexdigest(), set(), 0
    for number in range(1, REVERTS + 1):
        if number % (REVERTS // TURNS) == 0:
            machine.type(f"revert {number}")
            said = machine.console.wait_for(rf"^turn (\d+) of revert {number}: (\w+) hello from the host (\w+)\.")
            assert (said[1], said[2]) == ("1", content), said[0]
            drawn.add(said[3])
        machine.api.put("/snapshot/revert", resume_vm=number != REVERTS)
        if number == REVERTS // 10:
            flat = anonymous_kib(machine)
    assert len(drawn) == TURNS, "two reverts drew the same numbers"
    assert anonymous_kib(machine) < flat + 4096, f"{flat} KiB after a tenth of the reverts"
    machine.resume()
    machine.type("the end")
    assert machine.console.wait_for(r"^turn (\d+) of the end: ")[1] == "1"
    metrics = machine.api.request("GET", "/metrics/prometheus")
    assert re.search(rf"^mayfly_snapshot_revert_count_total {REVERTS}$", metrics, re.MULTILINE)
