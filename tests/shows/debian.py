# SPDX-License-Identifier: Apache-2.0
"""A full Debian root with systemd: made once by tools/make-debian-root, kept in the cache, copied for each machine."""
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from guest import PROMPT, Guest, vireo_run
from show import TOP, Failed, images, say, skip, vireo


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


def repository(folder, packages):
    """A disk image with an apt repository: the packages and what they need that the Debian root lacks. Returns its path and their names."""
    state = pathlib.Path(folder, "status")
    state.write_bytes(subprocess.run(["debugfs", "-R", "cat /var/lib/dpkg/status", str(debian_root())], capture_output=True, check=True).stdout)
    plan = subprocess.run(["apt-get", "install", "-s", "-o", f"Dir::State::status={state}", "--no-install-recommends", *packages],
                          capture_output=True, text=True, check=False)
    names = sorted(line.split()[1] for line in plan.stdout.splitlines() if line.startswith("Inst "))
    tree = pathlib.Path(folder, "repository")
    tree.mkdir()
    if plan.returncode or subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names], cwd=tree, capture_output=True, check=False).returncode:
        skip(f"Debian's packages {' '.join(packages)} cannot be downloaded: {plan.stderr.strip()[-200:]}")
    index = ""
    for file in sorted(tree.glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", str(file)], capture_output=True, text=True, check=True).stdout
        data = file.read_bytes()
        index += f"{control.strip()}\nFilename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    (tree / "Packages").write_text(index)
    image = pathlib.Path(folder, "repository.img")
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree), str(image), "256M"], check=True, capture_output=True)
    shutil.rmtree(tree)
    return str(image), names


def install(guest, device, packages, limit=1200):
    """Installs packages in a guest from such a repository on one of its disks, by apt."""
    guest.run(f"mkdir -p /repo && mount -o ro {device} /repo && echo 'deb [trusted=yes] file:/repo ./' > /etc/apt/sources.list")
    guest.run("export DEBIAN_FRONTEND=noninteractive; apt-get -q update && apt-get -q -y install --no-install-recommends " + " ".join(packages), limit)
    guest.run("umount /repo")


def debian_root_with(*packages):
    """The root with packages that apt installed in a guest; kept like it. Not to be written."""
    base = debian_root()
    image = base.with_name(f"{base.stem}-{'-'.join(packages)}.img")
    if image.exists():
        return str(image)
    say(f"a Debian root with {' '.join(packages)} (kept for the next time) ...")
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        disk = copy_debian_root(folder)
        extra, _ = repository(folder, packages)
        kernel, initrd, _ = images("cloud")
        with Guest(vireo_run(vireo(), kernel=kernel, initrd=initrd, append="console=ttyS0 quiet", memory="1G", cpus=2, disks=(disk, f"{extra},readonly"))) as guest:
            log_in(guest)
            install(guest, "/dev/vdb", packages)
            guest.send("systemctl poweroff\n")
            if guest.wait(180):
                raise Failed("the machine in which packages were installed did not end well")
        os.rename(disk, image)
    return str(image)


# First process of the small way to a Debian root: the file system is mounted read-only, and a shell is the first process.
SHELL_INIT = """#!/bin/sh
export PATH=/bin
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
while read -r module; do $bb modprobe -q "$module" 2> /dev/null; done < /modules
until [ -b /dev/vda ]; do $bb sleep 0.05; done
$bb mount -t ext4 -o ro /dev/vda /root || { echo "no file system"; $bb poweroff -f; }
$bb mount -t tmpfs run /root/run
for d in dev proc sys; do $bb mount -o move /$d /root/$d; done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PS1='root@debian:/# '
exec $bb switch_root /root /bin/sh -i
"""


def shell_initrd(folder):
    """The small initial RAM disk with that first process instead of its own (a second archive)."""
    tree = pathlib.Path(tempfile.mkdtemp(dir=folder))
    (tree / "init").write_text(SHELL_INIT)
    (tree / "init").chmod(0o755)
    archive = subprocess.run("find . | cpio --quiet -o -H newc -R 0:0", shell=True, cwd=tree, capture_output=True, check=True).stdout
    target = pathlib.Path(folder, "shell-initrd")
    target.write_bytes(pathlib.Path(images("cloud")[1]).read_bytes() + archive)
    shutil.rmtree(tree)
    return str(target)


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
