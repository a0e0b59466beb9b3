"""The agent of guests, on this machine instead of in a guest, and `mayfly exec` and `mayfly cp` as its hosts."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_peer import (
    CONNECT, DATA, DIRECTORY, DONE, EXEC, EXIT, FILE, GET, HOLE, LEAVE, LINK, NOTE, PATIENCE, PING, POWER_OFF, PUT, REFUSED, RESIZE,
    SIGNAL, STDERR, STDIN, STDIN_END, STDIN_TAKEN, STDOUT, TREE_END, Channel, Listener, Peer, agent_of, entry, exec_request,
    frame, text,
)
from harness.process import until
from listing import listing_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: users and owners")
Mayfly = Callable[..., "subprocess.CompletedProcess[bytes]"]


@contextlib.contextmanager
def false_agent(path: Path) -> Iterator[socket.socket]:
    """Who listens there in the agent's place."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(PATIENCE)
        yield server


def has_socket(process: int) -> bool:
    for entry in os.scandir(f"/proc/{process}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(entry.path).startswith("socket:"):
                return True
    return False


@pytest.fixture
def program(build: Path) -> Path:
    agent = build / "mayfly-guest-agent"
    assert agent.is_file(), f"{agent} is not there: cmake --build --preset release"
    return agent


@pytest.fixture
def listener(program: Path) -> Iterator[Listener]:
    """A host that speaks frame by frame; its agent dials."""
    listener = Listener()
    with agent_of(program, listener.port):
        yield listener
    listener.close()


@pytest.fixture
def channel(program: Path, tmp_path: Path) -> Iterator[Channel]:
    channel = Channel(tmp_path)
    with agent_of(program, channel.listener.port):
        yield channel
    channel.close()


@pytest.fixture
def words(build: Path, channel: Channel) -> Callable[..., list[str]]:
    def words(verb: str, *rest: str | Path) -> list[str]:
        return [str(build / "mayfly"), verb, "--agent-socket", str(channel.path), *map(str, rest)]

    return words


@pytest.fixture
def mayfly(words: Callable[..., list[str]]) -> Mayfly:
    def mayfly(verb: str, *rest: str | Path, **more: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(words(verb, *rest), capture_output=True, timeout=2 * PATIENCE, check=False, **more)  # type: ignore[call-overload, no-any-return]

    return mayfly


def ended(pid: int) -> bool:
    """Whether a process ends in time."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], PATIENCE)[0])
    finally:
        os.close(process)


# --- Frame by frame ----------------------------------------------------------------------------------------------------


def answered(listener: Listener, request: bytes) -> list[tuple[int, bytes]]:
    """All that the agent says to a request, to its hang-up."""
    with listener.accept() as peer:
        peer.send(request)
        frames = []
        with contextlib.suppress(EOFError):
            while True:
                frames.append(peer.receive())
                if frames[-1][0] == EXIT:
                    break
        return frames


def test_ping(listener: Listener) -> None:
    assert answered(listener, frame(PING)) == [(DONE, b"")]


def resources(pid: int) -> tuple[int, int, str]:
    """Open files, KiB of memory, children."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return len(os.listdir(f"/proc/{pid}/fd")), int(memory.split()[1]), Path(f"/proc/{pid}/task/{pid}/children").read_text()


def test_thousands_of_commands_leave_nothing(program: Path) -> None:
    listener = Listener()
    with agent_of(program, listener.port) as agent:
        expected = [(DONE, b""), (EXIT, b"\0" + bytes(4))]
        for _ in range(100):
            assert answered(listener, exec_request("true")) == expected
        with listener.accept():  # idle: nothing is under way
            before = resources(agent.pid)
        for _ in range(2000):
            assert answered(listener, exec_request("true")) == expected
        with listener.accept() as idle:
            # The last one's process may still be about to end.
            deadline = time.monotonic() + PATIENCE
            while resources(agent.pid)[2] and time.monotonic() < deadline:
                os.sched_yield()
            after = resources(agent.pid)
            assert not idle.socket.recv(0)
    listener.close()
    assert (after[0], after[2]) == (before[0], "")
    assert after[1] <= before[1] + 64


def test_exactly_one_connection_is_idle(listener: Listener) -> None:
    with listener.accept() as first:
        listener.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
        listener.socket.settimeout(PATIENCE)
        first.send(frame(PING)[:1])
        with listener.accept() as second:  # at the first byte, not at the request's end
            first.send(frame(PING)[1:])
            first.expect(DONE)
            second.send(frame(PING))
            second.expect(DONE)


def test_dials_again_after_a_reset_and_after_a_hang_up(listener: Listener) -> None:
    for _ in range(3):
        listener.accept().reset()
        listener.accept().socket.close()
    assert answered(listener, frame(PING)) == [(DONE, b"")]


def test_dials_again_until_somebody_listens(program: Path) -> None:
    listener = Listener()
    port = listener.port
    with agent_of(program, port):
        listener.accept().socket.close()
        listener.close()
        with socket.socket() as probe:  # refused: so is the agent
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        listener = Listener(port)
        assert answered(listener, frame(PING)) == [(DONE, b"")]
    listener.close()


NO_REQUESTS = {
    "unknown": b"\x07\0\0\0\0\0\0\0",
    "no-zeros": b"\x01\0\0\1\0\0\0\0",
    "too-long": struct.pack("<BxxxI", EXEC, 65537),
    "too-short": frame(EXEC, b"short"),
    "no-first-frame": frame(STDIN, b"no request"),
    "port-0": frame(CONNECT, struct.pack("<HI", 0, 0)),
    "relative-path": frame(GET, text("relative")),
    "name-with-slash": frame(PUT, text("/tmp") + text("a/b")),
    "no-command": exec_request(""),
    "variable-without-value": exec_request("true", env=("novalue",)),
    "relative-directory": exec_request("true", directory="relative"),
}


@pytest.mark.parametrize("request_", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_refuses_what_is_no_request(listener: Listener, request_: bytes) -> None:
    with listener.accept() as peer:
        peer.send(request_)
        assert "version" in peer.refusal() or struct.pack("<I", 65537) in request_
        assert peer.has_hung_up()
    assert answered(listener, frame(PING)) == [(DONE, b"")]


def test_standard_input_has_a_window(listener: Listener) -> None:
    with listener.accept() as peer:
        peer.send(exec_request("sh", "-c", "sleep 1000 & trap 'exit 9' TERM; echo ready; wait"))
        peer.expect(DONE)
        assert peer.expect(STDOUT) == b"ready\n"
        for _ in range(4):
            peer.send(frame(STDIN, bytes(65536)))
        assert struct.unpack("<I", peer.expect(STDIN_TAKEN))[0] < 4 * 65536  # the pipe's
        peer.send(frame(SIGNAL, struct.pack("<I", signal.SIGTERM)))  # gets through
        while (got := peer.receive())[0] == STDIN_TAKEN:
            pass
        assert got == (EXIT, b"\0" + struct.pack("<I", 9))
    with listener.accept() as peer:
        peer.send(exec_request("sleep", "1000") + frame(STDIN, bytes(65536)) * 7)
        peer.expect(DONE)
        with pytest.raises((EOFError, ConnectionResetError)):  # more than the window is a reason to hang up
            while True:
                peer.expect(STDIN_TAKEN)


def test_input_that_nobody_reads_is_acknowledged(listener: Listener) -> None:
    with listener.accept() as peer:
        peer.send(exec_request("sh", "-c", "exec <&-; echo closed; sleep 1000 & trap 'exit 3' TERM; wait"))
        peer.expect(DONE)
        peer.expect(STDOUT)
        for _ in range(20):  # five windows
            peer.send(frame(STDIN, bytes(65536)))
            assert peer.expect(STDIN_TAKEN) == struct.pack("<I", 65536)
        peer.send(frame(SIGNAL, struct.pack("<I", signal.SIGTERM)))
        assert peer.receive()[0] == EXIT


def test_output_waits_for_its_reader(listener: Listener) -> None:
    with listener.accept() as peer:
        peer.send(exec_request("sh", "-c", "head -c 30000000 /dev/zero; echo done >&2"))
        peer.expect(DONE)
        size = 0
        while (got := peer.receive())[0] != EXIT:
            if got[0] == STDERR:
                assert size >= 30_000_000 - 65536, "the rest is in the command's pipe, and may come later"
            else:
                size += len(got[1])
        assert size == 30_000_000


def test_a_hang_up_ends_the_whole_group(listener: Listener) -> None:
    # One of both ignores SIGHUP, as does what it starts.
    for trap in ("", "trap '' HUP;"):
        with listener.accept() as peer:
            peer.send(exec_request("sh", "-c", f"{trap} sleep 1000 & echo $! $$; wait"))
            peer.expect(DONE)
            pids = list(map(int, peer.expect(STDOUT).split()))
        assert all(ended(pid) for pid in pids)


def test_a_command_that_left_a_child_has_ended(listener: Listener) -> None:
    with listener.accept() as peer:
        peer.send(exec_request("sh", "-c", "sleep 1000 & echo $!; exit 4"))
        peer.expect(DONE)
        child = int(peer.expect(STDOUT))
        assert peer.expect(EXIT) == b"\0" + struct.pack("<I", 4)
    os.kill(child, signal.SIGKILL)


@as_root
def test_a_user_opens_its_streams_by_name(listener: Listener) -> None:
    script = "cat < /dev/stdin > /dev/stdout; echo x > /dev/stderr"
    frames = answered(listener, exec_request("sh", "-c", script, user="65534") + frame(STDIN, b"in") + frame(STDIN_END))
    assert [each for each in frames if each[0] != STDIN_TAKEN] == [
        (DONE, b""), (STDOUT, b"in"), (STDERR, b"x\n"), (EXIT, b"\0" + bytes(4))]


@as_root
def test_a_directory_is_entered_that_the_user_may_not_search_for(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed/work").mkdir()
    directory = str(tmp_path / "closed/work")
    assert answered(listener, exec_request("pwd", user="65534", directory=directory)) == [
        (DONE, b""), (STDOUT, f"{directory}\n".encode()), (EXIT, b"\0" + bytes(4))]


# --- Connections ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def echo_server(port: int = 0) -> Iterator[int]:
    """Sends one connection's bytes back, after their end."""
    with socket.create_server(("127.0.0.1", port)) as server:
        def echo() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                data = b""
                while piece := connection.recv(65536):
                    data += piece
                connection.sendall(data)

        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_connects_both_ways_with_half_closes(listener: Listener) -> None:
    data = os.urandom(3_000_000)
    with echo_server() as port, listener.accept() as peer:
        peer.send(frame(CONNECT, struct.pack("<HI", port, 0)))
        peer.expect(DONE)
        peer.send(data)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.exactly(len(data)) == data
        assert peer.has_hung_up()


def test_waits_for_who_listens_later(listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with listener.accept() as peer:
        peer.send(frame(CONNECT, struct.pack("<HI", port, 20_000)))
        with listener.accept():  # the request has been taken
            pass
        with echo_server(port):
            peer.expect(DONE)
            peer.send(b"late")
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.exactly(4) == b"late"


def test_waits_no_longer_than_it_is_told(listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with listener.accept() as peer:
        begun = time.monotonic()
        peer.send(frame(CONNECT, struct.pack("<HI", port, 300)))
        assert peer.refusal() == f"nobody listens at port {port} of the guest's 127.0.0.1, after 300 ms"
        assert 0.3 <= time.monotonic() - begun < PATIENCE


# --- Who the guest is ------------------------------------------------------------------------------------------------------

# In namespaces of its own: the host, its metadata service, which answers the second time, and the agent.
SILENT_AT_FIRST = """
import socket, subprocess, sys
METADATA = {"/latest/api/token": "token", "/mayfly": "hostname", "/mayfly/hostname": "vm-7"}
socket.setdefaulttimeout(20)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", "/etc"], check=True)
with socket.create_server(("127.0.0.1", 1024)) as host, socket.create_server(("127.0.0.1", 80)) as metadata:
    agent = subprocess.Popen([sys.argv[1], "--of-init", "--address", "127.0.0.1:1024"])
    try:
        with host.accept()[0] as peer, metadata.accept()[0]:
            peer.sendall(bytes([1]) + bytes(7))  # PING, which must wait
            with metadata.accept()[0] as asked:
                for line in asked.makefile("rb"):
                    if line.endswith(b" HTTP/1.1\\r\\n"):
                        value = METADATA.get(line.split()[1].decode(), "")
                    if line == b"\\r\\n":
                        status = "200 OK" if value else "404 Not Found"
                        asked.sendall(f"HTTP/1.1 {status}\\r\\nContent-Length: {len(value)}\\r\\n\\r\\n{value}".encode())
            assert peer.recv(8)[0] == 32  # DONE
            print(socket.gethostname())
    finally:
        agent.kill()
        agent.wait()
"""


@as_root
def test_a_guest_asks_again_who_it_is_before_it_serves(program: Path) -> None:
    command = ["unshare", "--net", "--uts", "--mount", "/usr/bin/python3", "-c", SILENT_AT_FIRST, program]
    asked = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=2 * PATIENCE, check=False)
    assert (asked.returncode, asked.stdout) == (0, "vm-7\n")


# --- The end of the guest -------------------------------------------------------------------------------------------------

# Preempts whoever sends it a signal, as init does on a guest's only CPU, and ends all others at once. The value of a
# signal lies where a child's status does.
PROMPT_INIT = """
import os, signal, subprocess, sys
def begin_agent():
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
subprocess.Popen(sys.argv[1:], preexec_fn=begin_agent)
told = signal.sigwaitinfo({signal.SIGUSR2})
os.kill(-1, signal.SIGKILL)
print(told.si_code, told.si_status)
"""


@as_root
def test_power_off_is_answered_before_init_ends_everybody(program: Path) -> None:
    listener = Listener()
    command = ["unshare", "--pid", "--fork", "--kill-child", "/usr/bin/python3", "-c", PROMPT_INIT, program, "--of-init",
               "--address", f"127.0.0.1:{listener.port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as init:
        try:
            with listener.accept() as peer:
                peer.send(frame(POWER_OFF, struct.pack("<I", 7)))
                peer.expect(DONE)
            assert init.stdout is not None
            assert init.stdout.read() == b"-1 7\n"  # SI_QUEUE, and the program's time
        finally:
            init.kill()
    listener.close()


# --- mayfly exec -----------------------------------------------------------------------------------------------------------


def test_exit_codes_are_the_command_s(mayfly: Mayfly) -> None:
    for command, code in (("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)):
        assert mayfly("exec", "--", "sh", "-c", command).returncode == code, command
    missing = mayfly("exec", "--", "no-such-program")
    assert (missing.returncode, missing.stdout) == (127, b"")
    assert missing.stderr == b"mayfly: cannot run no-such-program: No such file or directory (ENOENT)\n"
    assert mayfly("exec", "--", "/etc/passwd").returncode == 126
    nowhere = mayfly("exec", "--cwd", "/no/such", "--", "true")
    assert nowhere.returncode == 125
    assert b"cannot be run in /no/such" in nowhere.stderr


def test_streams_stay_apart_and_words_stay_whole(mayfly: Mayfly) -> None:
    ran = mayfly("exec", "--", "sh", "-c", 'printf "%s|" "$@"; echo error >&2', "sh", "a b", "", "--", "-t", "run", "completion")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"a b||--|-t|run|completion|", b"error\n")
    assert mayfly("exec", "--", "cat", input=b"not its input").stdout == b""


def test_environment_and_directory(mayfly: Mayfly) -> None:
    ran = mayfly("exec", "--env", "A=b c", "-e", "PATH=/bin:/usr/bin", "--cwd", "/usr", "--", "sh", "-c", "echo $A,$PATH,$PWD,$HOME")
    assert ran.stdout == b"b c,/bin:/usr/bin,/usr,/root\n"


@as_root
def test_users_are_found_as_images_find_theirs(mayfly: Mayfly) -> None:
    assert mayfly("exec", "--user", "nobody", "--", "sh", "-c", "id -u; id -G; echo $HOME").stdout.split() == [
        b"65534", b"65534", b"/nonexistent"]
    assert mayfly("exec", "--user", "12:34", "--", "sh", "-c", "id -u; id -G").stdout.split() == [b"12", b"34"]
    unknown = mayfly("exec", "--user", "no-such-user", "--", "true")
    assert unknown.returncode == 125
    assert b"the user 'no-such-user' is not in" in unknown.stderr


@as_root
def test_defaults_are_the_image_s(program: Path, build: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    records = ("mayfly-run-1", "arg=/app", "env=A=b", "env=PATH=/usr/bin:/bin", "uid=12", "gid=34", "group=56", "home=/srv",
               "cwd=/usr", "stop=15")
    run.write_bytes(b"".join(record.encode() + b"\0" for record in records))
    (tmp_path / "socket").mkdir()
    channel = Channel(tmp_path / "socket")
    with agent_of(program, channel.listener.port, "--run", str(run)):
        def said(*flags: str) -> list[bytes]:
            return subprocess.run([build / "mayfly", "exec", "--agent-socket", channel.path, *flags, "--", "sh", "-c",
                                   "id -u; id -g; id -G; echo $A $HOME $PWD"], capture_output=True, check=True).stdout.split()

        assert said() == [b"12", b"34", b"34", b"56", b"b", b"/srv", b"/usr"]
        assert said("--user", "0") == [b"0", b"0", b"0", b"b", b"/root", b"/usr"]
    channel.close()
    run.write_bytes(b"mayfly-run-2\0")
    refused = subprocess.run([program, "--run", run], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "'mayfly-run-2' is not understood" in refused.stderr


def test_ten_megabytes_come_back(mayfly: Mayfly) -> None:
    data = os.urandom(10 << 20)
    ran = mayfly("exec", "-i", "--", "cat", input=data)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert hashlib.sha256(ran.stdout).digest() == hashlib.sha256(data).digest()


def test_a_reader_that_leaves_ends_the_command(words: Callable[..., list[str]]) -> None:
    process = subprocess.Popen(words("exec", "--", "sh", "-c", "echo $$; exec yes"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    command = int(process.stdout.readline())
    process.stdout.close()
    assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()
    assert ended(command)


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_are_forwarded(words: Callable[..., list[str]], name: str) -> None:
    script = f'sleep 1000 & trap "kill $!; echo got; exit 5" {name}; echo ready; wait'
    with subprocess.Popen(words("exec", "--", "sh", "-c", script), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.read() == b"got\n"
        assert process.wait(PATIENCE) == 5


def waiting_bytes(fd: int, request: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0]
    return count


@pytest.fixture
def silent(build: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Peer]]:
    """`mayfly exec`, whose agent has begun and says nothing more, and that agent's end."""
    path = tmp_path / "silent.sock"
    with false_agent(path) as server:
        command = [build / "mayfly", "exec", "--agent-socket", path, "--", "x"]
        with subprocess.Popen(command) as process, Peer(server.accept()[0]) as peer:
            assert peer.receive()[0] == EXEC
            peer.send(frame(DONE))
            peer.expect(STDIN_END)
            yield process, peer


def test_a_third_signal_leaves_a_guest_that_is_silent(silent: tuple[subprocess.Popen[bytes], Peer]) -> None:
    process, peer = silent
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        assert peer.expect(SIGNAL) == struct.pack("<I", number)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_signals_for_other_purposes_never_leave_the_guest(silent: tuple[subprocess.Popen[bytes], Peer]) -> None:
    process, peer = silent
    for _ in range(5):
        process.send_signal(signal.SIGUSR1)
        peer.expect(SIGNAL)
    peer.send(frame(EXIT, b"\0" + struct.pack("<I", 3)))
    assert process.wait(PATIENCE) == 3


def test_a_signal_ends_who_waits_for_the_reader_of_an_ended_command(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "ended.sock"
    with false_agent(path) as server:
        command = [build / "mayfly", "exec", "--agent-socket", path, "--", "x"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process, Peer(server.accept()[0]) as peer:
            assert peer.receive()[0] == EXEC
            peer.send(frame(DONE) + frame(STDOUT, bytes(65536)) * 3)
            assert process.stdout is not None
            pipe = process.stdout.fileno()
            until(lambda: waiting_bytes(pipe, termios.FIONREAD) == 65536, "the pipe should be full")
            peer.send(frame(EXIT, b"\0" + bytes(4)))
            until(lambda: waiting_bytes(peer.socket.fileno(), termios.TIOCOUTQ) == 0, "the command's end should be taken")
            process.terminate()
            assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_signals_get_through_to_who_does_not_read(words: Callable[..., list[str]]) -> None:
    script = "sleep 1000 & trap 'exit 9' TERM; echo ready; wait"
    with Path("/dev/zero").open("rb") as zeros:
        process = subprocess.Popen(words("exec", "-i", "--", "sh", "-c", script), stdin=zeros, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process:
            assert process.stdout.readline() == b"ready\n"
            process.terminate()
            assert process.wait(PATIENCE) == 9


def test_a_killed_host_ends_its_command(words: Callable[..., list[str]]) -> None:
    with subprocess.Popen(words("exec", "--", "sh", "-c", "trap '' HUP; echo $$; sleep 1000"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        command = int(process.stdout.readline())
        process.kill()
    assert ended(command)


def test_says_which_machine_has_no_agent(build: Path, tmp_path: Path) -> None:
    def said(*rest: str) -> tuple[int, str]:
        ran = subprocess.run([build / "mayfly", *rest], capture_output=True, text=True, check=False, timeout=PATIENCE)
        return ran.returncode, ran.stderr

    code, message = said("exec", "--agent-socket", str(tmp_path / "none"), "--", "true")
    assert code == 125
    assert "there is no agent's socket" in message and "PUT /channels/1024" in message
    assert said("exec", "no-such-machine", "--", "true")[0] == 125
    assert "needs a command" in said("exec", "machine")[1]
    assert "needs a machine" in said("exec")[1]
    assert "--env 'x' must be NAME=VALUE" in said("exec", "--env", "x", "machine", "--", "true")[1]
    assert "one of 'a' and 'b' must be in a guest" in said("cp", "a", "b")[1]
    assert "name the machine" in said("cp", ":/a", "b")[1]


def test_finds_the_agent_of_a_machine_by_its_id(build: Path, tmp_path: Path) -> None:
    name = f"agent-test-{os.getpid()}"
    machine = subprocess.Popen([build / "mayfly", "--api-sock", tmp_path / "api.sock", "--id", name], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "api.sock").exists():
            assert machine.poll() is None and time.monotonic() < deadline

        def said() -> tuple[int, str]:
            ran = subprocess.run([build / "mayfly", "exec", name, "--", "true"], capture_output=True, text=True, check=False,
                                 timeout=PATIENCE)
            return ran.returncode, ran.stderr

        path = tmp_path / "agent.sock"
        assert said() == (125, f"mayfly: there is no agent's socket {path}; give the machine a channel that listens there "
                               "(PUT /channels/1024), or name another by --agent-socket\n")
        with socket.socket(socket.AF_UNIX) as impostor:
            impostor.bind(str(path))
            impostor.listen()
            assert said() == (125, f"mayfly: {path} is no socket of process {machine.pid}: process {os.getpid()} listens there; "
                                   "name the machine's by --agent-socket\n")
    finally:
        machine.kill()
        machine.wait()


@contextlib.contextmanager
def machine_of(user: int, program: Path, name: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A monitor of that user's."""
    directory.mkdir()
    os.chown(directory, user, user)
    words = [program, "--api-sock", directory / "api.sock", "--id", name]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, user=user, group=user)
    try:
        until((directory / "api.sock").exists, "the machine is there")
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def process_in(root: Path, server: socket.socket) -> Iterator[int]:
    """A process whose root that is. It listens, and others accept what comes."""
    ready, listens = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.chroot(root)
            server.listen()
            os.write(listens, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(listens)
    try:
        assert os.read(ready, 1) == b"x"
        yield process
    finally:
        os.close(ready)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


@as_root
def test_a_clone_is_found_by_its_place(build: Path) -> None:
    """And not by what a process of another user says of itself."""
    program, name = build / "mayfly", f"clone-test-{os.getpid()}"

    def refusal(words: list[str | Path], status: int) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == status, done.stderr
        return done.stderr

    with tempfile.TemporaryDirectory(prefix="mayfly-") as directory:
        base = Path(directory)
        base.chmod(0o755)
        jail, other = base / "mayfly" / name, base / "other"
        (jail / "root").mkdir(parents=True)
        (jail / "log").touch()
        execute: list[str | Path] = [program, "exec", "--jail-base", base, name, "--", "true"]
        copy: list[str | Path] = [program, "cp", "--jail-base", base, f"{name}:/x", base / "x"]
        with (
            false_agent(jail / "root/agent.sock") as server,
            process_in(jail / "root", server) as monitor,
            machine_of(1000, program, name, other) as liar,
        ):
            (jail / "mayfly.pid").write_text(str(monitor))
            for words, request in ((execute, EXEC), (copy, GET)):
                process = subprocess.Popen(words, stderr=subprocess.PIPE)
                try:
                    with Peer(server.accept()[0]) as peer:
                        assert peer.receive()[0] == request
                finally:
                    process.kill()
                    process.communicate()
            # Somebody else's socket in its place; then its process has ended, and another has its number.
            (jail / "root/agent.sock").rename(jail / "root/mine")
            (jail / "root/agent.sock").symlink_to(other / "api.sock")
            assert f"is no socket of process {monitor}" in refusal(execute, 125)
            (jail / "mayfly.pid").write_text(str(liar.pid))
            (jail / "root/mayfly").symlink_to(program)  # which the monitor can do, too
            for words, status in ((execute, 125), (copy, 1)):
                assert f"{name} has ended: see mayfly logs {name}" in refusal(words, status)


@as_root
def test_another_machine_of_the_user_is_not_the_clone_that_has_its_id(build: Path) -> None:
    program, name, user = build / "mayfly", f"clone-test-{os.getpid()}", 1000
    with tempfile.TemporaryDirectory(prefix="mayfly-") as directory:
        base = Path(directory)
        clone = base / "mayfly" / name
        clone.mkdir(parents=True)
        (clone / "log").touch()
        for each in (base, clone.parent, clone, clone / "log"):
            os.chown(each, user, user)

        def said(*words: str | Path) -> tuple[int, str]:
            done = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=PATIENCE, user=user, group=user,
                                  extra_groups=[], env={"XDG_RUNTIME_DIR": directory})  # fmt: skip
            return done.returncode, done.stderr

        has_ended = f"mayfly: {name} has ended: see mayfly logs {name}, and remove it by mayfly down {name}\n"
        with machine_of(user, program, name, base / "other") as other:
            assert said("exec", name, "--", "true") == (125, has_ended)
            assert said("cp", f"{name}:/x", base / "x") == (1, has_ended)
            assert said("down", name) == (0, "")
            assert other.poll() is None, "mayfly up has not started it"
            assert not clone.exists()
            # In a jail, it may run all the same.
            jail = base / "jails/mayfly" / name
            (jail / "root").mkdir(parents=True)
            (jail / "log").touch()
            assert said("exec", "--jail-base", base / "jails", name, "--", "true") == (
                125, f"mayfly: {name} has ended, or runs in its jail as another user: be that user, or root\n")


# --- Terminals -----------------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal with a program on it."""

    def __init__(self, words: list[str], rows: int, columns: int) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(words, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.said = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, words: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while words not in self.said:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"{words!r} did not come: {self.said!r}"
            self.said += os.read(self.master, 65536)
        self.said = self.said.partition(words)[2]

    def ends_with(self, code: int) -> None:
        assert self.process.wait(PATIENCE) == code
        assert termios.tcgetattr(self.slave) == self.before, "the terminal was not put back"

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def test_a_terminal_has_size_keys_and_modes(words: Callable[..., list[str]]) -> None:
    # dash's read fails where a signal with a trap comes just then, and not at other times.
    script = ("trap 'stty size; woken=1' WINCH; trap 'echo interrupted; woken=1' INT; stty size; "
              'while read x || [ -n "$woken" ]; do woken=; echo "<$x>"; done; exit 6')
    with Terminal(words("exec", "-i", "-t", "--", "sh", "-c", script), 33, 99) as terminal:
        terminal.wait_for(b"33 99\r\n")
        assert termios.tcgetattr(terminal.slave) != terminal.before
        terminal.resize(44, 111)
        terminal.type(b"\r")  # sh runs the trap once read has returned
        terminal.wait_for(b"44 111\r\n")
        terminal.type(b"hello\r")
        terminal.wait_for(b"<hello>\r\n")
        terminal.type(b"\x03")
        terminal.wait_for(b"interrupted")
        terminal.type(b"\r\x04")
        terminal.ends_with(6)


def test_a_terminal_that_was_resized_while_the_agent_was_waited_for(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "slow.sock"
    with false_agent(path) as server:
        with Terminal([str(build / "mayfly"), "exec", "-it", "--agent-socket", str(path), "--", "sh"], 24, 80) as terminal:
            with Peer(server.accept()[0]) as peer:
                assert peer.receive()[0] == EXEC
                terminal.resize(44, 111)
                peer.send(frame(DONE))
                assert peer.expect(RESIZE) == struct.pack("<HH", 44, 111)
                peer.send(frame(EXIT, b"\0" + bytes(4)))
                terminal.ends_with(0)


def test_a_terminal_is_put_back_when_a_signal_ends_the_command(words: Callable[..., list[str]]) -> None:
    with Terminal(words("exec", "-it", "--", "sh", "-c", "echo begun; exec sleep 1000"), 24, 80) as terminal:
        terminal.wait_for(b"begun\r\n")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.ends_with(128 + signal.SIGTERM)


@contextlib.contextmanager
def at_a_prompt(build: Path, path: Path) -> Iterator[tuple[Terminal, Peer]]:
    """A terminal, at the prompt of a shell that `peer` seems to have started."""
    with false_agent(path) as server:
        with Terminal([str(build / "mayfly"), "exec", "-it", "--agent-socket", str(path), "--", "sh"], 24, 80) as terminal:
            with Peer(server.accept()[0]) as peer:
                assert peer.receive()[0] == EXEC
                peer.send(frame(DONE) + frame(STDOUT, b"prompt"))
                terminal.wait_for(b"prompt")
                yield terminal, peer


def test_a_lost_connection_puts_the_terminal_back(build: Path, tmp_path: Path) -> None:
    with at_a_prompt(build, tmp_path / "agent.sock") as (terminal, peer):
        peer.socket.close()
        terminal.wait_for(b"the connection to the guest has ended")
        terminal.ends_with(125)


def test_a_key_leaves_a_guest_that_hangs(build: Path, tmp_path: Path) -> None:
    with at_a_prompt(build, tmp_path / "agent.sock") as (terminal, peer):
        terminal.type(b"cd ~.\r~~\r~")
        taken = b""
        while not taken.endswith(b"~\r"):
            taken += peer.expect(STDIN)
        assert taken == b"cd ~.\r~\r"
        # From here on it takes and says nothing.
        terminal.type(b".")
        terminal.wait_for(b"left by ~. before the command has ended")
        terminal.ends_with(125)
        assert peer.has_hung_up(), "the command in the guest hears of it"


def test_bytes_that_no_terminal_sends_are_no_keys(mayfly: Mayfly) -> None:
    ran = mayfly("exec", "-i", "--", "cat", input=b"~.\n~~\n")
    assert (ran.returncode, ran.stdout) == (0, b"~.\n~~\n")


def test_output_before_a_lost_connection_is_shown(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with false_agent(path) as server:
        command = [build / "mayfly", "exec", "-i", "--agent-socket", path, "--", "x"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            with Peer(server.accept()[0]) as peer:
                assert peer.receive()[0] == EXEC
                peer.send(frame(DONE) + 3 * frame(STDOUT, b"words" * 10_000))
            said, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (125, b"words" * 30_000)
    assert b"the connection to the guest has ended" in errors


def test_says_that_an_agent_does_not_keep_to_the_protocol(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with false_agent(path) as server:
        command = [build / "mayfly", "exec", "-i", "--agent-socket", path, "--", "x"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            with Peer(server.accept()[0]) as peer:
                assert peer.receive()[0] == EXEC
                peer.send(frame(DONE) + frame(99))
                _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 125
    assert b"a frame of an unknown type (0x63)" in errors


@pytest.mark.parametrize("verb", ["exec", "cp"])
def test_a_socket_that_accepts_nothing_holds_nobody(build: Path, tmp_path: Path, verb: str) -> None:
    path = tmp_path / "full.sock"
    rest = [":/x", tmp_path / "copy"] if verb == "cp" else ["--", "true"]
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(path))
        server.listen(0)
        first.connect(str(path))
        with subprocess.Popen([build / "mayfly", verb, "--agent-socket", path, *rest]) as process:
            until(lambda: has_socket(process.pid), "it asks for the agent")
            assert process.poll() is None  # a monitor that is busy has room later
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == -signal.SIGINT


def test_hang_up_of_a_terminal_ends_its_shell(listener: Listener) -> None:
    with listener.accept() as peer:
        peer.send(exec_request("sh", "-c", "stty -echo; echo $$; read x", tty=True))
        peer.expect(DONE)
        peer.send(frame(RESIZE, struct.pack("<HH", 10, 20)))
        shell = int(peer.expect(STDOUT).split()[0])
    assert ended(shell)


def test_end_of_input_reaches_a_terminal(listener: Listener) -> None:
    frames = answered(listener, exec_request("sh", "-c", "stty -echo; echo ready; cat; echo over", tty=True)
                      + frame(STDIN, b"no line's end") + frame(STDIN_END))
    said = b"".join(payload for kind, payload in frames if kind == STDOUT)
    assert said.replace(b"^D\b\b", b"").endswith(b"over\r\n")
    assert frames[-1] == (EXIT, b"\0" + bytes(4))


# --- mayfly cp -----------------------------------------------------------------------------------------------------------


def make_tree(root: Path) -> Path:
    """With every kind of file that is copied."""
    (root / "sub/deeper/deepest").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o500)
    (root / "file").write_bytes(os.urandom(300_000))
    (root / "sub/none").write_bytes(b"")
    (root / "sub/program").write_bytes(b"#!/bin/sh\n")
    (root / "sub/program").chmod(0o755)
    (root / "sub/link").symlink_to("../file")
    (root / "sub/dangling").symlink_to("/no/such/file")
    (root / "sub/up").symlink_to("../../..")
    (root / "sub/deeper/name with\nnewline").write_bytes(b"x")
    os.mkfifo(root / "sub/pipe")
    os.chmod(root / "sub/pipe", 0o622)  # which no usual umask leaves
    with (root / "holes").open("wb") as holes:
        holes.seek(5 << 20)
        holes.write(b"middle")
        holes.truncate(20 << 20)
    if os.geteuid() == 0:
        os.chown(root / "sub/program", 12, 34)
        os.chown(root / "sub/link", 56, 78, follow_symlinks=False)
    for number, name in enumerate(("sub/link", "file", "sub/deeper", "empty", "sub", ".")):
        os.utime(root / name, ns=(0, 1_500_000_000_123_456_789 + number), follow_symlinks=False)
    return root


def times_of(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


def test_trees_are_the_same_both_ways(mayfly: Mayfly, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    there, back = tmp_path / "there", tmp_path / "back"
    for copied in (mayfly("cp", source, f":{there}"), mayfly("cp", f":{there}", back)):
        assert (copied.returncode, copied.stdout, copied.stderr) == (0, b"", b"")
    for copy in (there, back):
        assert listing_of(copy) == listing_of(source)
        assert times_of(copy) == times_of(source)
        assert (copy / "holes").stat().st_blocks < 4096


def test_names_are_given_as_cp_gives_them(mayfly: Mayfly, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("f")
    (tmp_path / "tree/x").mkdir(parents=True)

    def copied(source: str, destination: str, becomes: str) -> None:
        ran = mayfly("cp", source, destination)
        assert ran.returncode == 0, ran.stderr
        assert (tmp_path / becomes).exists(), becomes

    for into, out in ((":", ""), ("", ":")):
        folder = f"{into}{tmp_path}"
        name = "in" if into else "out"
        (tmp_path / name).mkdir()
        copied(f"{out}{tmp_path}/f", f"{folder}/{name}", f"{name}/f")
        copied(f"{out}{tmp_path}/f", f"{folder}/{name}/", f"{name}/f")
        copied(f"{out}{tmp_path}/f", f"{folder}/{name}/g", f"{name}/g")
        copied(f"{out}{tmp_path}/tree", f"{folder}/{name}", f"{name}/tree/x")
        copied(f"{out}{tmp_path}/tree", f"{folder}/{name}/new", f"{name}/new/x")
        copied(f"{out}{tmp_path}/tree/", f"{folder}/{name}/slash", f"{name}/slash/x")
        copied(f"{out}{tmp_path}/tree/.", f"{folder}/{name}", f"{name}/x")
        copied(f"{out}{tmp_path}/tree/.", f"{folder}/{name}/content", f"{name}/content/x")
        copied(f"{out}{tmp_path}/tree", f"{folder}/{name}", f"{name}/tree/x")  # once more, over itself
        absent = mayfly("cp", f"{out}{tmp_path}/f", f"{folder}/{name}/absent/")
        assert absent.returncode == 1
        assert b"there is no directory absent; make it first" in absent.stderr
        nowhere = mayfly("cp", f"{out}{tmp_path}/no-such", f"{folder}/{name}")
        assert nowhere.returncode == 1
        assert b"cannot look at no-such: No such file" in nowhere.stderr


def test_what_is_there_is_replaced_and_not_followed(mayfly: Mayfly, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "outside").mkdir()
    (tmp_path / "source/folder").mkdir(parents=True)
    (tmp_path / "source/file").write_text("new")
    (tmp_path / "source/folder/inner").write_text("inner")
    place = tmp_path / "place"
    place.mkdir()
    (place / "file").symlink_to(tmp_path / "victim")
    for source, destination in ((f"{tmp_path}/source/.", f":{place}"), (f":{tmp_path}/source/.", f"{place}")):
        assert mayfly("cp", source, destination).returncode == 0
        assert (tmp_path / "victim").read_text() == "untouched"
        assert (place / "file").read_text() == "new" and not (place / "file").is_symlink()
        (place / "file").unlink()
        (place / "file").symlink_to(tmp_path / "victim")
    subprocess.run(["rm", "-r", place / "folder"], check=True)
    (place / "folder").symlink_to(tmp_path / "outside")
    for source, destination in ((f"{tmp_path}/source/.", f":{place}"), (f":{tmp_path}/source/.", f"{place}")):
        refused = mayfly("cp", source, destination)
        assert refused.returncode == 1
        assert b"folder is there and is no directory" in refused.stderr
    assert list((tmp_path / "outside").iterdir()) == []
    assert [each.name for each in place.iterdir() if each.name.startswith(".mayfly")] == []


def test_sockets_are_left_out_with_a_sentence(mayfly: Mayfly, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(tmp_path / "source/socket"))
        for source, destination, name in ((f"{tmp_path}/source", f":{tmp_path}/in", "in"), (f":{tmp_path}/source", f"{tmp_path}/out", "out")):
            copied = mayfly("cp", source, destination)
            assert (copied.returncode, copied.stderr) == (0, b"mayfly: source/socket is a socket, and is left out\n")
            assert [each.name for each in (tmp_path / name).iterdir()] == ["file"]


def test_programs_of_a_guest_run_as_nobody_else(mayfly: Mayfly, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("x")
    program.chmod(0o6755)
    assert mayfly("cp", program, f":{tmp_path}/there").returncode == 0
    assert (tmp_path / "there").stat().st_mode & 0o7777 == 0o6755
    assert mayfly("cp", f":{tmp_path}/there", tmp_path / "back").returncode == 0
    assert (tmp_path / "back").stat().st_mode & 0o7777 == 0o755


@pytest.fixture
def answered_by(build: Path, tmp_path: Path) -> Callable[[bytes], tuple[int, str, Path]]:
    """`mayfly cp :/x DIRECTORY/copy`, where the agent answers with these bytes."""

    def answered_by(answer: bytes) -> tuple[int, str, Path]:
        place = tmp_path / "within/place"
        place.mkdir(parents=True, exist_ok=True)
        path = tmp_path / "hostile.sock"
        path.unlink(missing_ok=True)
        with false_agent(path) as server:
            command = [build / "mayfly", "cp", "--agent-socket", path, ":/x", place / "copy"]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, Peer(server.accept()[0]) as peer:
                assert peer.receive()[0] == GET
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    peer.send(frame(DONE) + answer)
                    peer.socket.shutdown(socket.SHUT_WR)
                assert process.stderr is not None
                said = process.stderr.read()
                return process.wait(PATIENCE), said, place

    return answered_by


ROOT = entry(DIRECTORY, "", mode=0o755)


HOSTILE = {
    "nothing": frame(TREE_END),
    "root-with-name": entry(FILE, "name") + frame(TREE_END),  # which is not the guest's to choose
    "root-above": entry(FILE, "../x") + frame(TREE_END),
    "above": ROOT + entry(FILE, "../escaped") + frame(DATA, b"x") + frame(TREE_END),
    "absolute": ROOT + entry(FILE, "/escaped") + frame(TREE_END),
    "file-dot-dot": ROOT + entry(FILE, "..") + frame(TREE_END),
    "folder-dot": ROOT + entry(DIRECTORY, ".") + frame(TREE_END),
    "folder-dot-dot": ROOT + entry(DIRECTORY, "..") + entry(FILE, "escaped") + frame(TREE_END),
    "zero-in-name": ROOT + entry(FILE, b"a\0b") + frame(TREE_END),
    "long-name": ROOT + entry(FILE, "x" * 256) + frame(TREE_END),
    "through-a-link": ROOT + entry(LINK, "link", "..") + entry(DIRECTORY, "link") + entry(FILE, "escaped") + frame(TREE_END),
    "into-a-link": ROOT + entry(LINK, "link", "../escaped") + frame(DATA, b"x") + frame(TREE_END),
    "link-to-nothing": ROOT + entry(LINK, "link", "") + frame(TREE_END),
    "mode": ROOT + entry(FILE, "a", mode=0o100644) + frame(TREE_END),
    "device": ROOT + entry(9, "device") + frame(TREE_END),
    "data-of-nothing": ROOT + frame(DATA, b"of nothing") + frame(TREE_END),
    "hole-of-nothing": ROOT + frame(HOLE, bytes(8)) + frame(TREE_END),
    "leaves-its-root": ROOT + frame(LEAVE) + frame(LEAVE) + frame(TREE_END),
    "two-roots": ROOT + frame(LEAVE) + entry(FILE, "second") + frame(TREE_END),
    "root-in-root": ROOT + ROOT + frame(TREE_END),
    "no-leave": ROOT + frame(TREE_END),
    "no-end": ROOT + entry(FILE, "half") + frame(DATA, b"half"),
    "endless-hole": ROOT + entry(FILE, "hole") + frame(HOLE, b"\xff" * 8) + frame(TREE_END),
    "hole-to-the-end": ROOT + entry(FILE, "hole") + frame(HOLE, struct.pack("<Q", (1 << 63) - 1)) + frame(DATA, b"x") + frame(TREE_END),
    "no-tree": ROOT + entry(FILE, "file") + frame(EXIT, bytes(5)) + frame(TREE_END),
    "deep": b"".join(entry(DIRECTORY, "d" if number else "") for number in range(300)),
    "long-frame": struct.pack("<BxxxI", DATA, 1 << 31) + bytes(100),
    "refusal-with-escapes": frame(REFUSED, b"\0" + text("no\x1b[2J")),
    "unknown": frame(99),
    "zeros": b"\0" * 100,
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_agent_writes_nowhere_else(answered_by: Callable[[bytes], tuple[int, str, Path]], answer: bytes) -> None:
    code, said, place = answered_by(answer)
    assert code == 1
    assert said.startswith("mayfly: ") and said.count("\n") == 1 and "\x1b" not in said
    assert [each.name for each in place.parent.iterdir()] == ["place"]
    assert [each.name for each in place.parent.parent.iterdir() if "escaped" in each.name] == []
    # Files that are whole may be there; none that is half.
    for found in place.rglob("*"):
        assert not found.name.startswith(".mayfly") and found.name not in ("half", "hole"), found


def test_notes_of_a_guest_are_bounded_and_tame(answered_by: Callable[[bytes], tuple[int, str, Path]]) -> None:
    code, said, _ = answered_by(frame(NOTE, b"bad\x1b]0;title\x07") * 1000 + ROOT + frame(LEAVE) + frame(TREE_END))
    assert code == 0
    assert said.count("\n") == 101 and "\x1b" not in said
    assert said.endswith("mayfly: 900 more were left out\n")


def test_a_size_is_no_promise(answered_by: Callable[[bytes], tuple[int, str, Path]]) -> None:
    code, said, place = answered_by(entry(FILE, "", size=1 << 63) + frame(DATA, b"little") + frame(TREE_END))
    assert (code, said) == (0, "")
    assert (place / "copy").read_bytes() == b"little"


def test_an_agent_that_sends_for_ever_can_be_interrupted(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "flood.sock"
    with false_agent(path) as server:
        command = [build / "mayfly", "cp", "--agent-socket", path, ":/x", tmp_path / "copy"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process, Peer(server.accept()[0]) as peer:
            peer.receive()
            peer.send(frame(DONE) + entry(FILE, ""))
            notes = frame(NOTE) * 8192
            deadline = time.monotonic() + 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while time.monotonic() < deadline:
                    peer.send(notes)
                process.send_signal(signal.SIGINT)
                while time.monotonic() < deadline + 5:
                    peer.send(notes)
            assert process.wait(PATIENCE) == -signal.SIGINT
            assert time.monotonic() < deadline + 5
        assert [each.name for each in tmp_path.iterdir()] == ["flood.sock"]


def test_a_guest_does_not_lead_the_next_copy_elsewhere(
    answered_by: Callable[[bytes], tuple[int, str, Path]], build: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    code, _, place = answered_by(entry(LINK, "", str(outside)) + frame(TREE_END))
    assert code == 0 and (place / "copy").is_symlink()
    again = subprocess.run(
        [build / "mayfly", "cp", "--agent-socket", tmp_path / "hostile.sock", ":/x", place / "copy"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert again.returncode == 1 and "copy is a link to a directory; end it with a slash" in again.stderr
    assert list(outside.iterdir()) == []


def test_an_interrupted_copy_leaves_nothing_half(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "slow.sock"
    with false_agent(path) as server:
        (tmp_path / "place").mkdir()
        command = [build / "mayfly", "cp", "--agent-socket", path, ":/x", tmp_path / "place"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process, Peer(server.accept()[0]) as peer:
            peer.receive()
            peer.send(frame(DONE) + entry(FILE, "") + frame(DATA, b"half"))
            deadline = time.monotonic() + PATIENCE
            while not any((tmp_path / "place").iterdir()):
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == -signal.SIGINT
            assert list((tmp_path / "place").iterdir()) == []


def test_a_guest_that_cannot_write_says_so_at_once(mayfly: Mayfly, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.write(os.urandom(4 << 20))
    (tmp_path / "place/big").mkdir(parents=True)
    (tmp_path / "place/big/kept").write_text("x")
    refused = mayfly("cp", big, f":{tmp_path}/place")
    assert refused.returncode == 1
    assert b"cannot put big in place: Is a directory" in refused.stderr
    assert [each.name for each in (tmp_path / "place").iterdir()] == ["big"]


def test_progress_is_shown_on_a_terminal_after_a_second(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "slow.sock"
    with false_agent(path) as server:
        words = [str(build / "mayfly"), "cp", "--agent-socket", str(path), ":/x", str(tmp_path / "copy")]
        with Terminal(words, 24, 80) as terminal, Peer(server.accept()[0]) as peer:
            peer.receive()
            begun = time.monotonic()
            peer.send(frame(DONE) + entry(FILE, ""))
            while not select.select([terminal.master], [], [], 0.05)[0]:
                peer.send(frame(DATA, bytes(1024)))
                assert time.monotonic() - begun < PATIENCE
            assert time.monotonic() - begun >= 0.9
            terminal.wait_for(b"1 files, 0 MiB")
            peer.send(frame(TREE_END))
            terminal.ends_with(0)
