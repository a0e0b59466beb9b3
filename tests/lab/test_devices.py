"""Drives of real Linux guests, in the lab."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.guests import Guest
from harness.machine import POWERED_OFF, Machine, Machines

pytestmark = pytest.mark.lab

Mount = Callable[..., Path]
RootMachine = Callable[..., Machine]


def empty_file(path: Path, mib: int) -> Path:
    path.touch()
    os.truncate(path, mib << 20)
    return path


def is_sound(image: Path) -> None:
    """A file system without an error."""
    checked = subprocess.run(
        ["e2fsck", "-fn", str(image)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("vcpus", [1, 4])
def test_root_on_a_drive(root_machine: RootMachine, room: Path, vcpus: int) -> None:
    run = "mount | head -n 1; echo written > /root/proof; sync; df / | tail -n 1"
    machine = root_machine(run, vcpus=vcpus)
    machine.start()
    machine.ends_with(POWERED_OFF)
    machine.says("on / type ext4")
    is_sound(room / "root")
    proof = subprocess.run(
        ["debugfs", "-R", "cat /root/proof", str(room / "root")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    assert proof.stdout == b"written\n"


def test_stock_kernel_finds_its_drive(machines: Machines, stock_guest: Guest, room: Path) -> None:
    data = empty_file(room / "data", 8)
    with data.open("r+b") as image:
        image.write(b"the drive of a stock kernel")
    machine = machines.start()
    machine.add_drive("data", data)
    machine.boot(stock_guest, mib=256, run="head -c 27 /dev/vda")
    machine.ends_with(POWERED_OFF)
    machine.says("the drive of a stock kernel")


@pytest.mark.parametrize(
    "options", [{"cache_type": "Unsafe"}, {"cache_type": "Writeback", "direct": True}], ids=["unsafe", "direct"]
)
def test_verified_by_fio(root_machine: RootMachine, room: Path, mount: Mount, options: dict[str, object]) -> None:
    # A file system that knows O_DIRECT, as the lab's own may not.
    image = empty_file(room / "ext4.img", 128)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    data = empty_file(mount("-o", "loop", image, at="ext4") / "data", 48)
    job = (
        "fio --name=v --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-64k"
        " --size=40M --io_size=24M --verify=crc32c --verify_fatal=1 --randrepeat=1 --output-format=terse"
    )
    machine = root_machine(f"{job} && echo verified", vcpus=2)
    machine.add_drive("data", data, **options)
    machine.start()
    machine.ends_with(POWERED_OFF)
    machine.says("^verified")


def test_a_drive_in_layers(root_machine: RootMachine, room: Path, mayfly: Path) -> None:
    """Verified, and with a file system, over a base that stays as it was."""
    base, overlay, image = (room / name for name in ("base", "overlay", "image"))
    whole = os.urandom(1 << 20) * 48
    base.write_bytes(whole)
    job = (
        "fio --name=v --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-64k"
        " --size=40M --io_size=16M --verify=crc32c --verify_fatal=1 --randrepeat=1 --output-format=terse"
    )
    use = "mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && cp -r /bin /mnt && umount /mnt"
    machine = root_machine(f"{job} && {use} && e2fsck -fn /dev/vdb && echo clean", vcpus=2)
    machine.add_drive("data", overlay, base_path=str(base), cache_type="Writeback", discard="Unmap")
    machine.start()
    machine.ends_with(POWERED_OFF)
    machine.says("^clean")
    assert base.read_bytes() == whole
    files = ["--base", str(base), "--overlay", str(overlay), "--output", str(image)]
    subprocess.run([mayfly, "drive", "export", *files], check=True)
    is_sound(image)


def test_the_image_is_bit_for_bit_the_guests(root_machine: RootMachine, room: Path) -> None:
    data = empty_file(room / "data", 16)
    machine = root_machine("dd if=/dev/urandom of=/dev/vdb bs=64k count=200 && sync && sha256sum /dev/vdb")
    machine.add_drive("data", data, cache_type="Writeback")
    machine.start()
    machine.ends_with(POWERED_OFF)
    machine.says(hashlib.sha256(data.read_bytes()).hexdigest())


def test_a_file_system_made_by_the_guest(root_machine: RootMachine, room: Path) -> None:
    data = empty_file(room / "data", 32)
    use = "mount /dev/vdb /mnt && cp -r /bin /mnt && umount /mnt"
    machine = root_machine(f"mkfs.ext4 -q /dev/vdb && {use} && e2fsck -fn /dev/vdb && echo clean")
    machine.add_drive("data", data)
    machine.start()
    machine.ends_with(POWERED_OFF)
    machine.says("^clean")
    is_sound(data)


def test_swapped_while_running(root_machine: RootMachine, room: Path) -> None:
    data, larger = empty_file(room / "data", 8), empty_file(room / "larger", 24)
    size = "cat /sys/block/vdb/size"
    waits = f"while [ $({size}) = 16384 ]; do sleep 1; done"
    machine = root_machine(f"sh -c '{size}; echo SWAP; {waits}; {size}; dd if=/dev/vdb of=/dev/null bs=1M && echo read'")
    machine.add_drive("data", data)
    machine.start()
    machine.console.wait_for("^SWAP")
    machine.api.patch("/drives/data", drive_id="data", path_on_host=str(larger))
    machine.ends_with(POWERED_OFF)
    machine.says("^49152")
    machine.says("^read")


def test_a_full_disk_is_an_io_error(root_machine: RootMachine, mount: Mount) -> None:
    data = empty_file(mount("-t", "tmpfs", "-o", "size=4m", "none", at="small") / "data", 64)
    machine = root_machine("dd if=/dev/zero of=/dev/vdb bs=1M oflag=direct count=16; echo status $?; echo still here")
    machine.add_drive("data", data)
    machine.start()
    machine.ends_with(POWERED_OFF)
    machine.says("still here")
    machine.says("status 1")
