#!/usr/bin/python3
"""Calls of the package firecracker-python: its `Api`, one request after the other.

    calls.py MONITOR KERNEL DIRECTORY

The package is in PYTHONPATH. The guest is a bare-metal one that listens to its keyboard. Says "call NAME passed|refused" for
each call. Its `MicroVM` is not used: it wants its monitor at one path of the host, and makes networks by nftables and images
by Docker.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from firecracker.api import Api
from firecracker.exceptions import APIError


def passed(name: str, answer: Any) -> Any:
    print(f"call {name} passed")
    return answer


def refused(name: str, call: Callable[[], Any]) -> None:
    """What Mayfly does not have, and says so."""
    try:
        call()
    except APIError as error:
        assert "Mayfly has no" in str(error), error
        print(f"call {name} refused")
    else:
        raise AssertionError(f"{name} is to be refused")


def start(monitor: str, directory: str, name: str) -> "tuple[subprocess.Popen[bytes], Api]":
    path = os.path.join(directory, f"{name}.socket")
    process = subprocess.Popen([monitor, "--api-sock", path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not os.path.exists(path):
        assert process.poll() is None, "the monitor has ended"
        os.sched_yield()
    return process, Api(path)


def main() -> None:
    monitor, kernel, directory = sys.argv[1:]
    files = {name: os.path.join(directory, name) for name in ("image", "state", "memory")}
    with open(files["image"], "wb") as image:
        image.truncate(1 << 20)
    process, api = start(monitor, directory, "first")
    assert passed("version.get", api.version.get()).json()["firecracker_version"].startswith("1.")
    passed("logger.put", api.logger.put(log_path=os.path.join(directory, "log"), level="Debug", show_level=True))
    passed("machine_config.put", api.machine_config.put(vcpu_count=1, mem_size_mib=64))
    passed("machine_config.patch", api.machine_config.patch(mem_size_mib=32))
    assert passed("machine_config.get", api.machine_config.get()).json()["mem_size_mib"] == 32
    passed("boot.put", api.boot.put(kernel_image_path=kernel, boot_args="console=ttyS0"))
    drive = {"drive_id": "data", "path_on_host": files["image"], "is_root_device": False, "is_read_only": True}
    passed("drive.put", api.drive.put(**drive))
    passed("mmds.put", api.mmds.put(name="first"))
    passed("mmds.patch", api.mmds.patch(more=1))
    assert passed("mmds.get", api.mmds.get()).json() == {"name": "first", "more": 1}
    refused("vsock.put", lambda: api.vsock.put(guest_cid=3, uds_path="/run/no"))
    passed("actions.put", api.actions.put(action_type="InstanceStart"))
    assert passed("describe.get", api.describe.get()).json()["state"] == "Running"
    passed("drive.patch", api.drive.patch(drive_id="data", path_on_host=files["image"]))
    passed("vm.patch", api.vm.patch(state="Paused"))
    passed("create_snapshot.put", api.create_snapshot.put(snapshot_path=files["state"], mem_file_path=files["memory"]))
    passed("vm.patch", api.vm.patch(state="Resumed"))
    assert passed("vm_config.get", api.vm_config.get()).json()["drives"][0]["drive_id"] == "data"
    process.terminate()
    process.wait()

    process, api = start(monitor, directory, "clone")
    backend = {"backend_type": "File", "backend_path": files["memory"]}
    passed("load_snapshot.put", api.load_snapshot.put(snapshot_path=files["state"], mem_backend=backend, resume_vm=True))
    while True:  # the guest listens to its keyboard once it has set that up
        try:
            passed("actions.put", api.actions.put(action_type="SendCtrlAltDel"))
            break
        except APIError as error:
            assert "keyboard" in str(error), error
    assert process.wait() == 0


main()
