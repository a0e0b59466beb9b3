#!/usr/bin/python3
"""The steps of Firecracker's getting-started page, by curl, with another binary and another guest.

    getting_started.py MONITOR KERNEL ROOTFS DIRECTORY

The TAP tap0 is there. Says "call NAME passed" for each request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 60  # seconds


def wait_for_socket(api: Path, monitor: subprocess.Popen[bytes]) -> None:
    """As users of curl do: they look again."""
    deadline = time.monotonic() + PATIENCE
    while not api.is_socket() and time.monotonic() < deadline:
        try:
            monitor.wait(timeout=0.02)
            return  # the first request says that nobody is there
        except subprocess.TimeoutExpired:
            pass


def curl(api: Path, path: str, body: dict[str, object], *options: str) -> int:
    command = ["curl", *options, "-X", "PUT", "--unix-socket", str(api), "--data", json.dumps(body), f"http://localhost{path}"]
    return subprocess.run(command, check=False).returncode


def put(api: Path, path: str, body: dict[str, object]) -> None:
    """As the page has it."""
    if status := curl(api, path, body, "-fsS"):
        sys.exit(status)
    print(f"call PUT {path} passed", flush=True)


def press_ctrl_alt_del(api: Path, monitor: subprocess.Popen[bytes]) -> None:
    """The guest listens to its keyboard once it has set that up."""
    while curl(api, "/actions", {"action_type": "SendCtrlAltDel"}, "-fs"):
        if monitor.poll() is not None:
            sys.exit("the monitor has ended before its guest listened")
    print("call PUT /actions passed", flush=True)


def follow_the_page(api: Path, monitor: subprocess.Popen[bytes], kernel: str, rootfs: str) -> int:
    wait_for_socket(api, monitor)
    Path("firecracker.log").touch()
    put(api, "/logger", {"log_path": "./firecracker.log", "level": "Debug", "show_level": True, "show_log_origin": True})
    put(api, "/boot-source", {"kernel_image_path": kernel, "boot_args": "console=ttyS0 reboot=k panic=1"})
    put(api, "/drives/rootfs", {"drive_id": "rootfs", "path_on_host": rootfs, "is_root_device": True, "is_read_only": False})
    put(api, "/network-interfaces/net1", {"iface_id": "net1", "guest_mac": "06:00:AC:10:00:02", "host_dev_name": "tap0"})
    put(api, "/actions", {"action_type": "InstanceStart"})
    press_ctrl_alt_del(api, monitor)
    return monitor.wait()


def main() -> int:
    binary, kernel, rootfs, directory = sys.argv[1:]
    os.chdir(directory)
    api = Path.cwd() / "firecracker.socket"
    api.unlink(missing_ok=True)
    with Path("console").open("wb") as console:
        monitor = subprocess.Popen([binary, "--api-sock", str(api)], stdin=subprocess.DEVNULL, stdout=console)
    try:
        status = follow_the_page(api, monitor, kernel, rootfs)
    finally:
        monitor.terminate()
        monitor.wait()
    if status == 0 and b"listening" not in Path("console").read_bytes():
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
