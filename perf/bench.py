"""Shared by the scripts of this folder: builds, tables (as print_table in series.cpp) and pictures."""

import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = f"perf/{os.path.basename(sys.argv[0])}"
sys.path.insert(0, str(ROOT / "tests/lab"))  # for its harness
# What ends the script lets it clear up.
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def say(message):
    print(f"{SCRIPT}: {message}", file=sys.stderr, flush=True)


def die(message, code=1):
    say(message)
    sys.exit(code)


def in_the_lab():
    return os.environ.get("MAYFLY_LAB", "native") != "native"


def build(*targets, preset="release", tree="release"):
    """Builds these, or all of the preset; what it says goes to standard error."""
    if not (ROOT / "build" / tree / "build.ninja").exists():
        subprocess.run(["cmake", "--preset", preset], cwd=ROOT, stdout=sys.stderr, check=True)
    chosen = ["--target", *targets] if targets else []
    subprocess.run(["cmake", "--build", "--preset", preset, *chosen], cwd=ROOT, stdout=sys.stderr, check=True)


# Seconds for anything that a machine does. The clock of a lab that counts instructions leaps while it waits for a file of this
# machine's, so no deadline there means anything; `lab --silence` ends one that hangs.
PATIENCE = 1e6 if in_the_lab() else 240


# --- Tables ----------------------------------------------------------------------------------------------------------


def quantile(samples, fraction):
    ordered = sorted(samples)
    below, weight = divmod(fraction * (len(ordered) - 1), 1)
    low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return low * (1 - weight) + high * weight


def median(samples):
    return quantile(samples, 0.5)


def print_table(title, unit, series):
    """A row for each (name, samples)."""
    print(f"\n{title:<34} {'n':>5} {'least':>9} {'10%':>9} {'median':>9} {'90%':>9} {'most':>9}  ({unit})")
    for name, samples in series:
        columns = " ".join(f"{quantile(samples, fraction):9.1f}" for fraction in (0, 0.1, 0.5, 0.9, 1))
        print(f"{name:<34} {len(samples):5d} {columns}")
    sys.stdout.flush()


# --- Pictures --------------------------------------------------------------------------------------------------------


def has_gnuplot():
    if shutil.which("gnuplot"):
        return True
    say("no picture, gnuplot is missing: .ci/install-packages lab")
    return False


def draw(svg, size, settings, plots):
    """Has gnuplot draw `plots`, with `settings` before them; size: width, height, size of letters."""
    os.makedirs(os.path.dirname(svg) or ".", exist_ok=True)
    text = [f"set terminal svg size {size[0]},{size[1]} font 'sans,{size[2]}' background 'white'", f"set output '{svg}'",
            "set style fill solid 0.6; set yrange [0:*]; set grid y; unset key", *settings, *plots]
    subprocess.run(["gnuplot"], input="\n".join(text) + "\n", text=True, check=True)
    say(f"drawn: {svg}")


def data_block(name, rows):
    """Data as gnuplot has them within its script."""
    return "\n".join([f"${name} << END", *rows, "END"])


# --- Processes -------------------------------------------------------------------------------------------------------


def lines_of(process):
    """What a process says, line by line, as it comes. Ends with it, or once it has said nothing for too long."""
    source, text = process.stdout.fileno(), b""
    while select.select([source], [], [], PATIENCE)[0]:
        chunk = os.read(source, 65536)
        if not chunk:
            return
        *lines, text = (text + chunk).split(b"\n")
        yield from lines


def scratch(directory=None):
    """A directory that ends with the script: with scratch() as work."""
    return tempfile.TemporaryDirectory(prefix=f"{os.path.basename(SCRIPT)}.", dir=directory)
