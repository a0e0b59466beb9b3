"""Bases of images hold what umoci extracts of the same images, file by file; and what is no image is refused.

A base is read back by unsquashfs, which has nothing in common with what wrote it. As root: files have owners, devices are
made, and attributes of `trusted` are root's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.process import until
from images import Image, Layer, gzipped, gzipped_in_members, packed_layout, plain, zstandard
from listing import differences, listing_of
from traps import IMAGES, REFERENCES, noise

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices, attributes")
NO_POLICY = ("skopeo", "--insecure-policy", "--override-os=linux", "--override-arch=amd64", "copy", "-q")


@pytest.fixture
def template(build: Path) -> Path:
    program = build / "mayfly-template"
    assert program.is_file(), f"{program} is not there: cmake --build --preset release"
    return program


@pytest.fixture
def make_base(template: Path, tmp_path: Path) -> Callable[..., Path]:
    def make_base(image: Path | str, *words: str, name: str = "base.squashfs") -> Path:
        output = tmp_path / name
        command = [template, "base", "--image", image, "--output", output, *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
        assert ended.stdout.startswith(f"{output}: ")
        return output

    return make_base


def unpacked(base: Path) -> Path:
    folder = base.with_suffix(".unpacked")
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-dest", folder, base], check=True, capture_output=True)
    return folder


def extracted(layout: Path, folder: Path, tag: str = "image") -> Path:
    """By the reference."""
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:{tag}", folder], check=True, capture_output=True)
    return folder / "rootfs"


def refusal(template: Path, image: Path, *words: str) -> str:
    """What the program says, which leaves nothing beside the image."""
    output = image.parent / "refused.squashfs"
    before = sorted(os.listdir(image.parent))
    command = [template, "base", "--image", image, "--output", output, *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert sorted(os.listdir(image.parent)) == before
    assert ended.stderr.startswith("mayfly-template: ")
    return ended.stderr.removeprefix("mayfly-template: ").rstrip("\n")


# --- The same as the reference -------------------------------------------------------------------------------------------

# One image after the other has its layers packed, and is stored, in another way.
PACKS = (gzipped, zstandard, plain, gzipped_in_members)
STORES = ("layout", "layout in tar", "saved by docker")


@as_root
@pytest.mark.parametrize("name", IMAGES)
def test_base_is_what_umoci_extracts(name: str, tmp_path: Path, make_base: Callable[..., Path]) -> None:
    begun = time.time()
    image = Image(IMAGES[name](tmp_path))
    reference = Image(REFERENCES[name](tmp_path)) if name in REFERENCES else image
    layout = reference.layout(tmp_path / "reference")
    theirs = listing_of(extracted(layout, tmp_path / "bundle"))
    number = list(IMAGES).index(name)
    store = STORES[number % len(STORES)]
    if store == "saved by docker":
        source = image.saved(tmp_path / "image.tar")
    else:
        source = image.layout(tmp_path / "image", PACKS[number % len(PACKS)])
        source = packed_layout(source, tmp_path / "image.tar") if store == "layout in tar" else source
    ours = listing_of(unpacked(make_base(source)))
    assert differences(ours, theirs, begun) == []


def test_there_are_images_enough() -> None:
    assert len(IMAGES) >= 20


@pytest.fixture
def by_umoci(tmp_path: Path) -> Path:
    """A layout of two images that umoci made."""
    layout = tmp_path / "umoci"
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "f").write_bytes(b"inserted")
    (tree / "sub/g").symlink_to("../f")
    os.link(tree / "f", tree / "h")

    def umoci(*words: str) -> None:
        subprocess.run(["umoci", *words], check=True, capture_output=True, cwd=tmp_path)

    umoci("init", "--layout", str(layout))
    umoci("new", "--image", f"{layout}:first")
    umoci("insert", "--image", f"{layout}:first", str(tree), "/opt/tree")
    umoci("insert", "--image", f"{layout}:first", str(tree / "f"), "/opt/single")
    umoci("insert", "--image", f"{layout}:first", "--whiteout", "/opt/tree/h")
    umoci("insert", "--image", f"{layout}:first", "--opaque", str(tree), "/opt/tree/sub")
    umoci("config", "--image", f"{layout}:first", "--config.user", "12:34", "--config.env", "A=b", "--config.cmd", "/bin/x")
    umoci("unpack", "--image", f"{layout}:first", str(tmp_path / "changed"))
    root = tmp_path / "changed/rootfs"
    (root / "opt/tree/f").unlink()
    (root / "opt/new").mkdir()
    (root / "opt/new/file").write_bytes(noise(10_000))
    os.chown(root / "opt/new/file", 1000, 100)
    os.setxattr(root / "opt/new/file", "user.a", b"\0\1")
    umoci("repack", "--image", f"{layout}:second", str(tmp_path / "changed"))
    return layout


@as_root
def test_images_that_umoci_made(by_umoci: Path, tmp_path: Path, make_base: Callable[..., Path]) -> None:
    for tag in ("first", "second"):
        begun = time.time()
        theirs = listing_of(extracted(by_umoci, tmp_path / f"bundle-{tag}", tag))
        ours = listing_of(unpacked(make_base(by_umoci, "--name", tag, name=f"{tag}.squashfs")))
        assert differences(ours, theirs, begun) == []


@as_root
def test_every_store_of_an_image_gives_the_same_base(tmp_path: Path, make_base: Callable[..., Path]) -> None:
    image = Image(IMAGES["hard_links"](tmp_path) + IMAGES["extended_attributes"](tmp_path), run={"User": "7"})
    layout = image.layout(tmp_path / "layout")
    for transport in ("oci-archive", "docker-archive"):
        target = f"{transport}:{tmp_path / transport}.tar" + (":app:1" if transport == "docker-archive" else "")
        subprocess.run([*NO_POLICY, f"oci:{layout}:image", target], check=True)
    stores = [layout, packed_layout(layout, tmp_path / "layout.tar"), image.saved(tmp_path / "saved.tar"),
              image.layout(tmp_path / "zstd", zstandard), tmp_path / "oci-archive.tar", tmp_path / "docker-archive.tar"]
    # As Docker has saved images since version 25: both descriptions, of the same blobs.
    both = image.layout(tmp_path / "both", plain)
    (blobs := both / "blobs/sha256").mkdir(exist_ok=True)
    names = {"Config": "blobs/sha256/" + next(each.name for each in blobs.iterdir() if each.read_bytes() == image.config()),
             "RepoTags": ["image:latest"], "Layers": []}
    (both / "manifest.json").write_text(json.dumps([names]))
    stores.append(packed_layout(both, tmp_path / "both.tar"))
    first = make_base(stores[0]).read_bytes()
    for number, store in enumerate(stores):
        assert make_base(store, name=f"{number}.squashfs").read_bytes() == first, store
    for tool in ("gzip", "zstd"):
        whole = tmp_path / f"whole.{tool}"
        whole.write_bytes(subprocess.run([tool, "-c", stores[1]], check=True, capture_output=True).stdout)
        assert make_base(whole, name=f"{tool}.squashfs").read_bytes() == first


def test_two_runs_give_the_same_bytes(tmp_path: Path, template: Path) -> None:
    layout = Image(IMAGES["many_files"](tmp_path) + IMAGES["large_files"](tmp_path)).layout(tmp_path / "image")
    bases = []
    for number, epoch in enumerate(("0", "1700000000")):
        base, config = tmp_path / f"{number}.squashfs", tmp_path / f"{number}.json"
        subprocess.run([template, "base", "--image", layout, "--output", base, "--config", config], check=True,
                       capture_output=True, env={"SOURCE_DATE_EPOCH": epoch, "TZ": "UTC-14" if number else "UTC"})
        bases.append((base.read_bytes(), config.read_bytes()))
    assert bases[0] == bases[1]


# --- How it is used ------------------------------------------------------------------------------------------------------


def test_configuration_says_how_to_run_it(tmp_path: Path, make_base: Callable[..., Path]) -> None:
    layer = Layer().file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n")
    layer.file("etc/group", b"web:x:33:\nmedia:x:44:web\n")
    run = {"Entrypoint": ["/init"], "Cmd": ["serve", "--all"], "Env": ["PATH=/bin"], "User": "web", "WorkingDir": "/srv",
           "StopSignal": "SIGRTMIN+3", "ExposedPorts": {"80/tcp": {}}}
    layout = Image([layer.bytes()], run).layout(tmp_path / "image")
    base = make_base(layout, "--config", str(tmp_path / "run.json"))
    said = json.loads((tmp_path / "run.json").read_text())
    digest = subprocess.run(["sha256sum", base], check=True, capture_output=True, text=True).stdout.split()[0]
    assert said["base"] == {"format": "squashfs", "digest": f"sha256:{digest}", "size_bytes": base.stat().st_size}
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    assert said["image"]["digest"] == manifest
    assert said["user"] == {"name": "web", "uid": 33, "gid": 33, "additional_gids": [44], "home": "/srv"}
    assert (said["entrypoint"], said["cmd"], said["env"]) == (["/init"], ["serve", "--all"], ["PATH=/bin"])
    assert (said["working_dir"], said["stop_signal"]) == ("/srv", 37)
    assert said["exposed_ports"] == [{"port": 80, "protocol": "tcp"}]


@as_root
def test_needs_no_rights(room: Path, tmp_path: Path, template: Path, make_base: Callable[..., Path]) -> None:
    layout = Image(IMAGES["devices_and_fifos"](tmp_path) + IMAGES["modes_owners_times"](tmp_path)).layout(tmp_path / "image")
    archive = packed_layout(layout, room / "image.tar")
    shutil.copy(template, room / "mayfly-template")
    os.chown(room, 65534, 65534)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--no-new-privs",
               "./mayfly-template", "base", "--image", "image.tar", "--output", "base"]
    subprocess.run(command, cwd=room, check=True, capture_output=True)
    assert (room / "base").read_bytes() == make_base(archive).read_bytes()


def test_reads_a_pipe(tmp_path: Path, template: Path, make_base: Callable[..., Path]) -> None:
    archive = Image(IMAGES["whiteouts"](tmp_path)).saved(tmp_path / "image.tar")
    with subprocess.Popen(["cat", archive], stdout=subprocess.PIPE) as cat:
        command = [template, "base", "--image", "/dev/stdin", "--output", tmp_path / "piped"]
        subprocess.run(command, stdin=cat.stdout, check=True, capture_output=True)
    assert (tmp_path / "piped").read_bytes() == make_base(archive).read_bytes()


def test_a_kill_leaves_nothing(tmp_path: Path, template: Path) -> None:
    archive = Image([Layer().file("f", noise(3_000_000)).bytes()]).saved(tmp_path / "image.tar").read_bytes()
    room = tmp_path / "room"
    room.mkdir()
    (room / "base").write_bytes(b"of before")
    command = [template, "base", "--image", "/dev/stdin", "--output", room / "base"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        process.stdin.write(archive[: len(archive) // 2])  # it waits for the other half
        process.stdin.flush()
        descriptors = Path(f"/proc/{process.pid}/fd")
        deadline = time.monotonic() + 20
        # It has begun when its files without a name are there.
        while sum(os.readlink(each).endswith("(deleted)") for each in descriptors.iterdir()) < 2:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(room) == ["base"]
    assert (room / "base").read_bytes() == b"of before"


@pytest.mark.parametrize("has_writer", [False, True])
def test_an_interrupt_ends_a_build_that_waits_for_its_image(template: Path, tmp_path: Path, has_writer: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    programs = (f"--{name}={template}" for name in ("kernel", "init", "agent", "monitor"))  # which it does not come to
    command = [template, "build", "--image", pipe, "--output", tmp_path / "app.template", *programs]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as build:
        try:
            until((tmp_path / "app.template.mayfly-new").exists, "the build has begun")
            writer = os.open(pipe, os.O_RDWR) if has_writer else -1
            build.send_signal(signal.SIGINT)
            assert build.wait(30) == -signal.SIGINT
        finally:
            build.kill()
    if has_writer:
        os.close(writer)
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_a_program_that_must_be_process_1_is_refused_before_the_boot(template: Path, tmp_path: Path) -> None:
    layer = Layer().file("init", b"#!/bin/sh\n", mode=0o755).file("package/admin/s6-overlay-3.2.0.2/libexec/preinit", mode=0o755)
    image = Image([layer.bytes()], run={"Entrypoint": ["/init"]}).layout(tmp_path / "image")
    programs = (f"--{name}=/bin/false" for name in ("kernel", "init", "agent", "monitor"))
    command = [template, "build", "--image", image, "--output", tmp_path / "app.template", *programs]

    def refusal(*words: str) -> str:
        ended = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 1
        return ended.stderr

    assert refusal() == (
        f"mayfly-template: --image {image}: its program is s6-overlay, which runs as process 1 alone, and in a guest that is Mayfly's "
        "init; build the image with another entrypoint, or run one of its services by --append 'mayfly.run=\"COMMAND\"'\n")
    assert "process 1 alone" not in refusal("--append", 'mayfly.run="true"')
    assert [each.name for each in tmp_path.iterdir()] == ["image"]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, template: Path) -> None:
    image = Image([Layer().file("f", noise(3_000_000)).bytes()]).layout(tmp_path / "image")
    command = ["prlimit", "--fsize=1000000", template, "base", "--image", image, "--output", tmp_path / "base"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "cannot be written: File too large (EFBIG)" in ended.stderr
    assert not (tmp_path / "base").exists()


def test_attributes_that_a_squashfs_cannot_have_are_told(tmp_path: Path, template: Path) -> None:
    layer = Layer().file("f", xattrs={"system.posix_acl_access": b"\2", "user.kept": b"1", "security.selinux": b"label"})
    image = Image([layer.bytes()]).layout(tmp_path / "image")
    ended = subprocess.run([template, "base", "--image", image, "--output", tmp_path / "base"], capture_output=True,
                           text=True, check=True)
    assert ended.stderr == (
        "mayfly-template: left out the extended attribute 'system.posix_acl_access', which a squashfs cannot have\n")


# --- What is refused -----------------------------------------------------------------------------------------------------


def layer_refusal(template: Path, tmp_path: Path, layer: Layer | bytes, *words: str) -> str:
    text = layer if isinstance(layer, bytes) else layer.bytes()
    image = Image([Layer().file("first").bytes(), text]).layout(tmp_path / "image")
    said = refusal(template, image, *words)
    beginning = f"--image {image}: layer 2 of 2 (sha256:"
    assert said.startswith(beginning)
    return said[len(beginning) + len('123456789abc): '):]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Layer().file("../evil"), "../evil: the path '../evil' leads out of the image"),
        (Layer().file("/a/../../../evil"), "/a/../../../evil: the path '/a/../../../evil' leads out of the image"),
        (Layer().hard_link("l", "../../etc/shadow"), "l: the path '../../etc/shadow' leads out of the image"),
        (Layer().hard_link("l", "none"), "l: it is a hard link to 'none', which is not there; build the image anew"),
        (Layer().link("d", "/etc").hard_link("l", "d/passwd"), "l: it is a hard link to 'd/passwd', which is not there"),
        (Layer().file("f/g").file("f/g/h"), "f/g/h: something above it is no directory; build the image anew"),
        (Layer().link("a", "b").link("b", "a").file("a/x"), "a/x: its path goes through over 40 symbolic links"),
        (Layer().file(".wh..."), ".wh...: this whiteout names no file; build the image anew"),
        (Layer().device("d", tarfile.CHRTYPE, 70000, 1), "d: there is no device 70000:1; the largest is 4095:1048575"),
        (Layer().file("f").bytes()[:512] + b"z" * 5000, "after f: it is no whole tar archive"),
        (b"z" * 5000, "it is no whole tar archive (Unrecognized archive format)"),
    ],
    ids=["out", "out-by-a-folder", "hard-link-out", "hard-link-to-nothing", "hard-link-by-a-link", "below-a-file", "circle",
         "whiteout", "device", "damaged", "no-archive"],
)
def test_hostile_layers_are_refused(layer: Layer | bytes, said: str, template: Path, tmp_path: Path) -> None:
    assert layer_refusal(template, tmp_path, layer).startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "over 200 times as many; --max-ratio raises the limit, if this is no attack"),
        (("--max-ratio=100000", "--max-size=1M"), "zeros: it has 100000000 bytes, and 1048576 are left; --max-size raises"),
        (("--max-ratio=100000", "--max-files=2"), "s: the image has over 2 files; --max-files raises the limit"),
        (("--max-ratio=100000", "--max-metadata=2K"), "s: names, links and extended attributes have over 2048 bytes"),
    ],
    ids=["ratio", "size", "files", "metadata"],
)
def test_limits_are_named(words: tuple[str, ...], said: str, tmp_path: Path, template: Path) -> None:
    layer = Layer().file("zeros", bytes(100_000_000)).file("s", xattrs={"user.a": b"x" * 3000})
    assert said in layer_refusal(template, tmp_path, layer, *words)


def test_limits_can_be_raised(tmp_path: Path, make_base: Callable[..., Path]) -> None:
    image = Image([Layer().file("zeros", bytes(100_000_000)).bytes()]).layout(tmp_path / "image")
    make_base(image, "--max-ratio", "100000")


def test_a_changed_layer_is_refused(tmp_path: Path, template: Path) -> None:
    image = Image([Layer().file("f", b"1").bytes()])
    layout = image.layout(tmp_path / "image", plain)
    blob = next(each for each in (layout / "blobs/sha256").iterdir() if each.read_bytes() == image.layers[0])
    blob.write_bytes(image.layers[0][:-1] + b"x")
    assert "its digest is sha256:" in refusal(template, layout)


def test_several_images_are_listed(by_umoci: Path, tmp_path: Path, template: Path) -> None:
    assert refusal(template, by_umoci) == f"--image {by_umoci} has 2 images; choose one by --name: first, second"
    assert refusal(template, by_umoci, "--name", "third") == (
        f"--name third: there is no such image in {by_umoci}; it has first, second")
    assert refusal(template, by_umoci, "--name", "first", "--platform", "linux/arm64") == (
        f"--platform linux/arm64: there is no image for it in {by_umoci}, but for linux/amd64")
