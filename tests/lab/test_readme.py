"""The commands of README.md as they stand there, `mayfly top` in a terminal, and completions.

Here what builds; in the lab what runs machines. There the network, /run, /srv, /usr/local and the binaries in /usr/bin are
the test's own. Where README.md says how a monitor is started, it is started so; all others are in jails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from functions import HELLO, PORT, busybox_layer
from harness.api import Api
from harness.artifacts import artifact
from harness.console import PATIENCE
from harness.guests import CHECKOUT, Guest, build_rootfs, with_libraries
from harness.machine import BASE_ARGUMENTS, LOOK_AGAIN, POWERED_OFF, RESET, Machine, Machines
from harness.network import Network
from images import Image
from reader import KNOWN, Shell, Terminal, command_of, commands_of_readme, covers, run_on_terminal

in_lab = pytest.mark.lab

PACKAGES, BUILD, DEMO = "line .ci/install-packages", "line cmake --preset release", "line ./demo"
KNOWN += [PACKAGES, BUILD, DEMO, "line ./check"]  # which runs this test
VM_SOCKET = Path("/run/vm.sock")
LEFT_BY_THE_ESCAPE = 16  # exit code of a monitor that Ctrl-A x ended


# --- Here ------------------------------------------------------------------------------------------------------------


def test_every_command_is_known() -> None:
    """Each command begins as one does that a case runs, and each of those is there."""
    commands = commands_of_readme()
    assert commands
    assert [command for command in commands if not command.startswith(tuple(KNOWN))] == [], "no case runs these commands"
    gone = [known for known in KNOWN if not any(command.startswith(known) for command in commands)]
    assert gone == [], "README.md has no command any more that begins so"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("beginning", [PACKAGES, BUILD, DEMO], ids=["packages", "build", "demo"])
def test_here(beginning: str) -> None:
    subprocess.run(["bash", "-c", command_of(beginning)], cwd=CHECKOUT, stdin=subprocess.DEVNULL, check=True)


@pytest.mark.timeout(3600)
@covers(
    "line rootfs-tools/build-kernel",
    "line rootfs-tools/build-initrd",
    "line rootfs-tools/build-rootfs",
    "line truncate",
    "line tests/lab/lab build/release/mayfly run",
)
def test_first_guest(commands: list[str], room: Path) -> None:
    """In a directory that looks like the checkout, in which nobody else's files are overwritten."""
    made = {"vmlinux", "initrd", "rootfs.ext4", "data.img"}
    for entry in CHECKOUT.iterdir():
        if entry.name not in made:
            (room / entry.name).symlink_to(entry)

    def status_of(command: str) -> int:
        with (room / "said").open("wb") as said:
            return subprocess.run(
                ["bash", "-c", command], cwd=room, stdin=subprocess.DEVNULL, stdout=said, check=False
            ).returncode

    for command in commands[:-1]:
        assert status_of(command) == 0
    assert made <= set(os.listdir(room))
    assert status_of(commands[-1]) == POWERED_OFF
    assert has_line("^Linux .* x86_64", (room / "said").read_text())


@covers("row `mayfly-template base --image FILE --output FILE [--config FILE]`")
def test_template(room: Path, build: Path) -> None:
    """An image without layers, as docker save writes it."""
    (room / "image").mkdir()
    configuration = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]}, "rootfs": {"diff_ids": []}}
    (room / "image/config.json").write_text(json.dumps(configuration))
    (room / "image/manifest.json").write_text('[{"Config":"config.json","RepoTags":["app:1"],"Layers":[]}]')
    files = ["--image", room / "image", "--output", room / "app.squashfs", "--config", room / "app.json"]
    subprocess.run([build / "mayfly-template", "base", *files], check=True)
    assert (room / "app.squashfs").read_bytes().startswith(b"hsqs")
    assert json.loads((room / "app.json").read_text())["cmd"] == ["/bin/sh"]


# --- Where a reader of it would be -----------------------------------------------------------------------------------


@artifact
def root_with_curl(directory: Path) -> Path:
    return build_rootfs(directory / "root-with-curl", "--size", "128M", *with_libraries("curl"))


@pytest.fixture(scope="module")
def installed(build: Path) -> Iterator[None]:
    """The binaries are in /usr/bin; /run, /srv and /usr/local are empty. What is mounted ends with the batch's namespace."""
    layer = Path(tempfile.mkdtemp())  # not within what machines in jails are given

    def mount(kind: str, options: str, at: Path) -> None:
        subprocess.run(["mount", "-t", kind, "-o", options, "none", str(at)], check=True)

    mount("tmpfs", "mode=755", layer)
    (layer / "upper").mkdir()
    (layer / "work").mkdir()
    mount("overlay", f"lowerdir=/usr/bin,upperdir={layer}/upper,workdir={layer}/work", Path("/usr/bin"))
    for name in ("mayfly", "mayfly-jailer", "mayfly-template"):
        shutil.copy(build / name, "/usr/bin")
    guests = Path("/usr/libexec/mayfly")
    guests.mkdir(exist_ok=True, parents=True)
    for name in ("mayfly-guest-init", "mayfly-guest-agent"):
        shutil.copy(build / name, guests)
    for directory in ("/run", "/srv", "/usr/local"):
        mount("tmpfs", "mode=755", Path(directory))
    yield
    subprocess.run(["umount", "--lazy", "/usr/bin", str(layer), "/run", "/srv", "/usr/local"], check=True)
    layer.rmdir()


@pytest.fixture
def commands(request: pytest.FixtureRequest) -> list[str]:
    """Those that the case covers, in its order."""
    return [command_of(beginning) for beginning in request.node.get_closest_marker("covers").args]


@pytest.fixture
def files(room: Path, tuned: Path, initrd: Path, root_with_curl: Path, network: Network) -> Path:
    """A directory with what the commands name, beside a TAP."""
    shutil.copy(tuned, room / "vmlinux")
    shutil.copy(initrd, room / "initrd")
    with (room / "data.img").open("wb") as image:
        image.truncate(8 << 20)
    copy_sparse(root_with_curl, room / "rootfs.ext4")
    network.tap("tap0", "10.9.0.1/24")
    return room


def copy_sparse(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)


@pytest.fixture
def shell_in(room: Path, installed: None) -> Iterator[Callable[[Path], Shell]]:
    """A shell in a directory."""
    shells: list[Shell] = []

    def shell_in(directory: Path) -> Shell:
        shells.append(Shell(directory, room))
        return shells[-1]

    yield shell_in
    for shell in shells:
        shell.end()


def answer_of(path: Path) -> str:
    """To GET /, once somebody listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Api(path).request("GET", "/")
        except OSError as error:
            assert time.monotonic() < deadline, f"{path}: {error}"
            time.sleep(LOOK_AGAIN)  # that a socket listens is no event for others


def mayfly_says(*words: str) -> str:
    """What a command prints, which succeeds."""
    return subprocess.run(["mayfly", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout


def has_line(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.MULTILINE) is not None


# --- Cases -----------------------------------------------------------------------------------------------------------


@in_lab
@covers(
    "line mayfly --api-sock /run/vm.sock",
    "line api()",
    "line api PUT /machine-config",
    "line api PUT /boot-source",
    "line api PUT /drives/data",
    "line api PUT /network-interfaces/eth0",
    "line api PUT /actions",
    "line api PATCH /vm",
)
def test_requests(commands: list[str], files: Path, shell_in: Callable[[Path], Shell]) -> None:
    monitor, api, *requests = commands
    shell = shell_in(files)
    process = shell.type(monitor).process
    shell.type(api)
    answer_of(VM_SOCKET)
    for request in requests:
        shell.accept(request)
    assert "Paused" in answer_of(VM_SOCKET)
    os.kill(process, signal.SIGTERM)
    assert shell.status_of(process) == 128 + signal.SIGTERM


@in_lab
@covers(
    "line mayfly --api-sock /run/vm.sock",
    "line api()",
    "line api PUT /mmds/config",
    "line api PUT /mmds ",
    "line token=$(curl",
    'line curl -H "X-metadata-token',
)
def test_metadata(commands: list[str], files: Path, tuned: Path, shell_in: Callable[[Path], Shell]) -> None:
    monitor, api, configuration, metadata, *in_guest = commands
    shell = shell_in(files)
    typed = shell.type(monitor)
    shell.type(api)
    answer_of(VM_SOCKET)
    network = "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; ip route add 169.254.169.254 dev eth0"
    script = "\n".join([network, *in_guest, "exit", ""])
    (files / "guest-script").write_text(script.ljust(4096, "\n"))
    requests = Api(VM_SOCKET)
    requests.put("/machine-config", vcpu_count=1, mem_size_mib=256)
    for name, image, is_root in (("rootfs", "rootfs.ext4", True), ("script", "guest-script", False)):
        requests.put(f"/drives/{name}", drive_id=name, path_on_host=str(files / image), is_root_device=is_root)
    requests.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name="tap0")
    arguments = f'{BASE_ARGUMENTS} mayfly.run="cp /dev/vdb /tmp/s; sh /tmp/s"'
    requests.put("/boot-source", kernel_image_path=str(tuned), boot_args=arguments)
    shell.accept(configuration)
    shell.accept(metadata)
    requests.put("/actions", action_type="InstanceStart")
    assert shell.status_of(typed.process) == POWERED_OFF
    assert has_line("^ami-1", typed.said), typed.said


@in_lab
@covers("line mayfly run -k vmlinux", "row `mayfly run --kernel FILE [--initrd FILE] [--drive ...] [--net ...]`")
def test_run(commands: list[str], files: Path, installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    keys = b"mount | head -n 1\npoweroff\n"
    status, shown = run_on_terminal(commands[0], keys, ready="mayfly-init: ready")
    assert status == POWERED_OFF
    assert " on / type ext4" in shown


@in_lab
@covers(
    "row `mayfly drive info FILE...`",
    "row `mayfly drive export --base FILE --overlay FILE --output FILE`",
    "row `mayfly drive commit --base FILE --overlay FILE`",
)
def test_drives_in_layers(commands: list[str], files: Path, installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    run = "mayfly run -k vmlinux --drive "
    before = (files / "rootfs.ext4").stat().st_mtime_ns
    keys = b"echo $((40 + 2)) >/answer\npoweroff\n"
    status, _ = run_on_terminal(run + "base=rootfs.ext4,overlay=vm-1.overlay,root", keys, ready="mayfly-init: ready")
    assert status == POWERED_OFF
    assert (files / "rootfs.ext4").stat().st_mtime_ns == before
    assert "over a raw image" in mayfly_says("drive", "info", "vm-1.overlay")
    mayfly_says("drive", "export", "--base", "rootfs.ext4", "--overlay", "vm-1.overlay", "--output", "changed.ext4")
    mayfly_says("drive", "commit", "--base", "rootfs.ext4", "--overlay", "vm-1.overlay")
    assert not (files / "vm-1.overlay").exists()
    assert (files / "rootfs.ext4").read_bytes() == (files / "changed.ext4").read_bytes()
    keys = b"cat /answer\npoweroff\n"
    status, shown = run_on_terminal(run + "changed.ext4,root", keys, ready="mayfly-init: ready")
    assert status == POWERED_OFF
    assert has_line("^42", shown)


@pytest.fixture
def clean_vm_1() -> Iterator[None]:
    """Whatever becomes of the case."""
    yield
    for command in ("mayfly stop --now vm-1", "mayfly-jailer cleanup vm-1", "ip netns del vm-1"):
        subprocess.run(command.split(), stderr=subprocess.DEVNULL, check=False)


@in_lab
@covers(
    "line install -d",
    "line ip netns add vm-1",
    "line mayfly-jailer --id vm-1",
    "row `mayfly-jailer --id ID --exec-file FILE --uid UID --gid GID ... -- FLAGS`",
    "row `mayfly-jailer cleanup ID`",
)
def test_jail(commands: list[str], room: Path, shell_in: Callable[[Path], Shell], clean_vm_1: None) -> None:
    shell = shell_in(room)
    for command in commands[:3]:
        assert shell.type(command).status == 0
    answer_of(Path("/srv/jailer/mayfly/vm-1/root/api.sock"))
    assert has_line("^vm-1 +[0-9]+ +30001 +Not started ", mayfly_says("ps"))
    mayfly_says("stop", "--now", "vm-1")
    subprocess.run(["mayfly-jailer", "cleanup", "vm-1"], check=True)
    assert not Path("/srv/jailer/mayfly/vm-1").exists()


@in_lab
@covers("row `mayfly --config-file FILE [--no-api]`")
def test_configuration_file(commands: list[str], room: Path, tuned_guest: Guest, installed: None) -> None:
    source = {
        "kernel_image_path": str(tuned_guest.kernel),
        "initrd_path": str(tuned_guest.initrd),
        "boot_args": f"{BASE_ARGUMENTS} mayfly.run=true",
    }
    configuration = {"boot-source": source, "machine-config": {"vcpu_count": 1, "mem_size_mib": 128}}
    (room / "vm.json").write_text(json.dumps(configuration))
    for more in (["--no-api"], []):
        command = ["mayfly", "--config-file", "vm.json", *more]
        assert subprocess.run(command, cwd=room, stdin=subprocess.DEVNULL, check=False).returncode == POWERED_OFF


@in_lab
@covers(
    "row `mayfly --api-sock PATH`",
    "row `mayfly ps`",
    "row `mayfly top`",
    "row `mayfly pause`, `resume`, `stop`, `config`, `metrics` `ID`",
    "row `mayfly snapshot create ID --state FILE --memory FILE [--diff] [--live] [--freeze ID=FILE]`",
    "row `mayfly snapshot verify --state FILE --memory FILE`",
    "row `mayfly snapshot merge --base FILE --diff FILE --output FILE`",
    "row `mayfly snapshot sweep DIRECTORY...`",
    "row `mayfly --describe-snapshot FILE`",
    "row `mayfly restore --state FILE --memory FILE [--tap ID=NAME] [--drive ID=PATH [--base ID=PATH]]`",
)
def test_other_processes(
    commands: list[str],
    installed: None,
    machine: Machine,
    stock_guest: Guest,
    files: Path,
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is asked of a machine in another process, and of a snapshot of it."""
    monkeypatch.chdir(files)
    machine.add_drive("data", files / "data.overlay", base_path=str(files / "data.img"))
    machine.add_interface("eth0", "tap0")
    machine.boot(stock_guest, mib=256)
    machine.wait_until_ready()
    name = machine.name

    assert has_line(f"^{name} .* Running ", mayfly_says("ps"))
    for _ in range(5):  # a software CPU may answer late
        table = mayfly_says("top")
        if has_line(f"^{name} .* Running .*[0-9][KM]?$", table):
            break
    assert has_line("^ID .* EXIT/s$", table) and has_line(f"^{name} .* Running .*[0-9][KM]?$", table), table
    mayfly_says("pause", name)
    assert has_line(f"^{name} .* Paused ", mayfly_says("ps"))
    mayfly_says("resume", name)
    assert json.loads(mayfly_says("config", name))["machine-config"]["mem_size_mib"] == 256
    assert has_line("^mayfly_vcpu_exit_io_out_total [1-9]", mayfly_says("metrics", name))

    mayfly_says("snapshot", "create", name, "--state", "state", "--memory", "memory")
    machine.type("echo between the two $((1 + 1))")
    machine.console.wait_for("between the two 2")
    more = ["--diff", "--freeze", "data=data.frozen"]
    mayfly_says("snapshot", "create", name, "--state", "state-2", "--memory", "diff", *more)
    assert "both files are whole" in mayfly_says("snapshot", "verify", "--state", "state", "--memory", "memory")
    assert "the memory is a diff" in mayfly_says("snapshot", "verify", "--state", "state-2", "--memory", "diff")
    mayfly_says("snapshot", "merge", "--base", "memory", "--diff", "diff", "--output", "memory-2")
    assert "both files are whole" in mayfly_says("snapshot", "verify", "--state", "state-2", "--memory", "memory-2")
    Path("left.mayfly-new").touch()
    assert "removed ./left.mayfly-new" in mayfly_says("snapshot", "sweep", ".")
    assert json.loads(mayfly_says("--describe-snapshot", "state-2"))["id"]
    network.tap("tap1", "10.9.1.1/24")
    # A restored guest says that it is ready when it is asked to.
    status, _ = run_on_terminal(
        "mayfly restore --state state-2 --memory memory-2 --tap eth0=tap1 --drive data=clone.overlay",
        b"\x01x",
        ready="answered 42",
        ask=b"echo answered $((40 + 2))\n",
    )
    assert status == LEFT_BY_THE_ESCAPE
    mayfly_says("stop", name, "--timeout", "120")
    machine.ends_with(RESET)


@in_lab
@covers(
    "line mayfly-template build",
    "line id=$(mayfly up",
    "line mayfly exec $id",
    "line mayfly logs $id",
    "line mayfly down $id",
    "row `mayfly-template build --image FILE --output DIRECTORY [--warm-up PATH]`",
    "row `mayfly-template verify TEMPLATE`",
    "row `mayfly up TEMPLATE`, `mayfly down ID`",
    "row `mayfly exec [-i] [-t] ID -- COMMAND`",
    "row `mayfly cp ID:PATH PATH`",
    "row `mayfly logs ID [-f]`",
)
def test_function_of_an_image(commands: list[str], room: Path, tuned: Path, shell_in: Callable[[Path], Shell]) -> None:
    shutil.copy(tuned, room / "vmlinux")
    layer = busybox_layer("sh", "httpd", "wget").file("www/index.html", HELLO)
    serve = ["/bin/httpd", "-f", "-v", "-p", str(PORT), "-h", "/www"]
    Image([layer.bytes()], run={"Entrypoint": serve, "ExposedPorts": {f"{PORT}/tcp": {}}}).layout(room / "layout")
    subprocess.run(["tar", "-cf", room / "app.tar", "-C", room / "layout", "."], check=True)
    shell = shell_in(room)
    build, up, fetch, logs, down = commands[:5]
    for command in (build, up):
        assert shell.type(command).status == 0
    assert shell.type(fetch).said == HELLO.decode()
    assert "response:200" in shell.type(logs).said
    verified = shell.type("mayfly-template verify /srv/app.template")
    assert verified.status == 0 and "files are as they were built" in verified.said
    assert shell.type("mayfly cp $id:/www/index.html copy").status == 0
    assert (room / "copy").read_bytes() == HELLO
    assert shell.type(down).status == 0
    assert mayfly_says("ps").splitlines()[1:] == []


@in_lab
@covers("row `mayfly revert ID`")
def test_revert(commands: list[str], installed: None, machines: Machines, tuned_guest: Guest) -> None:
    parent = machines.start()
    parent.boot(tuned_guest)
    parent.wait_until_ready()
    parent.freeze("back")
    machine = machines.thaw("back", revertible=True)
    machine.type("touch /tmp/here; ls /tmp")
    machine.console.wait_for("^here")
    mayfly_says("revert", machine.name)
    machine.type("test -e /tmp/here || echo not there $((40 + 2))")
    machine.console.wait_for("^not there 42")


@in_lab
@covers("row `mayfly branch ID [--children N] [--tap ID=NAME]`")
def test_branch(commands: list[str], installed: None, machines: Machines, tuned_guest: Guest) -> None:
    parent = machines.start("--branches")
    parent.boot(tuned_guest)
    parent.wait_until_ready()
    parent.type("echo branched $((40 + 2))")
    parent.console.wait_for("^branched 42")
    made = mayfly_says("branch", parent.name, "--children", "2").split()
    assert made[0::3] == [f"{parent.name}-1", f"{parent.name}-2"]
    listed = mayfly_says("ps")
    for child in made[0::3]:
        assert re.search(rf"^  {child} .*Running", listed, re.MULTILINE)
        mayfly_says("stop", "--now", child)
    parent.type("echo still $((40 + 2))")
    parent.console.wait_for("^still 42")


@in_lab
@covers("row `mayfly doctor`")
def test_doctor(commands: list[str], installed: None) -> None:
    assert "kvm" in mayfly_says("doctor")


@in_lab
@covers("row `mayfly doctor --cpu [FILE...]`")
def test_doctor_of_cpus(commands: list[str], installed: None, room: Path) -> None:
    here = mayfly_says("doctor", "--cpu")
    assert json.loads(here)["cpuid_modifiers"]
    files = [room / name for name in ("a.json", "b.json")]
    for file in files:
        file.write_text(here)
    assert mayfly_says("doctor", "--cpu", *map(str, files)) == here


@in_lab
@covers(
    "line build/release/tests/host-agent/host_agent",
    "line curl -d hello http://127.0.0.1:8080/",
    "line curl http://127.0.0.1:8080/stats",
)
def test_host_agent(commands: list[str], loopback: None, shell_in: Callable[[Path], Shell]) -> None:
    agent, request, stats = commands
    shell = shell_in(CHECKOUT)
    typed = shell.type(agent)
    deadline = time.monotonic() + PATIENCE
    while not has_line("^ready: ", typed.said):
        assert time.monotonic() < deadline, f"the agent says: {typed.said}"
        time.sleep(LOOK_AGAIN)
    for _ in range(5):  # a software CPU may be later than the agent's deadline
        answer = shell.type(request)
        assert answer.status == 0
        if answer.said == "HELLO\n":
            break
    assert has_line("^HELLO$", answer.said), answer.said
    assert has_line('"answered":[1-9]', shell.type(stats).said)


@in_lab
@covers("line cmake --install build/release")
def test_install(commands: list[str], shell_in: Callable[[Path], Shell]) -> None:
    assert shell_in(CHECKOUT).type(commands[0]).status == 0
    local = Path("/usr/local")
    for name in ("mayfly", "mayfly-jailer", "mayfly-template"):
        subprocess.run([local / "bin" / name, "--version"], check=True)
        assert (local / f"share/man/man1/{name}.1").stat().st_size > 0
    for check in (
        "bash -n share/bash-completion/completions/mayfly",
        "zsh -n share/zsh/site-functions/_mayfly",
        "fish --no-execute share/fish/vendor_completions.d/mayfly.fish",
    ):
        subprocess.run(check.split(), cwd=local, check=True)


# --- Cases: in a terminal --------------------------------------------------------------------------------------------


@pytest.fixture
def open_terminal(room: Path, installed: None) -> Iterator[Callable[[str], Terminal]]:
    """Shows a command; the one before is closed."""
    opened: list[Terminal] = []

    def open_terminal(command: str) -> Terminal:
        while opened:
            opened.pop().close()
        opened.append(Terminal(room, 100, 12, command))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.close()


@in_lab
def test_background(build: Path, room: Path, installed: None) -> None:
    """A shell's job in the background, as README.md starts it, is not stopped because its console reads the terminal."""
    shutil.copy(build / "guests/spin", room)
    terminal, shells = os.openpty()
    words = ["env", "--default-signal=TTIN", "setsid", "--ctty", "--wait", "bash", "-mc"]  # none ignored from here on
    words.append(f"mayfly --api-sock {room}/api.sock & read -r _")
    shell = subprocess.Popen(words, stdin=shells, stdout=shells, stderr=shells)
    os.close(shells)
    try:
        assert "Not started" in answer_of(room / "api.sock")
        api = Api(room / "api.sock")
        api.put("/boot-source", kernel_image_path=str(room / "spin"))
        api.put("/actions", action_type="InstanceStart")
        mayfly_says("pause", str(room / "api.sock"))
        assert "Paused" in answer_of(room / "api.sock")
        mayfly_says("stop", "--now", str(room / "api.sock"))
    finally:
        os.close(terminal)  # hangs up
        shell.wait()


class Top:
    """`mayfly top` in a terminal, and the terminal's settings before and after it."""

    def __init__(self, room: Path, open_terminal: Callable[[str], Terminal]) -> None:
        self._room = room
        run = f"sh -c 'echo $$ >{room}/top.pid; exec mayfly top --interval 0.5'"
        self.terminal = open_terminal(
            f'stty -g >{room}/before; {run}; code=$?; stty -g >{room}/after; echo "ended $code"; echo; read -r _'
        )

    def signal(self, number: signal.Signals) -> None:
        os.kill(int((self._room / "top.pid").read_text()), number)

    def gave_the_terminal_back(self, code: int) -> None:
        """The shell's own screen, a cursor and the settings of before."""
        self.terminal.shows(rf"^ended {code}$")
        assert self.terminal.is_the_shells
        assert (self._room / "before").read_bytes() == (self._room / "after").read_bytes()


@in_lab
def test_top(build: Path, room: Path, machines: Machines, open_terminal: Callable[[str], Terminal]) -> None:
    shutil.copy(build / "guests/spin", room)
    running, never_started, stopped = (machines.start() for _ in range(3))
    running.api.put("/boot-source", kernel_image_path=str(room / "spin"))
    running.start()
    os.kill(stopped.process.pid, signal.SIGSTOP)

    top = Top(room, open_terminal)
    terminal = top.terminal
    terminal.shows(rf"^{running.name} +[0-9]+ Running +[1-9][0-9]*\.[0-9] ")
    terminal.shows(f"^{never_started.name} +[0-9]+ Not started ")
    terminal.shows(f"^{stopped.name} +[0-9]+ no answer ")
    terminal.shows("^3 machines, 1 running, .* by CPU$")
    running.pause()  # what follows needs the CPU
    terminal.press("i")
    terminal.shows(" by id$")
    terminal.resize(75, 5)
    terminal.shows(" by id, rows 1 to 2$")
    terminal.shows("^ID +STATE ")
    terminal.press("Down")
    terminal.shows(" rows 2 to 3$")
    terminal.resize(100, 12)
    terminal.shows(" by id$")
    terminal.press("q")
    top.gave_the_terminal_back(0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV):
        top = Top(room, open_terminal)
        top.terminal.shows("^3 machines")
        top.signal(number)
        top.gave_the_terminal_back(128 + number)


@artifact
def zsh_dump(directory: Path) -> Path:
    """What zsh knows of its completions, for which it reads nine hundred files."""
    path = directory / "zsh-dump"
    subprocess.run(["zsh", "-f", "-c", f"autoload -Uz compinit && compinit -u -d '{path}'"], check=True)
    return path


@in_lab
def test_completion(room: Path, machine: Machine, open_terminal: Callable[[str], Terminal], zsh_dump: Path) -> None:
    for shell in ("bash", "fish", "zsh"):
        (room / f"complete.{shell}").write_text(mayfly_says("completion", shell))
    asked = "; ".join(f"complete -C '{words}'" for words in ("mayfly snapsh", "mayfly run --kern", "mayfly pause la"))
    offered = subprocess.run(
        ["fish", "--no-config", "-c", f"source '{room}/complete.fish'; {asked}"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    for pattern in ("^snapshot", "^--kernel", f"^{machine.name}"):
        assert has_line(pattern, offered), offered
    for start, load, end in (
        ("exec bash --norc --noprofile -i", f". '{room}/complete.bash'", " "),
        # It takes the space behind a word back where "|" follows.
        ("exec zsh -f -i", f"autoload -Uz compinit && compinit -C -u -d '{zsh_dump}' && . '{room}/complete.zsh'", ""),
    ):
        terminal = open_terminal(start)
        terminal.press(f'{load}; echo READ""Y', "Enter")
        terminal.shows("^READY")
        terminal.press("mayfly snapsh", "Tab", "--h", "Tab", "Enter")
        terminal.shows("Take a snapshot")
        terminal.press("mayfly config la", "Tab", "| head -c 9", "Enter")
        terminal.shows(f"mayfly config {machine.name}{end}")
