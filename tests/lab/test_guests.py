"""Systems that nobody changed for Mayfly, each by one row of a table: what it does here, and what it does not.

Linux of Debian's packages boots once, reads its drive, pings the host, and waits; a snapshot is taken, and the clone goes on to
its end. Those that take long run with --all-guests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.artifacts import artifact
from harness.cache import cache_root
from harness.guests import CHECKOUT, Guest, build_initrd, tool
from harness.machine import POWERED_OFF, RESET, Machines
from harness.tables import Row

pytestmark = pytest.mark.lab

UNIKERNEL = Path(__file__).parent / "unikernel"
NOT_BUILT = "unikernel-not-built"
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "pvpanic-mmio")
WORDS = b"read from the drive\n"
BEGIN = "echo kernel $(uname -r)"
DRIVE = "head -n 1 /dev/vda"
NETWORK = "ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up && ping -c 1 10.9.0.1 && echo PONG"
WAIT = "echo WAITING; read line"
AGAIN = "head -n 1 /dev/vda >/dev/null && ping -c 1 10.9.0.1 >/dev/null && echo WENT ON"
WITH_DEVICES = (BEGIN, DRIVE, NETWORK, WAIT, AGAIN)
WITHOUT = (BEGIN, WAIT, "test ! -e /dev/vda && echo WENT ON")
# Debian builds no VIRTIO_MMIO_CMDLINE_DEVICES: its kernels find devices by ACPI alone.
NOT_FOUND = "found by ACPI alone"


@dataclass(frozen=True)
class Stock:
    """A kernel of Debian's."""

    name: str
    options: tuple[str, ...] = ()
    acpi: bool = True
    finds_devices: bool = True
    in_software: str = ""  # arguments for the software lab
    seldom: bool = False

    @property
    def arguments(self) -> str:
        more = self.in_software if os.environ["MAYFLY_LAB"] == "software" else ""
        return f"{more} {'' if self.acpi else 'acpi=off mayfly.end=reboot'}".strip()

    @property
    def ends(self) -> int:
        return POWERED_OFF if self.acpi else RESET

    def guest(self, directory: Path) -> Guest:
        name = self.name.replace(" ", "-").replace(",", "")
        return Guest(directory / name, directory / f"{name}.initrd")


STOCKS = (
    Stock("debian 12 cloud", ("--release", "bookworm")),
    Stock("debian 12 cloud, acpi=off", ("--release", "bookworm"), acpi=False, finds_devices=False),
    Stock("debian 13 cloud", ("--release", "trixie")),
    # Linux 7.3 finds XSAVE areas of another size than it computes, in the software lab, and panics; in QEMU's guests there, too.
    Stock("debian 13 backports cloud", ("--release", "trixie-backports"), in_software="noxsave"),
    Stock("debian 12 full", ("--release", "bookworm", "--flavour", "generic"), seldom=True),
    Stock("debian 13 full", ("--release", "trixie", "--flavour", "generic"), seldom=True),
    Stock("debian 13 full, acpi=off", ("--release", "trixie", "--flavour", "generic"), acpi=False, finds_devices=False, seldom=True),
)


def fill(directory: Path, seldom: bool) -> Path:
    """With kernels, as they are, and their initial RAM disks: what a jail shows is in one place."""
    directory.mkdir()
    for stock in STOCKS:
        if stock.seldom != seldom:
            continue
        guest = stock.guest(directory)
        shutil.copyfile(tool("fetch-stock-kernel", *stock.options), guest.kernel)
        modules = tool("fetch-stock-kernel", *stock.options, "--modules")
        assert guest.initrd is not None
        build_initrd(guest.initrd, "--modules", modules, *MODULES)
    return directory


@artifact
def stock_kernels(directory: Path) -> Path:
    return fill(directory / "stock-kernels", seldom=False)


@artifact
def seldom_kernels(directory: Path) -> Path:
    return fill(directory / "seldom-kernels", seldom=True)


@artifact
def memtest(_: Path) -> Path:
    return tool("fetch-stock-kernel", "--package", "memtest86+", "boot/memtest86+x64.bin")


@artifact
def unikernel(directory: Path) -> Path:
    """Built for Linux's target, whose `core` every toolchain has, and linked without its libraries."""
    subprocess.run([CHECKOUT / ".ci/install-packages", "clients"], check=True)
    target = cache_root() / "unikernel"
    target.mkdir(parents=True, exist_ok=True)
    link = "link-args=-nostartfiles -nostdlib -static -no-pie -Wl,--build-id=none"
    options = ["--quiet", "--release", "--locked", "--manifest-path", UNIKERNEL / "Cargo.toml", "--target-dir", target]
    built = subprocess.run(["cargo", "rustc", *options, "--", "-C", "relocation-model=static", "-C", link], check=False)
    if built.returncode != 0:
        (directory / NOT_BUILT).touch()
        return directory / NOT_BUILT
    shutil.copyfile(target / "release/unikernel", directory / "unikernel")
    return directory / "unikernel"


def show_life(row: Row, machines: Machines, room: Path, tap: str, guest: Guest, stock: Stock) -> None:
    image = room / "drive"
    image.write_bytes(WORDS.ljust(512 * 8, b"\n"))
    first = machines.start()
    first.add_drive("data", image, is_read_only=True)
    first.add_interface("net", tap)
    first.boot(guest, mib=256, run="; ".join(WITH_DEVICES if stock.finds_devices else WITHOUT), arguments=stock.arguments)
    said = first.console.wait_for(r"^kernel (\S+)\n")
    row.put("version", said[1])
    row.put("boots", "yes")
    row.put("console", "yes")
    if stock.finds_devices:
        first.console.wait_for(WORDS.decode().strip())
        row.put("drive", "yes")
        first.console.wait_for("^PONG")
        row.put("network", "yes")
    else:
        row.put("drive", NOT_FOUND)
        row.put("network", NOT_FOUND)
    first.console.wait_for("^WAITING")
    first.pause()
    first.api.put("/snapshot/create", snapshot_path=str(room / "one.state"), mem_file_path=str(room / "one.mem"))
    first.resume()
    first.type("go on")
    first.console.wait_for("^WENT ON")
    # Not the clone's: init powers off by a port, and the software lab's CPU refuses ports to processes of a restored guest,
    # as it takes a TSS that is marked busy for none (target/i386/tcg/seg_helper.c, check_iob; real ones are busy).
    first.ends_with(stock.ends)
    row.put("power off", "yes" if stock.ends == POWERED_OFF else "no ACPI: resets")
    clone = machines.thaw("one")
    clone.type("go on")
    clone.console.wait_for("^WENT ON")
    row.put("snapshot, clone", "yes")


def stocks(seldom: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return pytest.mark.parametrize("system", [pytest.param(each, id=each.name) for each in STOCKS if each.seldom == seldom])


@stocks(seldom=False)
def test_stock_kernel(
    request: pytest.FixtureRequest, machines: Machines, room: Path, tap: str, stock_kernels: Path, system: Stock
) -> None:
    show_life(Row(request.node, "guests of others", "guest", system.name), machines, room, tap, system.guest(stock_kernels), system)


def test_without_acpi(
    request: pytest.FixtureRequest, machines: Machines, room: Path, tap: str, plain: Path, initrd: Path
) -> None:
    """A kernel that was built without it: the tuned one's other variant."""
    row = Row(request.node, "guests of others", "guest", "tuned, without ACPI")
    show_life(row, machines, room, tap, Guest(plain, initrd), Stock("tuned, without ACPI", acpi=False))


@pytest.mark.seldom
@stocks(seldom=True)
def test_seldom_kernel(
    request: pytest.FixtureRequest, machines: Machines, room: Path, tap: str, seldom_kernels: Path, system: Stock
) -> None:
    show_life(Row(request.node, "guests of others", "guest", system.name), machines, room, tap, system.guest(seldom_kernels), system)


def test_unikernel(request: pytest.FixtureRequest, machines: Machines, room: Path, tap: str, unikernel: Path) -> None:
    """Of crates.io: drivers that others wrote, by the 64-bit Linux protocol, without ACPI."""
    if unikernel.name == NOT_BUILT:
        pytest.skip("the unikernel cannot be built: crates.io cannot be reached, or cargo is older than 1.85")
    row = Row(request.node, "guests of others", "guest", "unikernel of crates")
    image = room / "drive"
    image.write_bytes(WORDS.ljust(512 * 8, b"\n"))
    first = machines.start()
    first.add_drive("data", image, is_read_only=True)
    first.add_interface("net", tap)
    first.boot(Guest(unikernel), mib=64)
    row.put("version", first.console.wait_for(r"^unikernel of (.*)\n")[1])
    row.put("boots", "yes")
    row.put("console", "yes")
    first.console.wait_for("^drive: read from the drive")
    row.put("drive", "yes")
    first.console.wait_for("^network: 10.9.0.1 has answered")
    row.put("network", "yes")
    first.console.wait_for("^WAITING")
    first.freeze("one")
    clone = machines.thaw("one")
    clone.type("go on")
    clone.console.wait_for("^WENT ON")
    row.put("snapshot, clone", "yes")
    clone.ends_with(RESET)
    row.put("power off", "resets, by i8042")


def test_memtest(request: pytest.FixtureRequest, machines: Machines, memtest: Path) -> None:
    """By the Linux protocol; it has neither drivers nor a way to power off, and resets at Escape."""
    row = Row(request.node, "guests of others", "guest", "memtest86+")
    first = machines.start()
    first.api.put("/machine-config", vcpu_count=1, mem_size_mib=16)
    first.api.put("/boot-source", kernel_image_path=str(memtest), boot_args="console=ttyS0,115200 nosmp")
    first.start()
    row.put("version", first.console.wait_for(r"Memtest86\+ v([\d.]+) ")[1])
    row.put("boots", "yes")
    row.put("console", "yes")
    row.put("drive", "has no driver")
    row.put("network", "has no driver")
    # It shows every two seconds what it is at, so no test is sure to be seen.
    first.console.wait_for(r"Time:  0:00:0[1-9]")
    first.freeze("one")
    clone = machines.thaw("one")
    errors = clone.console.wait_for(r"Status: Testing.*Errors: (\d+)\D")
    assert errors[1] == "0", "memory is not what it was"
    row.put("snapshot, clone", "yes")
    assert clone.process.stdin is not None
    clone.process.stdin.write(b"\x1b")
    clone.ends_with(RESET)
    row.put("power off", "resets, by Escape")
