"""From an image to clones that serve: mayfly-template build, mayfly up, exec, cp, logs and down, in the lab."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from agent_peer import fetch
from functions import HELLO, PORT

from harness.artifacts import artifact
from harness.console import PATIENCE
from harness.process import until
from harness.templates import SharedTemplate, function_image, template_at_port

pytestmark = pytest.mark.lab

BUILT = ["base", "layer", "memory", "run.json", "state", "template.json", "working-set"]


@artifact
def failing_images(directory: Path) -> Path:
    """Layouts of two images that never serve at the port that they expose."""
    place = directory / "failing-images"
    function_image(place / "exits", Entrypoint=["/bin/sh", "-c", "echo I cannot serve; exit 3"], ExposedPorts={"80/tcp": {}})
    function_image(place / "sleeps", Entrypoint=["/bin/sleep", "100000"], ExposedPorts={"9/tcp": {}})
    return place


@dataclass
class Tools:
    build: Path
    room: Path
    kernel: Path

    def run(self, program: str, *words: str | Path, status: int = 0, typed: str = "") -> subprocess.CompletedProcess[str]:
        """What it says; `status` is what it must end with."""
        command = [str(self.build / program), *map(str, words)]
        done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == status, f"{command}: status {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def mayfly(self, *words: str | Path, status: int = 0, typed: str = "") -> str:
        done = self.run("mayfly", *words, status=status, typed=typed)
        return done.stdout if status == 0 else done.stderr

    def template(self, image: Path, output: Path, *words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run(
            "mayfly-template", "build", "--image", image, "--output", output, "--kernel", self.kernel,
            "--disk", "64M", *words, status=status,
        )  # fmt: skip

    @property
    def jails(self) -> Path:
        return self.room / "jails"


@pytest.fixture
def tools(build: Path, room: Path, tuned: Path) -> Iterator[Tools]:
    room.chmod(0o755)
    made = Tools(build, room, tuned)
    made.jails.mkdir()
    yield made
    # Of this batch: on hardware the lab is this host, where other tests have machines, too.
    ours = ["--ns", str(os.getpid()), "--nslist", "net"]
    left = subprocess.run(["pgrep", "-x", "mayfly", *ours], capture_output=True, text=True, check=False).stdout.split()
    for process in left:
        os.kill(int(process), 9)
    assert left == [], "machines were left"


def test_an_image_becomes_clones_that_serve(tools: Tools, shared_template: SharedTemplate, failing_images: Path) -> None:
    template = shared_template("function")
    said = template.with_name("function.said").read_text()
    assert re.search(r"serving at port 8080; start clones of it by mayfly up (\S+/)?function\n$", said), said
    assert sorted(file.name for file in template.iterdir()) == BUILT
    before = {name: (template / name).read_bytes() for name in ("base", "state", "layer")}

    get = ["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]
    metadata = tools.room / "metadata.json"
    metadata.write_text('{"mayfly": {"hostname": "vm-7", "address": "10.9.8.7/24"}}')
    plain = tools.mayfly("up", template, "--no-jail", "--id", "plain", "--metadata", metadata).strip()
    jailed = tools.mayfly("up", template, "--jail-base", tools.jails).strip()
    assert plain == "plain"
    assert jailed.startswith("function-")
    for clone in (plain, jailed):
        assert tools.mayfly("exec", clone, "--", *get) == HELLO.decode()
        assert tools.mayfly("exec", clone, "--", "id", "-un") == "web\n"
        tools.mayfly("exec", clone, "--", "sh", "-c", f"echo {clone} > /data/own")
        # Each has a file system of its own.
        assert tools.mayfly("exec", clone, "--", "ls", "/data") == "own\n"
        assert tools.mayfly("exec", clone, "--", "cat", "/data/own") == f"{clone}\n"
        assert "response:200" in tools.mayfly("logs", clone, "--jail-base", tools.jails)
    assert tools.mayfly("exec", plain, "--", "hostname") == "vm-7\n", "by its own metadata"
    hosts = "127.0.0.1 localhost\n::1 localhost\n"
    assert tools.mayfly("exec", plain, "--", "cat", "/etc/hosts") == f"{hosts}127.0.1.1 vm-7\n"
    assert tools.mayfly("exec", jailed, "--", "cat", "/etc/hosts") == f"{hosts}127.0.1.1 mayfly\n"
    assert "10.9.8.7/24" in tools.mayfly("exec", plain, "--", "ip", "addr")
    assert tools.mayfly("exec", jailed, "--", "hostname") == "mayfly\n"
    shown = tools.mayfly("ps")
    assert plain in shown and jailed in shown
    uids = {line.split()[0]: int(line.split()[2]) for line in shown.splitlines()[1:]}
    assert uids[plain] == os.geteuid() and uids[jailed] >= 0x40000000

    tools.run("mayfly", "exec", jailed, "--", "sh", "-c", "exit 7", status=7)
    assert tools.run("mayfly", "exec", "-i", jailed, "--", "cat", typed="to its end").stdout == "to its end"
    tools.mayfly("exec", jailed, "--", "true")
    sent = tools.room / "sent"
    sent.mkdir()
    (sent / "file").write_bytes(os.urandom(300_000))
    tools.mayfly("cp", sent, f"{jailed}:/data/tree")
    tools.mayfly("cp", f"{jailed}:/data/tree", tools.room / "back")
    assert (tools.room / "back/file").read_bytes() == (sent / "file").read_bytes()

    tools.mayfly("down", plain)
    tools.mayfly("down", jailed, "--jail-base", tools.jails)
    assert not Path("/run/mayfly/plain").exists()
    assert [left.name for left in tools.jails.glob("mayfly/*")] == [".lock"], "of the jailers, which share it"
    for name, content in before.items():
        assert (template / name).read_bytes() == content, f"{name} has changed"
    refused = tools.template(failing_images / "sleeps", template, status=1).stderr
    assert f"--output {template} is there already" in refused


def test_an_image_may_be_one_static_program(tools: Tools, shared_template: SharedTemplate) -> None:
    template = shared_template("static")
    assert sorted(file.name for file in template.iterdir()) == BUILT
    plain = tools.mayfly("up", template, "--no-jail").strip()
    jailed = tools.mayfly("up", template, "--jail-base", tools.jails).strip()
    sockets = {plain: Path("/run/mayfly") / plain, jailed: tools.jails / "mayfly" / jailed / "root"}
    for clone, place in sockets.items():
        head, _, body = fetch(place / "agent.sock", PORT, patience=PATIENCE).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and body == HELLO, head
        counted = fetch(place / "agent.sock", PORT, "/requests", PATIENCE)
        assert counted.endswith(b"\r\n\r\n3\n"), "the first one was the build's"
        assert "cannot run sh" in tools.mayfly("exec", clone, "--", "sh", status=127)
        tools.mayfly("cp", f"{clone}:/function", tools.room / clone)
        assert (tools.room / clone).read_bytes() == (tools.build / "tests/images/static_function").read_bytes()
        tools.mayfly("down", clone, "--jail-base", tools.jails)


def test_a_clone_that_has_ended_is_cleaned_up(tools: Tools, shared_template: SharedTemplate) -> None:
    template = shared_template("sleeper")
    clone = tools.mayfly("up", template, "--no-jail", "--id", "ends").strip()
    again = tools.mayfly("up", template, "--no-jail", "--id", "ends", status=1)
    assert "a machine ends runs already" in again
    tools.mayfly("exec", "--user", "root", clone, "--", "sh", "-c", "echo last words > /dev/console")
    tools.mayfly("stop", "--now", clone)
    assert "last words" in tools.mayfly("logs", clone)
    tools.mayfly("down", clone)
    assert not Path("/run/mayfly/ends").exists()
    assert "mayfly up has left nothing of ends" in tools.mayfly("down", clone, status=1)


def test_a_clone_whose_id_cannot_be_told_is_taken_back(tools: Tools, shared_template: SharedTemplate) -> None:
    command = [tools.build / "mayfly", "up", shared_template("sleeper"), "--no-jail", "--id", "untold"]
    with Path("/dev/full").open("w") as full:
        refused = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "mayfly: standard output cannot be written to: No space left on device (ENOSPC)\n"
    reader, writer = os.pipe()
    os.close(reader)
    assert subprocess.run(command, stdout=writer, timeout=300, check=False).returncode == -signal.SIGPIPE
    os.close(writer)
    assert "untold" not in tools.mayfly("ps")
    assert not Path("/run/mayfly/untold").exists()


def test_a_program_has_the_time_that_down_gives_it(tools: Tools, shared_template: SharedTemplate) -> None:
    clone = tools.mayfly("up", shared_template("drains"), "--no-jail").strip()
    with subprocess.Popen([tools.build / "mayfly", "logs", "-f", clone], stdout=subprocess.PIPE, text=True) as logs:
        assert logs.stdout is not None
        try:
            tools.mayfly("down", clone, "--timeout", "60")
            assert "drained" in logs.stdout.read()
        finally:
            logs.kill()


def test_down_ends_what_was_started_and_nothing_else(tools: Tools, shared_template: SharedTemplate) -> None:
    template = shared_template("sleeper")
    jailed = tools.mayfly("up", template, "--jail-base", tools.jails, "--id", "held").strip()
    root = tools.jails / "mayfly/held/root"
    process = int((root.parent / "mayfly.pid").read_text())
    # As a monitor that was taken over could.
    (root / "console").unlink()
    (root / "console").symlink_to("/etc/passwd")
    assert "root:" not in tools.mayfly("logs", jailed, "--jail-base", tools.jails, status=1)
    # Another user's machine that is called the same.
    other = tools.room / "other"
    other.mkdir()
    os.chown(other, 1000, 1000)
    with subprocess.Popen([tools.build / "mayfly", "--id", "held", "--api-sock", other / "api.sock"], user=1000, group=1000) as liar:
        until((other / "api.sock").exists, "another user's machine is there")
        assert tools.mayfly("exec", "--jail-base", tools.jails, jailed, "--", "echo", "here") == "here\n"
        os.kill(process, signal.SIGSTOP)
        tools.mayfly("down", jailed, "--timeout", "1", "--jail-base", tools.jails)
        assert liar.poll() is None
        liar.kill()
    assert not Path(f"/proc/{process}").exists()
    assert not root.parent.exists()

    # Nobody listens there, so it waits; an interrupt leaves nothing.
    silent = template_at_port(template, 9, tools.room / "silent")
    for jail in (["--no-jail"], ["--jail-base", tools.jails]):
        command = [tools.build / "mayfly", "up", silent, "--id", "waits", *jail]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as up:
            until(lambda: "waits" in tools.mayfly("ps"), "the clone is there")
            up.send_signal(signal.SIGINT)
            assert up.wait(60) == -signal.SIGINT
        assert "waits" not in tools.mayfly("ps")
        assert not Path("/run/mayfly/waits").exists() and not (tools.jails / "mayfly/waits").exists()


def test_a_clone_is_bounded_and_where_it_was_told_to_be(tools: Tools, shared_template: SharedTemplate) -> None:
    template = shared_template("sleeper")
    places = ["--run-dir", tools.room / "clones", "--jail-base", tools.jails]
    limits = ["--cgroup-version", "2", "--parent-cgroup", "functions", "--cgroup", "memory.max=512M", "--cgroup", "pids.max=50"]
    clone = tools.mayfly("up", template, "--id", "jailed", "--max-output", "128", *places, *limits).strip()
    cgroup = Path("/sys/fs/cgroup/functions/jailed")
    assert (cgroup / "memory.max").read_text() == f"{512 << 20}\n"
    assert (cgroup / "pids.max").read_text() == "50\n"
    monitor = (tools.jails / "mayfly/jailed/mayfly.pid").read_text().strip()
    assert monitor in (cgroup / "cgroup.procs").read_text().split()
    console = tools.jails / "mayfly/jailed/root/console"
    with console.open("a") as file:  # as a guest that has printed for a while
        file.write(f"{'0123456789' * 7}\n" * 3000)
    for words in ("first words", "last words"):
        tools.mayfly("exec", "--user", "root", *places, clone, "--", "sh", "-c", f"echo {words} > /dev/console")
        until(lambda words=words: words.encode() in console.read_bytes(), f"it prints its {words}")
    assert console.stat().st_blocks * 512 <= 128 << 10
    said = tools.run("mayfly", "logs", clone, *places)
    assert "\0" not in said.stdout and said.stdout.endswith("last words\n")
    assert "bytes are gone here" in said.stderr
    tools.mayfly("down", clone, *places)
    assert not cgroup.exists()

    # By the variable alone.
    os.environ["MAYFLY_RUN_DIR"] = str(tools.room / "clones")
    try:
        tools.mayfly("up", template, "--no-jail", "--id", "plain")
        assert (tools.room / "clones/plain/overlay").exists() and not Path("/run/mayfly/plain").exists()
        assert tools.mayfly("exec", "plain", "--", "echo", "it serves") == "it serves\n"
        tools.mayfly("down", "plain")
    finally:
        del os.environ["MAYFLY_RUN_DIR"]
    assert list((tools.room / "clones").iterdir()) == [tools.room / "clones/.starting"]


def test_verify_finds_a_byte_that_differs_in_any_file(tools: Tools, shared_template: SharedTemplate) -> None:
    template = tools.room / "own"
    subprocess.run(["cp", "--recursive", "--sparse=always", shared_template("sleeper"), template], check=True)
    files = sorted(template.iterdir())
    verified = tools.run("mayfly-template", "verify", template).stdout
    assert f"template.json and {len(files) - 1} files are as they were built" in verified
    for file in files:
        file.chmod(0o644)
        with file.open("r+b") as opened:
            opened.seek(file.stat().st_size // 2)
            byte = opened.read(1)
            opened.seek(-1, os.SEEK_CUR)
            opened.write(bytes([byte[0] ^ 1]))
            opened.flush()
            refused = tools.run("mayfly-template", "verify", template, status=1).stderr
            assert refused.startswith(f"mayfly-template: {file} has changed: "), refused
            opened.seek(-1, os.SEEK_CUR)
            opened.write(byte)
    tools.run("mayfly-template", "verify", template)


def test_says_why_an_image_is_not_ready(tools: Tools, failing_images: Path) -> None:
    output = tools.room / "app.template"
    said = tools.template(failing_images / "exits", output, "--patience", "60", status=1).stderr
    assert "the machine did not get ready" in said
    assert "I cannot serve" in said
    assert "the guest said last:\n" in said
    assert "\nmayfly-init: command exited with status 3" in said
    assert [each.name for each in tools.room.iterdir() if "app.template" in each.name] == []


def test_one_build_at_a_time_and_an_interrupted_one_leaves_nothing(tools: Tools, failing_images: Path) -> None:
    output = tools.room / "app.template"
    image = failing_images / "sleeps"
    command = [tools.build / "mayfly-template", "build", "--image", image, "--output", output, "--kernel", tools.kernel,
               "--disk", "64M"]  # fmt: skip
    place = tools.room / "app.template.mayfly-new"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as build:
        until((place / ".build/console").exists, "the machine is there")
        assert f"--output {output}: process {build.pid} builds it" in tools.template(image, output, status=1).stderr
        assert (place / ".build/console").exists(), "the first one's"
        build.kill()
    # A killed one gives its place, and what it has left is gone.
    (place / "left").touch()
    ours, theirs = os.openpty()
    resting = [*command, "--ready-port", "none", "--rest", "3600"]
    with subprocess.Popen(resting, stderr=theirs) as build, os.fdopen(ours, "rb", buffering=0) as shown:
        os.close(theirs)
        said = b""
        try:
            while b"Letting it rest" not in said:
                said += shown.read(4096)  # fails at its end
            assert not (place / "left").exists() and (place / ".build/console").exists()
            build.send_signal(signal.SIGINT)
            assert build.wait(60) == -signal.SIGINT
        finally:
            build.kill()
    assert [each.name for each in tools.room.iterdir() if "app.template" in each.name] == []


def test_refuses_what_is_no_template(tools: Tools) -> None:
    assert "is it a directory of mayfly-template build?" in tools.mayfly("up", tools.room / "none", status=1)
    other = tools.room / "other"
    other.mkdir()
    (other / "template.json").write_text('{"version": 2}')
    assert "version must be 1" in tools.mayfly("up", other, status=1)
