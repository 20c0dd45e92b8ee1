# SPDX-License-Identifier: Apache-2.0
"""A full Debian root with systemd: made once by tools/make-debian-root, kept in the cache, copied for each machine."""
import hashlib
import os
import pathlib
import shutil
import subprocess
import time

from guest import PROMPT
from show import TOP, images, say, skip


def debian_root():
    kernel = pathlib.Path(images("cloud")[0]).parent
    key = hashlib.sha256((TOP / "tools/make-debian-root").read_bytes() + str(kernel).encode()).hexdigest()[:16]
    image = pathlib.Path(images("cloud")[2]).parent / f"debian-{key}.img"
    if not image.exists():
        if os.geteuid() != 0:
            skip("making a Debian root needs root")
        if not shutil.which("mmdebstrap"):
            skip("mmdebstrap is not installed")
        began = time.monotonic()
        say("making a Debian root (kept for the next time) ...")
        if subprocess.run([str(TOP / "tools/make-debian-root"), str(kernel), str(image)], check=False).returncode:
            skip("mmdebstrap cannot make a Debian root here")
        say(f"made in {time.monotonic() - began:.0f} s")
    return image


def copy_debian_root(folder, name="debian.img"):
    """A copy that a machine may write to; returns its path."""
    disk = os.path.join(folder, name)
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(debian_root()), disk], check=True)
    return disk


def log_in(guest):
    """Logs in as root and makes the console ready for guest.run(); returns when the login prompt came, in seconds."""
    guest.expect(rb"debian login: ", 600)
    prompt_s = round(time.monotonic() - guest.began, 1)
    guest.send("root\n")
    guest.expect(rb"Password: ", 60)
    guest.send("vireo\n")
    guest.expect(PROMPT, 60)
    guest.send("exec env PS1='root@debian:~# ' sh\n")
    guest.shell()
    return prompt_s
