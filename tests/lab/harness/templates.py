"""Templates that the cases of several files start clones of. They are built once, in a lab of their own, and kept in the cache
until anything that they are made of changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from functions import HELLO, PORT, busybox_layer, python_image, static_image
from images import Image

from harness.artifacts import artifact
from harness.cache import cache_root, cached
from harness.guests import CHECKOUT, tool
from harness.host_agent import FUNCTION

HANGS, DIES = "/cgi-bin/hangs", "/cgi-bin/dies"
PROGRAMS = ("mayfly", "mayfly-template", "mayfly-guest-init", "mayfly-guest-agent")
APPLETS = (
    "sh", "cat", "echo", "head", "hostname", "httpd", "id", "ip", "killall", "ls", "nc", "ps", "sleep", "tail", "tr", "true", "wget",
)  # fmt: skip
LAB_SECONDS = 900


def function_image(layout: Path, **run: object) -> None:
    """Busybox, and what it serves from /www, as another user than root: a file, and CGI programs."""
    layer = busybox_layer(*APPLETS)
    layer.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/www:/bin/sh\n")
    layer.folder("tmp", mode=0o1777).folder("data", uid=33, gid=33)
    layer.file("www/index.html", HELLO)
    layer.file(f"www{FUNCTION}", (CHECKOUT / "tests/host-agent/linux_function").read_bytes(), mode=0o755)
    layer.file(f"www{HANGS}", b"#!/bin/sh\nexec sleep 100000\n", mode=0o755)
    layer.file(f"www{DIES}", b"#!/bin/sh\nkillall -9 httpd\n", mode=0o755)  # which ends the machine, too
    Image([layer.bytes()], run={"User": "web", "Env": ["PATH=/bin"], **run}).layout(layout)


def serves_files(layout: Path, _: Path) -> None:
    serve = ["/bin/httpd", "-f", "-v", "-p", str(PORT), "-h", "/www"]
    function_image(layout, Entrypoint=serve, ExposedPorts={f"{PORT}/tcp": {}})


def sleeps(layout: Path, _: Path) -> None:
    function_image(layout, Entrypoint=["/bin/sleep", "100000"])


def drains(layout: Path, _: Path) -> None:
    """Takes longer to end than init waits where nobody says how long."""
    script = "trap 'sleep 11; echo drained; exit' TERM; while :; do sleep 1; done"
    function_image(layout, Entrypoint=["/bin/sh", "-c", script])


def is_in_python(layout: Path, _: Path) -> None:
    python_image(layout)


def is_static(layout: Path, build: Path) -> None:
    static_image(layout, build / "tests/images/static_function")


# What makes the image's layout, and options of the build.
TEMPLATES: dict[str, tuple[Callable[[Path, Path], None], list[str]]] = {
    "function": (serves_files, ["--warm-up", FUNCTION]),
    "python": (is_in_python, ["--warm-up", "/", "--patience", "240"]),
    "static": (is_static, ["--warm-up", "/"]),
    "sleeper": (sleeps, []),
    "drains": (drains, []),
}

# In the lab: $1 is the kernel, $2 the programs' directory, $3 that of the layouts; then a name and options of the build each.
BUILD = r"""
set -eu
kernel=$1 programs=$2 layouts=$3
shift 3
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for each; do
  set -- $each
  name=$1
  shift
  "$programs/mayfly-template" build --image "$layouts/$name" --output "$name" --kernel "$kernel" --disk 64M "$@" \
    > "$name.said"
  tar --create --sparse --file "$LAB_SHARE/$name.tar" "$name" "$name.said"
done
"""


def described_host(cpuinfo: str) -> list[object]:
    """What a lab gets from this host, and a clone is refused without: features of the CPU, the rate of its counter. Where KVM can be
    used, this host may be the lab."""
    cpu = dict(re.findall(r"^(model name|flags|cpu MHz)\t+: (.*)$", cpuinfo.partition("\n\n")[0], re.MULTILINE))
    is_virtual = "hypervisor" in cpu["flags"].split()  # others say another rate each time, and the lab measures it
    rate = round(float(cpu["cpu MHz"])) if is_virtual else None
    return [cpu["model name"], cpu["flags"], rate, os.uname().release, os.access("/dev/kvm", os.R_OK | os.W_OK)]


def digest_of_inputs(kernel: Path, build: Path, lab: Path, layouts: Path) -> str:
    """Of all that a template is made of and by."""
    digest = hashlib.sha256()
    tools = [lab, *sorted(each for each in (CHECKOUT / "tests/lab/qemu").rglob("*") if each.is_file())]
    images = sorted(each for each in layouts.rglob("*") if each.is_file())
    for file in [kernel, *(build / name for name in PROGRAMS), *tools, *images]:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    lab_kernels = sorted(each.name for each in (cache_root() / "lab-kernel").glob("[0-9]*"))
    host = described_host(Path("/proc/cpuinfo").read_text())
    commands = {name: words for name, (_, words) in TEMPLATES.items()}
    digest.update(json.dumps([BUILD, commands, lab_kernels, host]).encode())
    return digest.hexdigest()


@artifact
def template_archives(directory: Path, build: Path, lab: Path) -> Path:
    """A directory with NAME.tar of each: the template, and beside it NAME.said, what the build has printed."""
    layouts = directory / "layouts"
    for name, (make_layout, _) in TEMPLATES.items():
        make_layout(layouts / name, build)
    kernel = tool("build-kernel", "--print-path")

    def fill(place: Path) -> None:
        commands = [shlex.join([name, *words]) for name, (_, words) in TEMPLATES.items()]
        subprocess.run([lab, "--cpus", "1", "--timeout", str(LAB_SECONDS), "--share", place, "--", "sh", "-c", BUILD, "sh",
                        kernel, build, layouts, *commands], check=True)  # fmt: skip

    return cached("lab-templates", digest_of_inputs(kernel, build, lab, layouts), fill)


SharedTemplate = Callable[[str], Path]


@pytest.fixture(scope="session")
def shared_template(template_archives: Path) -> Iterator[SharedTemplate]:
    """shared_template(NAME): a template that no case may change."""
    with tempfile.TemporaryDirectory(prefix="mayfly-") as name:
        room = Path(name)
        room.chmod(0o755)

        def template(name: str) -> Path:
            if not (room / name).exists():
                subprocess.run(["tar", "--extract", "--file", template_archives / f"{name}.tar", "--directory", room], check=True)
            return room / name

        yield template


def template_at_port(template: Path, port: int, place: Path) -> Path:
    """The same machine, said to serve there."""
    shutil.copytree(template, place, copy_function=os.link)
    described = json.loads((template / "template.json").read_text())
    described["machine"]["ready_port"] = port
    (place / "template.json").unlink()
    (place / "template.json").write_text(json.dumps(described))
    return place
