"""Images of functions that serve HTTP at port 8080: in Python, by this host's own interpreter; one static program in C++ and nothing
else; and of busybox."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from images import Image, Layer

PORT = 8080
INTERPRETER = Path("/usr/bin/python3")  # whose library sysconfig names: run this by it
HELLO = b"hello from a clone\n"
SERVER = """\
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"hello from a clone\\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
LEFT_OUT = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "__pycache__", "dist-packages", "site-packages"}


def add_file(layer: Layer, path: Path) -> None:
    layer.file(str(path).lstrip("/"), path.resolve().read_bytes(), mode=path.stat().st_mode & 0o755)


def libraries_of(*programs: Path) -> list[Path]:
    """The shared libraries that they are linked with, by the names under which they are looked for."""
    found: set[Path] = set()
    for program in programs:
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        found.update(Path(word) for line in said.splitlines() for word in line.split() if word.startswith("/"))
    return sorted(found)


def python_layer() -> Layer:
    layer = Layer().folder(".", mode=0o755)
    interpreter = INTERPRETER.resolve()
    library = Path(sysconfig.get_path("stdlib"))
    extensions = sorted(library.glob("lib-dynload/*.so"))
    for file in [interpreter, *libraries_of(interpreter, *extensions)]:
        add_file(layer, file)
    for folder, names, files in os.walk(library):
        names[:] = sorted(set(names) - LEFT_OUT)
        for name in sorted(files):
            add_file(layer, Path(folder) / name)
    return layer


def python_image(layout: Path, *, filler_mib: int = 0) -> float:
    """With as much of this host's libraries besides, as images have. Returns the MiB of its layers, not packed."""
    layers = [busybox_layer("sh", "true").bytes(), python_layer().bytes()]
    layers.append(Layer().file("function.py", SERVER.encode()).file("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n").bytes())
    if filler_mib:
        filler, left = Layer(), filler_mib << 20
        for file in sorted(Path("/usr/lib").rglob("*.so*")):
            if left <= 0:
                break
            if file.is_file() and not file.is_symlink():
                filler.file(f"opt/{file.name}", file.read_bytes()[:left])
                left -= file.stat().st_size
        layers.append(filler.bytes())
    interpreter = str(INTERPRETER.resolve())
    Image(layers, run={"Entrypoint": [interpreter, "-B", "/function.py"], "User": "web", "ExposedPorts": {f"{PORT}/tcp": {}}}).layout(layout)
    return sum(map(len, layers)) / (1 << 20)


def static_image(layout: Path, program: Path) -> None:
    """static_function.cpp, from scratch: no shell, no library, no accounts, and no directory but what init makes."""
    layer = Layer().file("function", program.read_bytes(), mode=0o755)
    run = {"Entrypoint": ["/function"], "User": "33:33", "ExposedPorts": {f"{PORT}/tcp": {}}}
    Image([layer.bytes()], run=run).layout(layout)


def busybox_layer(*applets: str, mode: int = 0o755) -> Layer:
    """`mode` is the root's."""
    binary = shutil.which("busybox")
    assert binary is not None, "busybox is missing (package busybox-static)"
    layer = Layer().folder(".", mode=mode).file("bin/busybox", Path(binary).read_bytes(), mode=0o755)
    for applet in applets:
        layer.link(f"bin/{applet}", "busybox")
    return layer


def make_initrd(output: Path, binaries: Path, run_file: bytes) -> None:
    """As `mayfly-template build` makes it for guests of images."""
    with tempfile.TemporaryDirectory() as name:
        inside = Path(name)
        (inside / "mayfly").mkdir()
        (inside / "mayfly/run").write_bytes(run_file)
        shutil.copy(binaries / "mayfly-guest-init", inside / "init")
        shutil.copy(binaries / "mayfly-guest-agent", inside / "mayfly/agent")
        with output.open("wb") as archive:
            subprocess.run("find . | cpio --quiet -o -H newc", shell=True, cwd=inside, stdout=archive, check=True)
