"""Builds what these tests need in Go: `go_life`, the SDK's own tests as `sdk.test`, and their `testdata`. Static, as they run
in the lab, too."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
SDK = "github.com/firecracker-microvm/firecracker-go-sdk"
# Before 1.0 it spoke a dialect that Firecracker 1 does not take, with ht_enabled. Since then there was one release.
OLDEST_SDK = "v1.0.0"
NEWEST_SDK = "v1.0.1-0.20251224190957-6fb280e993d4"  # newest.mod


class NoModules(Exception):
    """They cannot be had, and nothing of ours is wrong."""


def go(*words: str) -> str:
    """What it prints."""
    environment = {**os.environ, "CGO_ENABLED": "0"}
    return subprocess.run(["go", *words], cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def build_into(directory: Path) -> None:
    print("fetching Go modules (once)", flush=True)
    try:
        go("mod", "download")
    except subprocess.CalledProcessError as error:
        raise NoModules(f"the Go modules cannot be had (go env GOPROXY: {go('env', 'GOPROXY')})") from error
    print("building the Go clients (once, some minutes of CPU time)", flush=True)
    go("build", "-trimpath", "-o", str(directory / "go_life"), ".")
    go("test", "-c", "-trimpath", "-o", str(directory / "sdk.test"), SDK)
    go("build", "-trimpath", "-o", str(directory / "e2b"), "./e2b")
    go("build", "-trimpath", "-o", str(directory / "calls"), "./calls")
    try:
        go("build", "-trimpath", "-modfile=newest.mod", "-o", str(directory / "calls_newest"), "./calls")
    except subprocess.CalledProcessError:
        reason = f"the SDK's {NEWEST_SDK} wants a newer Go than {go('env', 'GOVERSION')}, or cannot be had"
        (directory / "calls_newest.why").write_text(reason)
    data = directory / "testdata"
    shutil.copytree(Path(go("list", "-m", "-f", "{{.Dir}}", SDK)) / "testdata", data)
    subprocess.run(["chmod", "-R", "u+w", str(data)], check=True)
    (data / "sigprint.sh").chmod(0o755)  # modules have no such bits


def hash_of_inputs() -> str:
    total = hashlib.sha256(go("version").encode())
    modules = [HERE / name for name in ("go.mod", "go.sum", "newest.mod", "newest.sum")]
    for file in [*modules, *sorted(HERE.glob("**/*.go")), Path(__file__)]:
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def go_clients() -> Path:
    """The directory in the cache where they are, whole or not at all; who needs it meanwhile waits for its lock. Modules come
    from where the user's Go gets them."""
    subprocess.run([CHECKOUT / ".ci/install-packages", "clients"], check=True)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(os.environ.get("MAYFLY_CACHE") or Path(caches, "mayfly")) / "clients" / hash_of_inputs()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            for left in directory.parent.glob(f"{directory.name}.filling.*"):  # by a run that was killed
                shutil.rmtree(left)
            filling = Path(tempfile.mkdtemp(prefix=f"{directory.name}.filling.", dir=directory.parent))
            try:
                build_into(filling)
                filling.chmod(0o755)
                filling.rename(directory)
            finally:
                shutil.rmtree(filling, ignore_errors=True)
    return directory
