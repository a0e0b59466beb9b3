#!/usr/bin/python3
"""Boots and restores Linux guests in a lab whose CPU is of some model; test_fleet.py runs it there.

    on_a_model.py MAYFLY COMMAND [-- COMMAND]...

    boot KERNEL INITRD NAME[=CPU_CONFIG]...   leaves each snapshot NAME in $LAB_SHARE
    restore NAME...                           goes on with each

Prints a JSON list: of each command a document, by name: of a boot the flags of CPUs that the guest has, of a restore what the
guest said next; of what was refused the sentence and the machine's state.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness.api import Refused
from harness.guests import Guest
from harness.machine import RESET, Host, Machine, Machines

SHARE = Path(os.environ["LAB_SHARE"])
# The guest ends by a reset: see ENDS_BY_RESET in test_snapshots.py. Its programs choose code by the flags that they see.
STEPS = (
    "grep -m1 ^flags /proc/cpuinfo",
    "echo WAITING",
    "read line",
    "echo FLAGS",
    "grep -m1 ^flags /proc/cpuinfo",
    "echo DIGEST",
    "head -c 3000000 /dev/zero | sha256sum",
    "echo SUM",
    "seq 1 2000 | awk '{ s += $1 * 1.5 } END { print s }'",
)


def copy(name: str, source: Path, target: Path) -> None:
    """A snapshot's files. The share is no file system to run a machine on."""
    for kind in ("state", "mem"):
        subprocess.run(["cp", "--sparse=always", source / f"{name}.{kind}", target], check=True)


def refusal(machine: Machine, refused: Refused) -> dict[str, Any]:
    return {"refused": json.loads(refused.text)["fault_message"], "state": machine.api.get("/")["state"]}


def boot(machines: Machines, guest: Guest, name: str, cpu_config: str) -> dict[str, Any]:
    machine = machines.start()
    if cpu_config:
        machine.api.put("/cpu-config", **json.loads(Path(cpu_config).read_text()))
    machine.configure(guest, run="; ".join(STEPS), arguments="mayfly.end=reboot", mib=96)
    try:
        machine.start()
    except Refused as refused:
        return refusal(machine, refused)
    machine.console.wait_for("^WAITING")
    flags = machine.console.wait_for(r"flags\s*:(.*)")[1].split()
    machine.freeze(name)
    copy(name, machines.host.room, SHARE)
    return {"flags": flags}


def restore(machines: Machines, name: str) -> dict[str, Any]:
    copy(name, SHARE, machines.host.room)
    machine = machines.start()
    try:
        machine.thaw(name)
    except Refused as refused:
        return refusal(machine, refused)
    machine.type("go on")
    machine.ends_with(RESET)
    said = machine.console
    return {
        "flags": said.wait_for(r"^FLAGS\nflags\s*:(.*)")[1].split(),
        "digest": said.after("^DIGEST").split()[0],
        "sum": said.after("^SUM"),
    }


def run(machines: Machines, verb: str, *words: str) -> dict[str, Any]:
    if verb == "restore":
        return {name: restore(machines, name) for name in words}
    kernel, initrd, *named = words
    guest = Guest(Path(kernel), Path(initrd))
    pairs = [word.partition("=") for word in named]
    return {name: boot(machines, guest, name, config) for name, _, config in pairs}


def main() -> None:
    mayfly, *words = sys.argv[1:]
    commands = [list(group) for is_end, group in itertools.groupby(words, lambda word: word == "--") if not is_end]
    room = Path(tempfile.mkdtemp(prefix="mayfly-"))
    machines = Machines(Host(Path(mayfly), room))
    try:
        print(json.dumps([run(machines, *command) for command in commands]))
    finally:
        machines.end()
        shutil.rmtree(room)


if __name__ == "__main__":
    main()
