"""The images that are compared: each one a trap, or several, that layers have for whoever extracts them."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from images import Layer, tar_of

Layers = list[bytes]
# By name. Each is given a directory to work in.
IMAGES: dict[str, Callable[[Path], Layers]] = {}


def image(make: Callable[[Path], Layers]) -> Callable[[Path], Layers]:
    IMAGES[make.__name__] = make
    return make


# What the reference is given in place of an image that it cannot extract: the same files. Called after the other.
REFERENCES: dict[str, Callable[[Path], Layers]] = {}


def instead(make: Callable[[Path], Layers]) -> Callable[[Path], Layers]:
    REFERENCES[make.__name__] = make
    return make


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@image
def nothing(room: Path) -> Layers:
    return [Layer().bytes()]


@image
def modes_owners_times(room: Path) -> Layers:
    layer = Layer().folder(".", mode=0o711, mtime=1_234_567_890).folder("tmp", mode=0o1777).folder("var", mode=0o2775, gid=8)
    for number, mode in enumerate((0, 0o400, 0o644, 0o755, 0o4755, 0o2755, 0o6711, 0o1666)):
        layer.file(f"tmp/f{number}", b"x" * number, mode=mode, uid=number * 1000, gid=65534)
    layer.file("large-ids", uid=4_294_967_294, gid=2_000_000_000)
    layer.file("epoch", mtime=0).file("late", mtime=4_102_444_800).file("fraction", mtime=1_600_000_000.75)
    return [layer.bytes()]


@image
def whiteouts(room: Path) -> Layers:
    low = Layer().folder("d").file("d/a", b"1").file("d/b", b"2").file("d/sub/deep/c").link("d/l", "a").file("top")
    up = Layer().whiteout("d/a").whiteout("d/sub").whiteout("d/l").whiteout("top").whiteout("never/was").file("d/new")
    return [low.bytes(), up.bytes()]


@image
def whiteouts_after_entries_of_their_own_layer(room: Path) -> Layers:
    low = Layer().file("d/old").file("d/sub/old").file("f", b"low").folder("g").file("g/old")
    up = Layer().file("d/new").file("d/sub/new").whiteout("d").file("f", b"up").whiteout("f").folder("g").whiteout("g")
    return [low.bytes(), up.bytes()]


@image
def whiteouts_and_again(room: Path) -> Layers:
    low = Layer().file("d/x", b"1").file("e/y")
    middle = Layer().whiteout("d").whiteout("e/y")
    return [low.bytes(), middle.bytes(), Layer().file("d/x", b"3").file("e/y", b"3").bytes()]


@image
def opaque_directories(room: Path) -> Layers:
    low = Layer().folder("d", mode=0o700).file("d/old").file("d/sub/old").file("e/sub/old").file("e/stays")
    up = Layer().opaque("d").file("d/new").opaque("e/sub").folder("e/sub", mode=0o500).opaque("none")
    return [low.bytes(), up.bytes()]


@image
def opaque_after_entries_of_its_own_layer(room: Path) -> Layers:
    low = Layer().file("d/old").file("d/sub/old").file("d/other/old")
    up = Layer().file("d/new").file("d/sub/new").opaque("d").file("d/later")
    return [low.bytes(), up.bytes(), Layer().file("top").opaque("").bytes()]


@image
def hard_links(room: Path) -> Layers:
    low = Layer().file("a", b"shared", uid=5).hard_link("b", "a").hard_link("sub/c", "./b").link("s", "a").hard_link("t", "s")
    up = Layer().hard_link("d", "sub/c").file("a", b"own").hard_link("sub/e", "/a").hard_link("b", "s")
    return [low.bytes(), up.bytes(), Layer().whiteout("sub/c").bytes()]


@image
def merged_usr(room: Path) -> Layers:
    low = Layer().folder("usr").folder("usr/bin").folder("usr/lib", mode=0o750).link("bin", "usr/bin").link("lib", "usr/lib")
    low.file("usr/lib/x", b"low").file("bin/tool", b"tool", mode=0o755)
    up = Layer().file("lib/x", b"up").file("lib/new/y").whiteout("bin/tool").hard_link("lib/z", "lib/x").folder("lib/made")
    return [low.bytes(), up.bytes(), Layer().opaque("lib/new").file("lib/new/q").bytes()]


@image
def links_among_parents(room: Path) -> Layers:
    low = Layer().folder("real").link("absolute", "/real").link("up", "../../../real").link("two", "up").folder("deep/er")
    low.link("deep/er/back", "../../real").link("dangling", "later/./x/../made").link("self", ".")
    up = Layer().file("absolute/1").file("up/2").file("two/3").file("deep/er/back/4").file("dangling/5").file("self/6")
    return [low.bytes(), up.bytes()]


@image
def other_types_over_what_is_there(room: Path) -> Layers:
    low = Layer().folder("dir-file").file("dir-file/x").file("file-dir").link("link-dir", "target").file("target/y")
    low.folder("dir-link").file("dir-link/z").file("file-link", b"1").link("link-file", "target/y").file("file-fifo")
    up = Layer().file("dir-file", b"now").folder("file-dir").file("file-dir/x").folder("link-dir", mode=0o700)
    up.file("link-dir/x").link("dir-link", "target").link("file-link", "none").file("link-file", b"2")
    up.add("file-fifo", tarfile.FIFOTYPE)
    return [low.bytes(), up.bytes()]


@image
def directories_over_directories(room: Path) -> Layers:
    low = Layer().folder("d", mode=0o700, uid=1, xattrs={"user.a": b"1", "user.b": b"2"}).file("d/x")
    up = Layer().folder("d/", mode=0o755, gid=2, mtime=1_500_000_000, xattrs={"user.c": b"3"}).folder("./")
    return [low.bytes(), up.bytes()]


@image
def extended_attributes(room: Path) -> Layers:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    layer = Layer().file("tool", b"t", mode=0o755, xattrs={"security.capability": capability})
    layer.file("binary", xattrs={"user.bytes": bytes(range(1, 10)) + b"=\n\xff\xfe", "user.empty": b""})
    layer.folder("d", xattrs={"trusted.of-root": b"yes", "user.long": b"v" * 2000}).link("s", "d", xattrs={"trusted.l": b"1"})
    layer.file("same-1", xattrs={"user.x": b"1"}).file("same-2", xattrs={"user.x": b"1"}).hard_link("same-3", "same-1")
    up = Layer().file("tool", b"without")
    return [layer.bytes(), up.bytes()]


@image
def devices_and_fifos(room: Path) -> Layers:
    layer = Layer().device("dev/null", tarfile.CHRTYPE, 1, 3).device("dev/sda17", tarfile.BLKTYPE, 259, 70_000)
    layer.device("dev/zero", tarfile.CHRTYPE, 1, 5).add("run/pipe", tarfile.FIFOTYPE, mode=0o600, uid=7)
    return [layer.bytes(), Layer().hard_link("dev/null-again", "dev/null").hard_link("run/p2", "run/pipe").bytes()]


def long_names(form: int) -> Layers:
    deep = "/".join(["d" * 100] * 20)
    layer = Layer(form).file("n" * 255, b"1").folder(deep).file(f"{deep}/{'x' * 255}", b"2").link("l", "t" * 3000)
    return [layer.hard_link("h" * 200, f"{deep}/{'x' * 255}").bytes()]


@image
def long_names_of_gnu_tar(room: Path) -> Layers:
    return long_names(tarfile.GNU_FORMAT)


@image
def long_names_of_pax(room: Path) -> Layers:
    return long_names(tarfile.PAX_FORMAT)


@image
def odd_names(room: Path) -> Layers:
    layer = Layer()
    for name in ("with space", "new\nline", "tab\t", "-dash", "back\\slash", "q'u\"o", "\x7f\x01", ".hidden", "...", "\u00e9", "e\u0301"):
        layer.file(name, name.encode())
    for raw in (b"latin-\xe9", b"\xff\xfe", b"\xc3\x28" + b"y" * 150):
        layer.file(raw.decode("utf-8", "surrogateescape"), raw)
    return [layer.link("to-é", "é" * 40).bytes()]


def sparse_files(room: Path) -> Path:
    folder = room / "sparse"
    folder.mkdir()
    for name, pieces, size in (
        ("begin", [(0, 5000)], 1 << 20),
        ("middle", [(300_000, 70_000), (1_000_000, 1)], 3_000_001),
        ("end", [((1 << 20) - 4096, 4096)], 1 << 20),
        ("hole", [], 10_000_000),
        ("many", [(number * 20_000, 4096) for number in range(60)], 1_300_000),
    ):
        with (folder / name).open("wb") as file:
            for offset, length in pieces:
                file.seek(offset)
                file.write(noise(length, offset + 1))
            file.truncate(size)
    return folder


@image
def sparse_of_gnu_tar(room: Path) -> Layers:
    return [tar_of(sparse_files(room), "--sparse", "--format=gnu")]


@instead
def sparse_of_gnu_tar(room: Path) -> Layers:  # noqa: F811
    """The reference does not know its entries for sparse files."""
    return [tar_of(room / "sparse", "--format=gnu")]


@image
def sparse_of_pax(room: Path) -> Layers:
    folder = sparse_files(room)
    return [tar_of(folder, "--sparse", "--format=posix", f"--sparse-version={version}") for version in ("0.0", "0.1", "1.0")]


@image
def parents_that_no_layer_has(room: Path) -> Layers:
    return [Layer().file("a/b/c/d", b"1").link("x/y/z", "..").hard_link("m/n", "a/b/c/d").bytes(), Layer().folder("a/b", mode=0o700).bytes()]


@image
def old_dialects(room: Path) -> Layers:
    folder = room / "old"
    folder.mkdir()
    (folder / "f").write_bytes(noise(1000))
    (folder / "sub").mkdir()
    (folder / "sub/g").symlink_to("../f")
    os.link(folder / "f", folder / "h")
    return [tar_of(folder, "--format=v7"), tar_of(folder, "--format=ustar"), tar_of(folder, "--format=oldgnu")]


@image
def many_layers(room: Path) -> Layers:
    layers = [Layer().folder("d").bytes()]
    for number in range(60):
        layer = Layer().file(f"d/{number}", noise(500, number)).file("counter", str(number).encode())
        layers.append((layer.whiteout(f"d/{number - 2}") if number % 3 == 2 else layer).bytes())
    return [*layers, layers[7]]


@image
def many_files(room: Path) -> Layers:
    layer = Layer()
    for number in range(6000):
        layer.file(f"d/{number:05}", noise(number % 90, number), uid=number % 300)
    for number in range(1500):
        layer.folder(f"folders/{number % 30}/{number}", mode=0o700 + number % 64)
    return [layer.bytes()]


@image
def large_files(room: Path) -> Layers:
    data = noise(5_000_000)
    layer = Layer().file("a", data).file("b", data).file("zeros", bytes(3_000_000)).file("text", b"line\n" * 600_000)
    for size in (131_071, 131_072, 131_073, 262_144, 262_145):  # around what a block of the file system has
        layer.file(f"of-{size}", data[:size])
    return [layer.bytes(), Layer().file("c", data[:-1]).hard_link("d", "a").bytes()]


def package(name: str) -> bytes:
    """The files of an installed package of Debian, as they are on this host."""
    listed = subprocess.run(["dpkg", "-L", name], check=True, capture_output=True, text=True).stdout.split("\n")
    paths = [path.lstrip("/") or "." for path in listed if path and os.path.lexists(path)]
    command = ["tar", "--create", "--directory=/", "--no-recursion", "--xattrs", "--xattrs-include=*", "--format=posix",
               "--pax-option=delete=atime,delete=ctime", "--null", "--files-from=-"]
    paths = [path for path in paths if path not in ("bin", "sbin", "lib", "lib64")]  # links here, to merged /usr
    ended = subprocess.run(command, input="\0".join(paths).encode(), capture_output=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr  # 1: something changed meanwhile, such as /tmp
    return ended.stdout


@image
def debian_base(room: Path) -> Layers:
    usr = Layer()
    for name in ("bin", "sbin", "lib", "lib64"):
        usr.folder(f"usr/{name}").link(name, f"usr/{name}")
    return [usr.bytes(), package("base-files"), package("passwd"), package("login")]


@image
def debian_tools(room: Path) -> Layers:
    return [package("base-files"), package("busybox-static"), package("tar"), package("zstd"), Layer().whiteout("usr/share/doc").bytes()]


@image
def debian_replaced(room: Path) -> Layers:
    up = Layer().opaque("usr/share/man").file("usr/share/man/man1/own.1").whiteout("bin/tar").whiteout("usr/bin/zstd")
    return [package("tar"), package("zstd"), package("tar"), up.bytes()]
