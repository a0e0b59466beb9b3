"""Fetches and builds the clients of crates.io and PyPI, once: into the cache, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
RUST = HERE / "rust"
PYTHON_CLIENT = "firecracker-python==0.0.5"


class NotToBeHad(Exception):
    """And nothing of ours is wrong."""


def cache() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MAYFLY_CACHE") or Path(caches, "mayfly")) / "clients"


def hash_of(texts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for text in texts:
        total.update(text)
    return total.hexdigest()[:16]


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """The directory of that name; who needs it meanwhile waits for its lock."""
    directory = cache() / name
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            for left in directory.parent.glob(f"{name}.filling.*"):  # by a run that was killed
                shutil.rmtree(left)
            filling = Path(tempfile.mkdtemp(prefix=f"{name}.filling.", dir=directory.parent))
            try:
                fill(filling)
                filling.chmod(0o755)
                filling.rename(directory)
            finally:
                shutil.rmtree(filling, ignore_errors=True)
    return directory


def run(command: list[str | Path], why: str) -> None:
    print(f"{why} (once)", flush=True)
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode != 0:
        last = (ended.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise NotToBeHad(f"{why}: {last}")


def rust_client() -> Path:
    """The program. Needs a cargo that knows the crates' edition: Debian 13's, or a newer one."""

    def build(directory: Path) -> None:
        target = ["--target-dir", directory / "target"]
        manifest = ["--manifest-path", RUST / "Cargo.toml"]
        run(["cargo", "build", "--quiet", "--release", "--locked", *manifest, *target], "building the Rust client")
        shutil.move(directory / "target/release/rust_calls", directory / "rust_calls")
        shutil.rmtree(directory / "target")

    sources = [RUST / "Cargo.toml", RUST / "Cargo.lock", RUST / "src/main.rs"]
    return cached(f"rust-{hash_of(source.read_bytes() for source in sources)}", build) / "rust_calls"


def python_client() -> Path:
    """What is to be in PYTHONPATH."""

    def install(directory: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-script-location", "--only-binary", ":all:"]
        run([*pip, "--target", directory, PYTHON_CLIENT], "installing the Python client")

    return cached(f"python-{hash_of([PYTHON_CLIENT.encode(), sys.version.encode()])}", install)
