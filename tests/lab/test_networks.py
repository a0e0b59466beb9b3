"""Networks and metadata of real Linux guests, in the lab."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.guests import padded_script
from harness.machine import POWERED_OFF, Machine
from harness.network import Network, frames_received

pytestmark = pytest.mark.lab

RootMachine = Callable[..., Machine]
Background = Callable[..., "subprocess.Popen[bytes]"]

HOST, GUEST = "10.9.0.1", "10.9.0.2"
CONFIGURE = f"ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up"
WAIT_FOR_HOST = "read line"
LARGEST_TAP_MTU = 65521


def tell_guest(machine: Machine) -> None:
    """The guest goes on when the host says so."""
    machine.type("go on")


def ping(address: str, count: int, size: int = 56) -> None:
    subprocess.run(["busybox", "ping", "-c", str(count), "-s", str(size), address], check=True)


def start_with(machine: Machine, tap: str, **interface: object) -> None:
    machine.add_interface("eth0", tap, **interface)
    machine.start()


def test_ping_both_ways(root_machine: RootMachine, tap: str) -> None:
    machine = root_machine(f"{CONFIGURE} && ping -c 3 {HOST} && echo PONG && {WAIT_FOR_HOST}")
    start_with(machine, tap)
    machine.console.wait_for("^PONG")
    ping(GUEST, 3)
    tell_guest(machine)
    machine.ends_with(POWERED_OFF)


@pytest.mark.parametrize("mtu, tap_mtu", [(68, 68), (65535, LARGEST_TAP_MTU)])
def test_pings_fill_mtu(root_machine: RootMachine, network: Network, mtu: int, tap_mtu: int) -> None:
    """The smallest MTU that IPv4 has, and the largest; packets that fill it, and others that need many fragments."""
    network.tap("tap0", f"{HOST}/24", tap_mtu)
    pings = f"ping -c 2 -s {mtu - 28} {HOST} && ping -c 2 -s 2000 {HOST}"
    machine = root_machine(f"{CONFIGURE} && ip link set eth0 mtu {mtu} && {pings} && echo PONG && {WAIT_FOR_HOST}")
    start_with(machine, "tap0", mtu=mtu)
    machine.console.wait_for("^PONG")
    ping(GUEST, 2, tap_mtu - 28)
    ping(GUEST, 2, 2000)
    tell_guest(machine)
    machine.ends_with(POWERED_OFF)


class Transfer:
    """A file that the guest fetches and gives back, hashed at both ends."""

    def __init__(self, root_machine: RootMachine, network: Network, room: Path, background: Background) -> None:
        self._root_machine, self._network, self._room, self._background = root_machine, network, room, background

    def arrives_whole(self, mtu: int, tap_mtu: int, size: int, alongside: str = "true") -> Machine:
        """`alongside` is a command of the guest's that runs beside the transfers."""
        self._network.tap("tap0", f"{HOST}/24", tap_mtu)
        directory = self._room / "www"
        directory.mkdir()
        sent = os.urandom(size)
        (directory / "sent").write_bytes(sent)
        self._background("busybox", "httpd", "-f", "-p", f"{HOST}:7001", "-h", str(directory))
        fetch = f"wget -q -O /tmp/got http://{HOST}:7001/sent; sha256sum /tmp/got; httpd -p 80 -h /tmp; echo SERVING"
        command = f"{CONFIGURE}; ip link set eth0 mtu {mtu}; {alongside} & {fetch}; {WAIT_FOR_HOST}"
        machine = self._root_machine(command, vcpus=2)
        start_with(machine, "tap0", mtu=mtu)
        machine.console.wait_for("^SERVING")
        returned = subprocess.run(
            ["curl", "-sf", "--max-time", "200", f"http://{GUEST}/got"], stdout=subprocess.PIPE, check=True
        ).stdout
        tell_guest(machine)
        machine.ends_with(POWERED_OFF)
        machine.says(hashlib.sha256(sent).hexdigest())
        assert sent == returned, "another file has come back"
        return machine


@pytest.fixture
def transfer(root_machine: RootMachine, network: Network, room: Path, background: Background) -> Transfer:
    return Transfer(root_machine, network, room, background)


@pytest.mark.parametrize("mtu", [576, 1500, LARGEST_TAP_MTU, 65535])
def test_transfers_arrive_whole(transfer: Transfer, mtu: int) -> None:
    """Down and up again. Where packets are small, fewer bytes fill the rings as often."""
    transfer.arrives_whole(mtu, min(mtu, LARGEST_TAP_MTU), 12_000_000 if mtu > 9000 else 5_000_000)


def test_transfers_arrive_whole_while_offloads_are_switched(transfer: Transfer) -> None:
    off = "ethtool -K eth0 sg off tx off tso off gso off gro off"
    on = off.replace("off", "on")
    switch = f"sh -c '{off}; ethtool -k eth0; while :; do {on}; {off}; echo SWITCHED; done'"
    machine = transfer.arrives_whole(1500, 1500, 20_000_000, switch)
    machine.says("^tx-checksumming: off")
    machine.says("^tcp-segmentation-offload: off")
    assert len(re.findall("^SWITCHED", machine.console.text, re.MULTILINE)) >= 5


UDP = ["-u -b 5M -l 1400", "-u -b 5M -l 20000"]


@pytest.mark.parametrize("up, down", [UDP, ["", ""]], ids=["udp", "tcp"])
def test_iperf_both_ways(root_machine: RootMachine, tap: str, background: Background, up: str, down: str) -> None:
    for port in (5201, 5202):
        background("iperf3", "-s", "-1", "-B", HOST, "-p", str(port))
    measure = f"iperf3 {up} -c {HOST} -p 5201 -t 2 && iperf3 {down} -c {HOST} -p 5202 -t 2 -R"
    machine = root_machine(f"{CONFIGURE}; {measure} && echo measured")
    start_with(machine, tap)
    machine.ends_with(POWERED_OFF)
    machine.says("^measured")


def held_by(machine: Machine) -> tuple[int, int]:
    """What the monitor holds: descriptors, and memory of its own in KiB, the guest's left out."""
    process = Path("/proc", str(machine.process.pid))
    kib = own = 0
    for line in (process / "smaps").read_text().splitlines():
        if line.startswith("Anonymous:"):
            own = int(line.split()[1])
        # Guest memory is what a core dump leaves out.
        elif line.startswith("VmFlags:") and "dd" not in line.split():
            kib += own
    return len(os.listdir(process / "fd")), kib


# All but the root file system's.
TURNS = """\
turn() {
  for path in /sys/bus/virtio/drivers/virtio_blk/virtio* /sys/bus/virtio/drivers/virtio_net/virtio*; do
    [ ! -e $path/block/vda ] || continue
    echo ${path##*/} >${path%/*}/unbind
    echo ${path##*/} >${path%/*}/bind
  done
  ip addr add 10.9.0.2/24 dev eth0
  ip link set eth0 up
}
use() {
  dd if=/dev/vdb of=/dev/null bs=64k count=16 2>/dev/null || echo NOT-READ
  ping -c 1 10.9.0.1 >/dev/null || echo NO-PONG
}
for i in $(seq 5); do turn; use; done
echo WARM
read line
for i in $(seq 100); do
  turn
  [ $((i % 10)) -ne 0 ] || { use; echo TURNED $i; }
done
read line
exit
"""


def test_nothing_leaks_over_resets(root_machine: RootMachine, tap: str, room: Path) -> None:
    """The guest's drivers let go of their devices and take them again, with data passing now and then."""
    data, turns = room / "data", room / "turns"
    data.touch()
    os.truncate(data, 8 << 20)
    turns.write_bytes(padded_script(TURNS))
    machine = root_machine("cp /dev/vdc /tmp/turns; sh /tmp/turns")
    machine.add_drive("data", data)
    machine.add_drive("turns", turns)
    start_with(machine, tap)
    machine.console.wait_for("^WARM")
    descriptors, kib = held_by(machine)
    tell_guest(machine)
    for turn in range(10, 101, 10):
        machine.console.wait_for(f"^TURNED {turn}$")
    descriptors_after, kib_after = held_by(machine)
    tell_guest(machine)
    machine.ends_with(POWERED_OFF)
    assert not machine.console.find("NO-PONG|NOT-READ")
    assert descriptors_after == descriptors
    assert kib_after <= kib + 64


def test_two_guests_on_a_bridge(root_machine: RootMachine, network: Network) -> None:
    network.bridge("br0", "tap0", "tap1")
    serve = "echo across the bridge > /tmp/page; httpd -p 80 -h /tmp; echo SERVING"
    server = root_machine(f"{CONFIGURE}; {serve}; {WAIT_FOR_HOST}", mib=192)
    start_with(server, "tap0", guest_mac="06:00:00:00:00:02")
    server.console.wait_for("^SERVING")
    configure = CONFIGURE.replace(GUEST, "10.9.0.3")
    client = root_machine(f"{configure} && ping -c 2 {GUEST} && wget -q -O - http://{GUEST}/page", mib=192)
    start_with(client, "tap1", guest_mac="06:00:00:00:00:03")
    client.ends_with(POWERED_OFF)
    client.says("across the bridge")
    tell_guest(server)
    server.ends_with(POWERED_OFF)


READER = r"""
get() { wget -q -O - --header "X-metadata-token: $token" "http://169.254.169.254$1"; }
ip addr add 10.9.0.2/24 dev eth0
ip link set eth0 up
ip route add 169.254.169.254 dev eth0
get /latest/meta-data/ami-id || echo REFUSED
echo
token=$(printf 'PUT /latest/api/token HTTP/1.0\r\nX-metadata-token-ttl-seconds: 600\r\n\r\n' | nc 169.254.169.254 80 | tail -n 1)
echo "the id: $(get /latest/meta-data/ami-id)"
echo "the names:" $(get /latest/meta-data/)
get /latest/long | md5sum
wget -q -O - http://169.254.169.254:81/ || echo NO-SUCH-PORT
echo WAITING
read line
echo "now: $(get /latest/meta-data/ami-id)"
exit
"""


@pytest.mark.parametrize("version, refused", [("V1", 0), ("V2", 1)])
def test_reads_metadata(root_machine: RootMachine, tap: str, room: Path, version: str, refused: int) -> None:
    """The guest reads what the host has put, a long value among it, and what the host puts then; the TAP sees none of it."""
    script = room / "script"
    script.write_bytes(padded_script(READER))
    long = base64.b64encode(os.urandom(30_000))
    machine = root_machine("cp /dev/vdb /tmp/script; sh /tmp/script")
    machine.add_drive("script", script)
    machine.add_interface("eth0", tap)
    machine.api.put("/mmds/config", version=version, network_interfaces=["eth0"])
    machine.api.put("/mmds", latest={"long": long.decode(), "meta-data": {"ami-id": "first", "place": {"zone": 1}}})
    machine.start()
    machine.console.wait_for("^WAITING")
    machine.api.patch("/mmds", latest={"meta-data": {"ami-id": "second"}})
    tell_guest(machine)
    machine.ends_with(POWERED_OFF)
    frames = frames_received(tap)
    answers = ("the id: first", "the names: ami-id place/", hashlib.md5(long).hexdigest(), "NO-SUCH-PORT", "now: second")
    for answer in answers:
        machine.says(f"^{answer}")
    assert len(re.findall("^REFUSED", machine.console.text, re.MULTILINE)) == refused
    assert frames < 20  # the kernel's own, for IPv6
