"""What guests boot: kernels, and images that rootfs-tools makes, on the outside of the lab."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.artifacts import artifact

CHECKOUT = Path(__file__).parents[3]
TOOLS = CHECKOUT / "rootfs-tools"
# Where an ordinary user's PATH does not look.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def tool(name: str, *arguments: str | Path) -> Path:
    """Runs a program of rootfs-tools, whose output is a path, or nothing."""
    output = subprocess.run([TOOLS / name, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(output.strip())


def with_libraries(*programs: str) -> list[str]:
    """Programs of this machine and the libraries that they are linked to, as options of build-initrd and build-rootfs."""
    files: dict[str, str] = {}  # by their paths in the guest
    for program in programs:
        found = shutil.which(program, path=PATH)
        if found is None:
            raise FileNotFoundError(f"there is no program {program}; .ci/install-packages lab installs it")
        files[f"/usr/bin/{program}"] = os.path.realpath(found)
        # A static program has none, and ldd fails.
        linked = subprocess.run(["ldd", found], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        for library in re.findall(r"(/\S+) \(0x", linked.stdout):
            files[library] = library
    return [word for inside, outside in files.items() for word in ("--add", f"{outside}:{inside}")]


def build_initrd(output: Path, *options: str | Path) -> Path:
    tool("build-initrd", "--output", output, *options)
    return output


def build_rootfs(output: Path, *options: str | Path) -> Path:
    tool("build-rootfs", "--output", output, *options)
    return output


# --- Kernels ---------------------------------------------------------------------------------------------------------


@artifact
def tuned(_: Path) -> Path:
    """The tuned kernel."""
    return tool("build-kernel", "--print-path")


@artifact
def plain(_: Path) -> Path:
    """The tuned kernel without ACPI."""
    return tool("build-kernel", "--without-acpi", "--print-path")


@artifact
def stock(_: Path) -> Path:
    """Debian's unmodified cloud kernel."""
    return tool("fetch-stock-kernel")


# --- Initramfs -------------------------------------------------------------------------------------------------------


@artifact
def initrd(directory: Path) -> Path:
    return build_initrd(directory / "initrd")


@artifact
def stock_initrd(directory: Path) -> Path:
    """With all modules of the stock kernel that a test wants."""
    modules = tool("fetch-stock-kernel", "--modules")
    wanted = ("virtio_mmio", "virtio_blk", "virtio_net", "pvpanic-mmio")
    return build_initrd(directory / "stock-initrd", "--modules", modules, *wanted)


# --- A kernel and what it starts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guest:
    kernel: Path
    initrd: Path | None = None


@pytest.fixture
def tuned_guest(tuned: Path, initrd: Path) -> Guest:
    return Guest(tuned, initrd)


@pytest.fixture
def stock_guest(stock: Path, stock_initrd: Path) -> Guest:
    return Guest(stock, stock_initrd)


@pytest.fixture
def guest(request: pytest.FixtureRequest, tuned_guest: Guest, stock_guest: Guest, plain: Path) -> Guest:
    """By the kernel's name, which is the parameter: tuned, plain or stock."""
    guests = {"tuned": tuned_guest, "stock": stock_guest, "plain": Guest(plain, tuned_guest.initrd)}
    return guests[request.param]


# --- Guests on a root file system ------------------------------------------------------------------------------------


@artifact
def root_image(directory: Path) -> Path:
    """With the programs that tests of devices want."""
    programs = with_libraries("fio", "iperf3", "ethtool", "mkfs.ext4", "e2fsck")
    return build_rootfs(directory / "root", "--size", "256M", *programs)


SCRIPT_BYTES = 4096


def padded_script(text: str) -> bytes:
    """A script as a drive, which has whole sectors: filled up with empty lines, before which the script is to exit."""
    assert len(text) <= SCRIPT_BYTES
    return text.encode().ljust(SCRIPT_BYTES, b"\n")
