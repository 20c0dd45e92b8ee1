# SPDX-License-Identifier: Apache-2.0
"""The life of a small guest on Debian's unmodified kernels, as lines 01-2 and 01-4 want it."""
import os
import time

from guest import PROMPT, Guest, vireo_run
from show import Failed, FileServer, clean_file_system, copy_root, images, say, vireo

DOWNLOAD_MIB = 32
FILE_MIB = int(os.environ.get("VIREO_FILE_MIB", "512"))


def wanted(kernels):
    """(kernel, cpus) pairs; VIREO_SHOW_ONLY="cloud:1 generic:4" picks some."""
    pairs = [(kernel, cpus) for kernel in kernels for cpus in (1, 2, 4)]
    only = os.environ.get("VIREO_SHOW_ONLY", "").split()
    return [p for p in pairs if not only or f"{p[0]}:{p[1]}" in only]


def start(kernel, cpus, disk, board):
    vmlinuz, initrd, _ = images(kernel)
    return Guest(vireo_run(vireo(), kernel=vmlinuz, initrd=initrd, append="console=ttyS0", disks=(disk,), cpus=cpus,
                           board=board))


def life(kernel, cpus, board, server, folder):
    """One long life: shell, disk, lease, download, a big file kept over a reboot, power off. Returns its numbers."""
    disk = copy_root(kernel, folder)
    numbers = {}
    with start(kernel, cpus, disk, board) as guest:
        guest.shell()
        numbers["shell_s"] = round(time.monotonic() - guest.began, 2)
        seen = int(guest.run("nproc"))
        if seen != cpus:
            raise Failed(f"the guest sees {seen} CPUs, not {cpus}")
        release = guest.run("uname -r")
        if release not in os.path.realpath(images(kernel)[0]):
            raise Failed(f"the guest runs {release}, which is not the kernel that it was given")
        mounted = guest.run("grep ' / ' /proc/mounts")
        if not mounted.startswith("/dev/vda / ext4 rw"):
            raise Failed(f"the root is not the disk: {mounted}")
        lease = guest.run("ip -4 -o addr show dev eth0")
        if " 10.0.2." not in lease or "lease of" not in guest.run("cat /run/dhcp.log"):
            raise Failed(f"no DHCP lease: {lease}")

        began = time.monotonic()
        got = guest.run(f"wget -q -O /tmp/file {server.url} && sha256sum < /tmp/file && rm /tmp/file", 300).split()[0]
        numbers["download_s"] = round(time.monotonic() - began, 2)
        if got != server.digest:
            raise Failed(f"the downloaded file's sha256 is {got}, not {server.digest}")

        began = time.monotonic()
        written = guest.run(f"dd if=/dev/urandom bs=1M count={FILE_MIB} 2> /dev/null | tee /root/big | sha256sum",
                            900).split()[0]
        guest.run("sync", 300)
        numbers["write_s"] = round(time.monotonic() - began, 2)

        guest.send("reboot\n")
        guest.expect(rb"Linux version ", BOOT_AFTER_REBOOT)
        guest.shell()
        began = time.monotonic()
        size, read = guest.run("stat -c %s /root/big; sha256sum < /root/big", 900).split()[:2]
        numbers["read_s"] = round(time.monotonic() - began, 2)
        if int(size) != FILE_MIB << 20 or read != written:
            raise Failed(f"after the reboot the file has {size} bytes and sha256 {read}, not {written}")
        guest.send("poweroff\n")
        status = guest.wait()
        if status != 0:
            raise Failed(f"poweroff ended the machine with exit status {status}")
        if guest.errors:
            numbers["stderr"] = bytes(guest.errors).decode(errors="replace")
    clean, report = clean_file_system(disk)
    if not clean:
        raise Failed(f"the file system is not clean afterwards:\n{report}")
    os.unlink(disk)
    return numbers


BOOT_AFTER_REBOOT = 120


def boots(kernel, cpus, board, count, folder):
    """Boots to a shell and powers off, count times in a row, on one disk. Returns the seconds to the shell."""
    disk = copy_root(kernel, folder)
    seconds = []
    for number in range(1, count + 1):
        try:
            with start(kernel, cpus, disk, board) as guest:
                guest.shell()
                seconds.append(round(time.monotonic() - guest.began, 2))
                guest.run("test -b /dev/vda && ip -4 addr show dev eth0 | grep -q 'inet 10.0.2.'")
                guest.send("exit\n")
                status = guest.wait()
                if status != 0:
                    raise Failed(f"power-off ended the machine with exit status {status}")
        except Failed as failure:
            raise Failed(f"boot {number} of {count}: {failure}") from None
    os.unlink(disk)
    return seconds


def run_all(kernels, board):
    """The body of a show: every kernel with 1, 2 and 4 virtual CPUs."""
    def body(numbers, folder):
        count = int(os.environ.get("VIREO_BOOTS", "20"))
        server = FileServer(DOWNLOAD_MIB << 20)
        vireo()
        failures = []
        for kernel, cpus in wanted(kernels):
            name = f"{kernel}:{cpus}"
            say(f"{name} ...")
            try:
                numbers[name] = life(kernel, cpus, board, server, folder)
                say(f"{name} " + ", ".join(f"{k} {v}" for k, v in numbers[name].items()))
                seconds = boots(kernel, cpus, board, count, folder)
                numbers[name]["boots_s"] = seconds
                if seconds:
                    say(f"{name} {len(seconds)} boots in a row: {min(seconds)} to {max(seconds)} s to the shell")
            except Failed as failure:
                say(f"{name} FAILED: {failure}")
                failures.append(name)
        if failures:
            raise Failed(f"not with {', '.join(failures)}")
    return body
