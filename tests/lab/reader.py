"""A reader of README.md: the commands that it has, a shell that they are typed into, and a terminal that shows what they draw."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.console import PATIENCE, Console
from harness.guests import CHECKOUT
from harness.process import ended_within

# --- Commands --------------------------------------------------------------------------------------------------------

KNOWN: list[str] = []  # how the commands begin that cases run


def commands_of_readme() -> list[str]:
    """As they stand there: "line COMMAND" of a code block, continued lines joined; "row CELL" of the table of commands."""
    commands, in_block, in_table, whole = [], False, False, ""
    for line in (CHECKOUT / "README.md").read_text().splitlines():
        if line.startswith("```"):
            in_block = not in_block
        elif in_block and line.endswith("\\"):
            whole += line[:-1]
        elif in_block:
            whole += line
            if not re.match(r" *(#|$)", whole):
                commands.append(f"line {whole}")
            whole = ""
        elif line.startswith("| command |"):
            in_table = True
        elif not line.startswith("|"):
            in_table = False
        elif in_table and not line.startswith("| --- "):
            commands.append("row " + line.removeprefix("| ").partition(" |")[0])
    return commands


def command_of(beginning: str) -> str:
    """The one command that begins so."""
    found = [command for command in commands_of_readme() if command.startswith(beginning)]
    assert len(found) == 1, f"README.md has {len(found)} commands that begin so: {beginning}"
    return found[0].removeprefix("line ")


def covers(*beginnings: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a case that runs these commands, which it gets as `commands`. A case tells them by how they begin, so that it runs
    what stands in README.md."""
    KNOWN.extend(beginnings)
    return pytest.mark.covers(*beginnings)


# --- A shell ---------------------------------------------------------------------------------------------------------


@dataclass
class Typed:
    status: int
    process: int  # of the last command that went to the background
    output: Path

    @property
    def said(self) -> str:
        """By now: a command in the background goes on."""
        return self.output.read_text(errors="replace")


class Shell:
    """bash, whose functions and variables stay from one command to the next, as a reader's do."""

    def __init__(self, directory: Path, room: Path) -> None:
        self._room = room
        self._numbers = itertools.count(1)
        # A session of its own: what it leaves in the background can be ended with it.
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._console = Console(self._process.stdout, "the shell")

    def type(self, command: str) -> Typed:
        """Waits for its end, or for the shell to have it in the background."""
        number = next(self._numbers)
        output = self._room / f"typed-{number}"
        print(f"$ {command}")  # shown where the case fails
        assert self._process.stdin is not None
        self._process.stdin.write(
            f"{{\n{command}\n}} </dev/null >'{output}'\nprintf '::typed {number}:: %s %s\\n' \"$?\" \"${{!:-0}}\"\n".encode()
        )
        ended = self._console.wait_for(rf"^::typed {number}:: (\d+) (\d+)$")
        return Typed(int(ended[1]), int(ended[2]), output)

    def accept(self, request: str) -> None:
        """A request that the monitor answers without a word."""
        typed = self.type(request)
        assert (typed.status, typed.said) == (0, ""), f"status {typed.status}, and it answered: {typed.said}"

    def status_of(self, process: int) -> int:
        """Of a command in the background, once it has ended."""
        return self.type(f"wait {process}").status

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not ended_within(self._process, PATIENCE):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def run_on_terminal(command: str, keys: bytes, ready: str, ask: bytes = b"") -> tuple[int, str]:
    """A command on a terminal, whose guest gets keys once it says that it is ready. Its exit code, and what was shown."""
    process = subprocess.Popen(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    console = Console(process.stdout, "the guest on the terminal")
    try:
        process.stdin.write(ask)
        console.wait_for(ready)
        process.stdin.write(keys)
        assert ended_within(process, PATIENCE), "it did not end"
        console.wait_for_its_end()
    finally:
        process.kill()
        process.wait()
        print(console.text)
    return process.returncode, console.text


# --- A terminal that shows ---------------------------------------------------------------------------------------------


class Terminal:
    """A screen of tmux."""

    _numbers = itertools.count(1)

    def __init__(self, room: Path, width: int, height: int, command: str) -> None:
        """Each has a server of its own: one that is told to end takes its time."""
        number = next(self._numbers)
        self._socket = room / f"tmux-{number}"
        drawn = room / f"drawn-{number}"
        os.mkfifo(drawn)
        self._news = threading.Condition()
        self._changes = 0
        self._tmux("new-session", "-d", "-s", "t", "-x", str(width), "-y", str(height), f"read -r _; {command}")
        self._tmux("set-option", "-g", "status", "off")
        self._tmux("pipe-pane", "-t", "t", f"exec cat >'{drawn}'")
        threading.Thread(target=self._watch, args=(drawn,), daemon=True).start()
        self.press("Enter")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *words]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

    def _watch(self, drawn: Path) -> None:
        """Whatever is drawn is news."""
        with drawn.open("rb", buffering=0) as stream:
            while stream.read(1 << 16):
                with self._news:
                    self._changes += 1
                    self._news.notify_all()

    @property
    def screen(self) -> str:
        return self._tmux("capture-pane", "-p", "-t", "t")

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", "-t", "t", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-t", "t", "-x", str(width), "-y", str(height))

    def shows(self, pattern: str) -> None:
        """Waits until it does."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._news:
                seen = self._changes
            screen = self.screen
            if re.search(pattern, screen, re.MULTILINE):
                return
            with self._news:
                came = self._news.wait_for(lambda: self._changes > seen, deadline - time.monotonic())
            assert came, f"the screen does not say {pattern}:\n{screen}"

    @property
    def is_the_shells(self) -> bool:
        """Not the alternate screen, and with a cursor."""
        return self._tmux("display-message", "-p", "-t", "t", "#{alternate_on} #{cursor_flag}").strip() == "0 1"

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], stderr=subprocess.DEVNULL, check=False)
