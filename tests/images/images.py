"""Container images in memory: layers with every trap, and the ways in which tools store them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MODIFIED = 1_600_000_000
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Layer:
    """A tar archive, entry by entry; a name that begins with .wh. is a whiteout to whoever reads it as a layer."""

    def __init__(self, form: int = tarfile.PAX_FORMAT) -> None:
        self._text = io.BytesIO()
        self._tar = tarfile.open(
            fileobj=self._text, mode="w", format=form, encoding="utf-8", errors="surrogateescape", dereference=False
        )

    def add(self, name: str, kind: bytes, data: bytes = b"", **fields: object) -> Layer:
        entry = tarfile.TarInfo(name)
        entry.type = kind
        entry.size = len(data)
        entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        entry.mtime = MODIFIED
        attributes = fields.pop("xattrs", {})
        assert isinstance(attributes, dict)
        for key, value in attributes.items():
            entry.pax_headers[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
        for key, value in fields.items():
            setattr(entry, key, value)
        self._tar.addfile(entry, io.BytesIO(data))
        return self

    def file(self, name: str, data: bytes = b"", **fields: object) -> Layer:
        return self.add(name, tarfile.REGTYPE, data, **fields)

    def folder(self, name: str, **fields: object) -> Layer:
        return self.add(name, tarfile.DIRTYPE, **fields)

    def link(self, name: str, target: str, **fields: object) -> Layer:
        return self.add(name, tarfile.SYMTYPE, linkname=target, **fields)

    def hard_link(self, name: str, target: str) -> Layer:
        return self.add(name, tarfile.LNKTYPE, linkname=target)

    def device(self, name: str, kind: bytes, major: int, minor: int) -> Layer:
        return self.add(name, kind, devmajor=major, devminor=minor, mode=0o660)

    def whiteout(self, name: str) -> Layer:
        folder, _, last = name.rpartition("/")
        return self.file(f"{folder}/.wh.{last}" if folder else f".wh.{last}")

    def opaque(self, folder: str) -> Layer:
        return self.file(f"{folder}/.wh..wh..opq" if folder else ".wh..wh..opq")

    def bytes(self) -> bytes:
        self._tar.close()
        return self._text.getvalue()


def tar_of(folder: Path, *words: str) -> bytes:
    """By GNU tar, of what is in a folder, in order."""
    command = ["tar", "--create", "--sort=name", "--directory", str(folder), *words, "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def gzipped(layer: bytes) -> bytes:
    return gzip.compress(layer, compresslevel=1, mtime=0)


def gzipped_in_members(layer: bytes) -> bytes:
    half = len(layer) // 2
    return gzipped(layer[:half]) + gzipped(layer[half:])


def zstandard(layer: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-1", "-c"], input=layer, check=True, capture_output=True).stdout


def plain(layer: bytes) -> bytes:
    return layer


TYPES: dict[Callable[[bytes], bytes], str] = {
    plain: LAYER,
    gzipped: f"{LAYER}+gzip",
    gzipped_in_members: f"{LAYER}+gzip",
    zstandard: f"{LAYER}+zstd",
}


def digest_of(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


@dataclass
class Image:
    layers: list[bytes]
    run: dict[str, object] = field(default_factory=dict)

    def config(self) -> bytes:
        return json.dumps({
            "architecture": "amd64",
            "os": "linux",
            "config": self.run,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in self.layers]},
        }).encode()

    def layout(self, folder: Path, pack: Callable[[bytes], bytes] = gzipped, tag: str = "image") -> Path:
        """An OCI image layout."""
        blobs = folder / "blobs/sha256"
        blobs.mkdir(parents=True)

        def blob(content: bytes, kind: str) -> dict[str, object]:
            digest = digest_of(content)
            (blobs / digest.partition(":")[2]).write_bytes(content)
            return {"mediaType": kind, "digest": digest, "size": len(content)}

        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blob(self.config(), CONFIG),
            "layers": [blob(pack(layer), TYPES[pack]) for layer in self.layers],
        }
        entry = blob(json.dumps(manifest).encode(), MANIFEST)
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return folder

    def saved(self, file: Path, tag: str = "image:latest") -> Path:
        """As docker save wrote until version 25: a layer that is there twice is a link the second time."""
        config = self.config()
        name = digest_of(config).partition(":")[2] + ".json"
        layers, first = [], {}
        with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:

            def put(path: str, content: bytes) -> None:
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

            for number, layer in enumerate(self.layers):
                path = f"{number:064x}/layer.tar"
                if layer in first:
                    entry = tarfile.TarInfo(path)
                    entry.type, entry.linkname = tarfile.SYMTYPE, f"../{first[layer]}"
                    archive.addfile(entry)
                else:
                    put(path, layer)
                    first[layer] = path
                layers.append(path)
            put(name, config)
            put("manifest.json", json.dumps([{"Config": name, "RepoTags": [tag], "Layers": layers}]).encode())
        return file


def packed_layout(layout: Path, file: Path) -> Path:
    """A tar archive of a layout."""
    subprocess.run(["tar", "--create", "--file", str(file), "--directory", str(layout), "."], check=True)
    return file
