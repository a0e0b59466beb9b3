"""A monitor, driven by its API as a host agent would, and its guest's console."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.api import Api
from harness.console import PATIENCE, Console
from harness.guests import Guest
from harness.jail import Jails, drop_all
from harness.process import ended_within, exit_code

POWERED_OFF = 10  # exit code of a monitor whose guest powered off
RESET = 0
LOOK_AGAIN = 0.005  # seconds between two looks for a socket

# The kernel arguments of every guest.
BASE_ARGUMENTS = "console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"


@dataclass
class Host:
    """Where the machines of one case are run."""

    mayfly: Path
    room: Path  # a directory for their files
    shown: Sequence[Path] = ()  # files from elsewhere that they are given
    jails: Jails | None = None  # as machines are run in production, where we may: root alone makes jails
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def user(self) -> int | None:
        return None if self.jails is None else self.jails.user

    def give_files(self) -> None:
        """What is in the room by now is the machines' to write."""
        if self.user is None:
            return
        os.chown(self.room, self.user, self.user)
        for directory, names, files in os.walk(self.room):
            for name in (*names, *files):
                with contextlib.suppress(FileNotFoundError):  # a monitor renames what it has written
                    os.chown(os.path.join(directory, name), self.user, self.user, follow_symlinks=False)

    def monitor(self, name: str) -> list[str]:
        """The command that becomes `mayfly` by the arguments that follow; in a jail, its name is known."""
        if self.jails is None:
            return [str(self.mayfly)]
        self.jails.make(name, [self.room, *self.shown])
        self.give_files()
        return self.jails.command(name, self.mayfly)


class Branching:
    """What has an API and may have children: a machine, or one of those."""

    api: Api
    _host: Host

    def branch(self, name: str, **more: Any) -> Child:
        """One that goes on from here; the monitor was started with --branches. `more` are fields of the child's."""
        room = self._host.room
        console = room / f"{name}.out"
        os.mkfifo(console)
        reader = os.fdopen(os.open(console, os.O_RDWR), "rb", buffering=0)  # open before there is a writer
        child = {"id": name, "api_socket": str(room / f"{name}.sock"), "serial_out_path": str(console), **more}
        frozen = [
            {"drive_id": each["drive_id"], "path_on_host": str(room / f"{name}.frozen-{each['drive_id']}")}
            for each in more.get("drive_overrides", [])
        ]
        answer = json.loads(self.api.request("PUT", "/vm/branch", {"children": [child], "frozen_drives": frozen}))
        return Child(self._host, name, answer["children"][0]["pid"], Console(reader, f"the guest of {name}"))


class Child(Branching):
    """A machine that was branched off: no process of ours."""

    log = ""  # its parent's

    def __init__(self, host: Host, name: str, pid: int, console: Console) -> None:
        self.name = name
        self._host = host
        self._pidfd = os.pidfd_open(pid)
        self.api = Api(host.room / f"{name}.sock", host.give_files)
        self.console = console

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class Machine(Branching):
    def __init__(self, host: Host, flags: Sequence[str], launcher: Sequence[str]) -> None:
        """`launcher` is a command that ends by executing the one that follows it."""
        self._host = host
        self.name = f"lab-{next(host.numbers)}"
        self.log_file = host.room / f"{self.name}.log"
        self.socket = host.room / f"{self.name}.sock"
        self.api = Api(self.socket, host.give_files)
        named = [] if host.jails else ["--id", self.name]
        command = [*launcher, *host.monitor(self.name), *named, "--api-sock", str(self.socket), *flags]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        self.console = Console(self.process.stdout, f"the guest of {self.name}")

    def wait_for_api(self) -> None:
        deadline = time.monotonic() + PATIENCE
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self.socket)) != 0:
                # The process's end is waited for meanwhile; that a socket listens is no event for others.
                assert not ended_within(self.process, LOOK_AGAIN), f"the monitor ended with {self.process.returncode}"
                assert time.monotonic() < deadline, "the monitor does not listen"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    # --- Before its start --------------------------------------------------------------------------------------------

    def configure(
        self, guest: Guest, vcpus: int = 1, mib: int = 128, run: str | None = None, arguments: str = "", **more: Any
    ) -> None:
        """`run` is a command of the guest's; `more` are fields of the machine's configuration."""
        self.api.put("/machine-config", vcpu_count=vcpus, mem_size_mib=mib, **more)
        command = "" if run is None else f'mayfly.run="{run}"'
        source = {"kernel_image_path": str(guest.kernel), "boot_args": f"{BASE_ARGUMENTS} {arguments} {command}".rstrip()}
        if guest.initrd is not None:
            source["initrd_path"] = str(guest.initrd)
        self.api.put("/boot-source", **source)

    def start(self) -> None:
        self.api.put("/actions", action_type="InstanceStart")

    def boot(self, guest: Guest, **configuration: Any) -> None:
        """Configures and starts it: see configure."""
        self.configure(guest, **configuration)
        self.start()

    def add_drive(self, name: str, path: Path, **more: Any) -> None:
        fields = {"drive_id": name, "path_on_host": str(path), "is_root_device": False, **more}
        self.api.put(f"/drives/{name}", **fields)

    def add_interface(self, name: str, tap: str, **more: Any) -> None:
        self.api.put(f"/network-interfaces/{name}", iface_id=name, host_dev_name=tap, **more)

    # --- While it runs -----------------------------------------------------------------------------------------------

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def says(self, pattern: str) -> None:
        """By now, without a wait."""
        assert self.console.find(pattern), f"the guest did not say: {pattern}"

    def wait_until_ready(self) -> None:
        self.console.wait_for("mayfly-init: ready")

    def pause(self) -> None:
        self.api.patch("/vm", state="Paused")

    def resume(self) -> None:
        self.api.patch("/vm", state="Resumed")

    # --- Snapshots ---------------------------------------------------------------------------------------------------

    def freeze(self, name: str, kind: str = "Full") -> None:
        """Pauses it, takes a snapshot, and kills it."""
        self.pause()
        room = self._host.room
        files = {"snapshot_path": str(room / f"{name}.state"), "mem_file_path": str(room / f"{name}.mem")}
        self.api.put("/snapshot/create", snapshot_type=kind, **files)
        self.kill()

    def take_live(self, name: str) -> None:
        """Takes a snapshot while it goes on; the monitor was started with --live-snapshots."""
        room = self._host.room
        files = {"snapshot_path": str(room / f"{name}.state"), "mem_file_path": str(room / f"{name}.mem")}
        self.api.put("/snapshot/create", live=True, **files)

    def thaw(self, name: str, **more: Any) -> None:
        """A fresh monitor goes on with a snapshot."""
        room = self._host.room
        memory = {"backend_type": "File", "backend_path": str(room / f"{name}.mem")}
        path = str(room / f"{name}.state")
        self.api.put("/snapshot/load", snapshot_path=path, mem_backend=memory, resume_vm=True, **more)

    # --- Its end -----------------------------------------------------------------------------------------------------

    def ends_with(self, code: int) -> None:
        ended = exit_code(self.process, "the monitor")
        self.console.wait_for_its_end()
        assert ended == code, f"the monitor's exit code is {ended}, not {code}"

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


class Machines:
    """Starts the machines of one case: `machines.start()` is one, and the next call is another."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.all: list[Machine | Child] = []

    def start(self, *flags: str, launcher: Sequence[str] = ()) -> Machine:
        machine = Machine(self.host, flags, launcher)
        self.all.append(machine)
        machine.wait_for_api()
        return machine

    def thaw(self, name: str, launcher: Sequence[str] = (), **more: Any) -> Machine:
        machine = self.start(launcher=launcher)
        machine.thaw(name, **more)
        return machine

    def end(self) -> None:
        for machine in self.all:
            machine.kill()
        drop_all()
