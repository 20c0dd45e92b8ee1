# SPDX-License-Identifier: Apache-2.0
"""What the scripts 01-N share: results and their file, the vireo program, the guest's images, a server on the host.

A show does all of what its line says, prints its numbers, and ends with exit status 0 only if the line holds, 77
when this machine cannot run it (the last line is then "SKIP: reason"), 1 otherwise. Environment: VIREO names another
program than build/release/bin/vireo; VIREO_ACCEL is passed on as --accel (default soft).
"""
import functools
import hashlib
import http.server
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
KERNELS = ("cloud", "generic")
os.environ["PATH"] += ":/usr/sbin:/sbin"


class Failed(Exception):
    """The line does not hold, for the reason given."""


def skip(reason):
    print(f"SKIP: {reason}", flush=True)
    sys.exit(77)


def say(text):
    print(text, flush=True)


def commit():
    try:
        got = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=TOP, capture_output=True, text=True,
                             check=False)
        return got.stdout.strip() or "unknown"
    except FileNotFoundError:
        return "unknown"


def vireo():
    """The program under test, built if need be."""
    if os.environ.get("VIREO"):
        return os.environ["VIREO"]
    program = TOP / "build/release/bin/vireo"
    build(("vireo",))
    return str(program)


@functools.cache
def build(targets, preset="release"):
    folder = TOP / "build" / preset
    if not (folder / "build.ninja").exists():
        subprocess.run(["cmake", "--preset", preset], cwd=TOP, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(["cmake", "--build", str(folder), "--parallel", "2", "--target", *targets],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{preset} does not build {' '.join(targets)}:\n" + done.stdout[-3000:])


@functools.cache
def images(flavour):
    """Paths of the kernel, the initial RAM disk and the (pristine) root disk."""
    got = subprocess.run([str(TOP / "tools/guest-images"), flavour], stdout=subprocess.PIPE, text=True, check=False)
    if got.returncode:
        skip(f"Debian's {flavour} kernel cannot be had here")
    return tuple(got.stdout.split("\n")[:3])


def copy_root(flavour, folder, name="root.img"):
    """A fresh root disk of its own in a folder."""
    target = pathlib.Path(folder, name)
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", images(flavour)[2], str(target)], check=True)
    return str(target)


def clean_file_system(image):
    """Whether e2fsck -f on the host finds the file system clean, and what it said."""
    got = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    return got.returncode == 0, got.stderr + got.stdout


def job_initrd(flavour, folder, command, word, name="initrd", files=()):
    """An initial RAM disk that hands a shell command to the guest, and files beside it in /run/job; its output comes between lines with WORD."""
    job = pathlib.Path(tempfile.mkdtemp(dir=folder))
    (job / "job").mkdir()
    (job / "job/command").write_text(command + "\n")
    (job / "job/word").write_text(word)
    for file in files:
        shutil.copy(file, job / "job")
    target = pathlib.Path(folder, name)
    archive = subprocess.run("find job | cpio --quiet -o -H newc", shell=True, cwd=job, capture_output=True,
                             check=True).stdout
    target.write_bytes(archive + pathlib.Path(images(flavour)[1]).read_bytes())
    return str(target)


class FileServer:
    """Serves random bytes over HTTP on the host's loopback; the guest sees it at 10.0.2.2. Or on another address of the host."""

    def __init__(self, size, address=None):
        self.data = os.urandom(size)
        self.digest = hashlib.sha256(self.data).hexdigest()
        self.served = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.data)))
                self.end_headers()
                self.wfile.write(outer.data)
                outer.served += 1

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((address or "127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://{address or '10.0.2.2'}:{self.port}/file"


def show(name, body):
    """Runs a show: body(numbers, folder) fills numbers, which go to build/shows/NAME.json, and raises Failed."""
    numbers = {"show": name, "commit": commit(), "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
               "host": platform.release(), "cpus": os.cpu_count()}
    began = time.monotonic()
    folder = tempfile.mkdtemp(prefix=f"vireo-show-{name}-")
    status = 0
    try:
        body(numbers, folder)
    except Failed as failure:
        say(f"FAILED: {failure}")
        numbers["failed"] = str(failure)
        status = 1
    except subprocess.CalledProcessError as error:
        say(f"FAILED: {error}\n{error.stderr or ''}")
        numbers["failed"] = str(error)
        status = 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    numbers["seconds"] = round(time.monotonic() - began, 1)
    numbers["holds"] = status == 0
    out = TOP / "build/shows"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
    say(f"{name}: {'holds' if status == 0 else 'does not hold'}, {numbers['seconds']:.0f} s at {numbers['commit']}")
    sys.exit(status)
