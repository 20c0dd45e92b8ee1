# SPDX-License-Identifier: Apache-2.0
"""The places where a benchmark runs: natively (chroot), QEMU TCG 7.2 and 10.x, vireo. Each is a process with the benchmarks' agent
at the other end of a line; what the agent says is stamped with the host's clock on arrival."""
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
BENCH = TOP / "bench"
APPEND = "console=ttyS0 quiet loglevel=1 panic=-1 iomem=relaxed"  # iomem: so that a program may map a device for the MMIO row
MARK = "first-user-process"
MEMORY = "1G"
NAMES = ("native", "tcg7", "tcg10", "vireo")
TITLES = {"native": "native", "tcg7": "TCG 7.2", "tcg10": "TCG 10", "vireo": "vireo"}
FIRMWARE = b"Booting from "  # what SeaBIOS says on its debug port before it jumps to the ROM that loads -kernel
GUEST_INIT = """#!/bin/sh
export PATH=/bin
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
while read -r module; do $bb modprobe -q "$module" 2> /dev/null; done < /modules
$bb insmod /overlay.ko
$bb insmod /msr.ko
until [ -b /dev/vda ]; do $bb sleep 0.05; done
$bb mkdir /lower /rw
$bb mount -t ext4 -o ro /dev/vda /lower && $bb mount -t tmpfs rw /rw && $bb mkdir /rw/upper /rw/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /root
for d in dev proc sys; do $bb mount -o move /$d /root/$d; done
exec $bb switch_root /root /bench/agent
"""
# Natively: the same folder under the same kind of overlay, in a mount namespace of its own.
NATIVE = """set -e
mount -t tmpfs rw "$2"; mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" root "$2/root"
mount -t tmpfs tmp "$2/root/tmp"
mount -t proc proc "$2/root/proc"
mount --rbind /dev "$2/root/dev"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root taskset -c "$3" chroot "$2/root" /bench/agent
"""


def favour(pid, nice=-19):
    """Gives a process a high share of the CPUs, so that others' work on the host disturbs little: by its nice value, and by that of its
    session, which counts where the scheduler groups by session (sched(7), "The autogroup feature")."""
    os.setpriority(os.PRIO_PROCESS, pid or os.getpid(), nice)
    try:
        pathlib.Path(f"/proc/{pid or 'self'}/autogroup").write_text(str(nice))
    except OSError:
        pass


class Broken(Exception):
    """A machine does not do what it should; the text says which and how."""


class Lines:
    """A process whose output lines are kept with their times of arrival."""

    def __init__(self, name, command, env=None):
        self.name = name
        self.began = time.monotonic()
        # The machine must not outlive this process, however it ends.
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, bufsize=0, env=env, start_new_session=True)
        favour(self.process.pid)
        self.lines, self.at, self.rest, self.errors = [], 0, b"", bytearray()
        self.error_times = []
        self.changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self):
        # Stamping must not wait for a CPU that the machines have: real-time priority, for this thread alone.
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        except OSError:
            pass
        out = self.process.stdout.fileno()
        while data := os.read(out, 65536):
            now = time.monotonic()
            with self.changed:
                *whole, self.rest = (self.rest + data).split(b"\n")
                self.lines += [(line.strip(b"\r").decode(errors="replace"), now) for line in whole]
                self.changed.notify_all()
        with self.changed:
            self.lines.append((None, time.monotonic()))
            self.changed.notify_all()

    def _read_errors(self):
        while data := os.read(self.process.stderr.fileno(), 65536):
            self.error_times.append((len(self.errors), time.monotonic()))
            self.errors += data

    def next(self, limit):
        """The next line and its time; (None, time) when the machine has ended."""
        deadline = time.monotonic() + limit
        with self.changed:
            while self.at >= len(self.lines):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Broken(f"{self.name} said nothing for {limit:.0f} s; before: {self.tail()}")
                self.changed.wait(left)
            self.at += 1
            return self.lines[self.at - 1]

    def tail(self):
        return " | ".join([str(line) for line, _ in self.lines[-6:]] + [bytes(self.errors[-300:]).decode(errors="replace")])

    def cpu_seconds(self):
        """CPU time of the process and of the children that it has waited for. Spec: proc(5), /proc/PID/stat fields 14 to 17."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Agent(Lines):
    """A machine with the agent running in it."""

    def __init__(self, name, command, env=None, limit=120):
        super().__init__(name, command, env)
        while True:
            line, now = self.next(limit)
            if line is None:
                raise Broken(f"{name} ended with {self.process.wait()} before its agent was ready: {self.tail()}")
            if line.endswith("agent ready"):
                self.ready_seconds = now - self.began
                return

    def run(self, mode, command, limit=300):
        """Runs one command; returns (seconds between its marks, exit status, (length, hash) of its output)."""
        self.process.stdin.write(f"{mode} {command}\n".encode())
        start = end = None
        said = ""
        while True:
            line, now = self.next(limit)
            if line is None:
                raise Broken(f"{self.name} ended with {self.process.wait()} during '{command}': {self.tail()}")
            if line == "B":
                start = now
            elif line == "E":
                end = now
            elif line.startswith("! "):
                said = line[2:]
            elif line.startswith("R "):
                _, status, length, digest = line.split()
                if int(status) not in (0, 77):
                    raise Broken(f"{self.name}: '{command}' ended with {status}: {said}")
                seconds = end - start if start is not None and end is not None else None
                return seconds, int(status), (int(length), digest)


    def spread_vcpus(self):
        """Each virtual CPU's thread on a CPU of its own, as the native threads are: on a busy host they may sit on one for long."""
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            comm = pathlib.Path(f"/proc/{self.process.pid}/task/{task}/comm").read_text(encoding="ascii", errors="replace")
            if found := re.match(r"(?:vcpu |CPU )(\d+)(?:/TCG)?$", comm):
                os.sched_setaffinity(int(task), {int(found[1])})


class Place:
    """What all machines need: images, programs, options; starts machines by name."""

    def __init__(self, folder, vireo=None, extra=()):
        self.folder = pathlib.Path(folder)
        cache = pathlib.Path(os.environ.get("VIREO_CACHE", os.path.expanduser("~/.cache/vireo")))
        cache.mkdir(parents=True, exist_ok=True)
        self.lock = open(cache / "bench.lock", "w", encoding="ascii")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # two comparisons at once would measure each other
        self.vireo = vireo or os.environ.get("VIREO") or str(TOP / "build/release/bin/vireo")
        self.builds = {}  # other builds of vireo, by the machine's name
        self.extra = list(extra)
        self.kernel, self.boot_initrd, _ = self._lines(TOP / "tools/guest-images", "cloud")[:3]
        self.root, self.image = self._lines(BENCH / "make-bench-root")[:2]
        self.qemu = {"tcg7": "qemu-system-x86_64"}
        self.initrd = self._initrd()

    def close(self):
        self.lock.close()

    def _lines(self, program, *arguments):
        got = subprocess.run([str(program), *arguments], stdout=subprocess.PIPE, text=True, check=False, stdin=subprocess.DEVNULL)
        if got.returncode:
            raise Broken(f"{program} ended with {got.returncode}")
        return got.stdout.split("\n")

    def _initrd(self):
        """The small initial RAM disk with another /init and two modules laid over it (a second archive)."""
        tree = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        modules = next(pathlib.Path(self.kernel).parent.glob("lib/modules/*/kernel"))
        for name in ("fs/overlayfs/overlay.ko", "arch/x86/kernel/msr.ko"):
            shutil.copy(modules / name, tree)
        (tree / "init").write_text(GUEST_INIT)
        (tree / "init").chmod(0o755)
        archive = subprocess.run("find . | cpio --quiet -o -H newc -R 0:0", shell=True, cwd=tree, capture_output=True, check=True).stdout
        target = self.folder / "initrd"
        target.write_bytes(pathlib.Path(self.boot_initrd).read_bytes() + archive)
        return str(target)

    def program(self, name):
        if name == "tcg10" and name not in self.qemu:
            self.qemu[name] = self._lines(BENCH / "qemu-backports")[0] + "/run"
        return self.qemu.get(name) or self.builds.get(name, self.vireo)

    def ours(self, name):
        return name == "vireo" or name in self.builds

    def version(self, name):
        if name == "native":
            return f"Linux {os.uname().release}"
        got = subprocess.run([self.program(name), "--version"], capture_output=True, text=True, check=True)
        return got.stdout.splitlines()[0]

    def guest(self, name, cpus, initrd, append, firmware=False):
        """The command line of a guest. The disk is never written, so all share one."""
        if self.ours(name):
            return [self.program(name), "run", "--accel", os.environ.get("VIREO_ACCEL", "soft"), "--kernel", self.kernel, "--initrd", initrd,
                    "--append", append, "--memory", MEMORY, "--cpus", str(cpus), "--disk", f"{self.image},readonly", "--net", "none",
                    *self.extra]
        command = [self.program(name), "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
                   "-smp", str(cpus), "-m", MEMORY, "-serial", "stdio", "-kernel", self.kernel, "-initrd", initrd, "-append", append,
                   "-drive", f"if=none,id=disk,format=raw,readonly=on,file={self.image}", "-device", "virtio-blk-pci,drive=disk",
                   "-no-reboot", "-name", "guest,debug-threads=on"]
        if firmware:
            command += ["-chardev", "file,id=firmware,path=/dev/stderr", "-device", "isa-debugcon,iobase=0x402,chardev=firmware"]
        return command

    def start(self, name, cpus, env=None):
        if name == "native":
            scratch = tempfile.mkdtemp(dir=self.folder)
            return Agent(name, ["unshare", "-m", "--propagation", "private", "sh", "-c", NATIVE, "sh", self.root, scratch,
                                f"0-{cpus - 1}" if cpus > 1 else str((os.cpu_count() or 1) - 1)])
        agent = Agent(name, self.guest(name, cpus, self.initrd, APPEND), env)
        if 1 < cpus <= (os.cpu_count() or 1):
            agent.spread_vcpus()
        return agent

    def boot(self, name, cpus, whole=False):
        """Seconds from kernel start to the first user process. TCG's begin when its firmware jumps to the kernel's loader, vireo's
        with its process. `whole`: the machine powers off by itself then, as only a machine that ends leaves its translated code; else it is killed."""
        lines = Lines(name, self.guest(name, cpus, self.boot_initrd, f"{APPEND} vireo_mark={MARK} vireo_stop=poweroff", not self.ours(name)))
        try:
            while True:
                line, now = lines.next(120)
                if line is None:
                    raise Broken(f"{name} ended with {lines.process.wait()} while booting: {lines.tail()}")
                if line.endswith(MARK):
                    break
            start = lines.began
            if not self.ours(name):
                at = bytes(lines.errors).rfind(FIRMWARE)
                if at < 0:
                    raise Broken(f"{name}: the firmware did not say when it starts the kernel: {lines.tail()}")
                start = max(t for offset, t in lines.error_times if offset <= at)
            while whole and line is not None:
                line, _ = lines.next(120)
            if whole and lines.process.wait() != 0:
                raise Broken(f"{name} ended with {lines.process.wait()}: {lines.tail()}")
            return now - start
        finally:
            lines.kill()
