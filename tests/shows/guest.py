# SPDX-License-Identifier: Apache-2.0
"""A running machine seen from outside: its process, and its serial console driven as a person would drive it."""
import hashlib
import os
import re
import signal
import subprocess
import threading
import time

from show import Failed

BOOT_LIMIT = float(os.environ.get("VIREO_BOOT_LIMIT", "180"))
PROMPT = rb"root@[\w.-]+:[^\n]*[#$] "
# Work whose result a wrong instruction, register or page would change: sums chained over a file; and what comes of it.
WORK = "s=start; for i in $(seq 1 {rounds}); do s=$(echo $s $i | sha256sum | cut -d' ' -f1); done; echo $s"


def result_of_work(rounds):
    s = "start"
    for i in range(1, rounds + 1):
        s = hashlib.sha256(f"{s} {i}\n".encode()).hexdigest()
    return s


def vireo_run(program, *, kernel, initrd=None, append="", disks=(), net="user", memory="512M", cpus=1, board=None,
              accel=None, extra=()):
    """The command line of `vireo run`; disks are what --disk takes."""
    command = [program, "run", "--kernel", kernel, "--append", append, "--memory", memory, "--cpus", str(cpus)]
    accel = accel or os.environ.get("VIREO_ACCEL", "soft")
    command += ["--accel", accel]
    if initrd:
        command += ["--initrd", initrd]
    if board:
        command += ["--board", board]
    for disk in disks:
        command += ["--disk", disk]
    if net:
        command += ["--net", net]
    return command + list(extra)


class Guest:
    """Starts a machine with its serial console on pipes. Everything that it says is kept, with the time of arrival."""

    def __init__(self, command, env=None):
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, bufsize=0, env=env, start_new_session=True)
        self.console, self.errors, self.at = bytearray(), bytearray(), 0
        self.arrivals = {id(self.console): [], id(self.errors): []}
        self.changed = threading.Condition()
        self.readers = [threading.Thread(target=self._read, args=args, daemon=True) for args in
                        ((self.process.stdout, self.console), (self.process.stderr, self.errors))]
        for reader in self.readers:
            reader.start()
        self.words = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def _read(self, stream, into):
        while data := os.read(stream.fileno(), 65536):
            with self.changed:
                self.arrivals[id(into)].append((len(into), time.monotonic()))
                into += data
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def expect(self, pattern, limit=60.0):
        """Waits for a regular expression in what has not been looked at yet; returns the match."""
        if isinstance(pattern, str):
            pattern = pattern.encode()
        deadline = time.monotonic() + limit
        with self.changed:
            while True:
                found = re.compile(pattern).search(self.console, self.at)
                if found:
                    self.at = found.end()
                    return found
                gone = not self.readers[0].is_alive()
                left = deadline - time.monotonic()
                if gone or left <= 0:
                    why = (f"the machine ended with {self.process.wait()}" if gone else f"{limit:.0f} s passed")
                    raise Failed(f"{why} before the console said {pattern.decode()!r}; it ends in:\n{self.tail()}")
                self.changed.wait(min(left, 1.0))

    def when(self, offset, stream=None):
        """The host's time, in seconds since the start, at which the byte at an offset of a stream arrived."""
        stream = self.console if stream is None else stream
        return max(t for at, t in self.arrivals[id(stream)] if at <= offset) - self.began

    def tail(self, lines=15):
        text = bytes(self.console).decode(errors="replace").splitlines()[-lines:]
        text += ["stderr: " + line for line in bytes(self.errors).decode(errors="replace").splitlines()[-5:]]
        return "\n".join("  | " + line for line in text)

    def send(self, text):
        self.process.stdin.write(text.encode() if isinstance(text, str) else text)

    def shell(self, limit=BOOT_LIMIT):
        """Waits for the shell prompt and turns echo off, so that only output comes back."""
        self.expect(PROMPT, limit)
        self.send("stty -echo; PS1=; PS2=\n")
        self.run("echo 1 > /proc/sys/kernel/printk")  # else the kernel's messages mix with the answers

    def run(self, command, limit=120.0, check=True):
        """Runs a shell command in the guest; returns its output, and with check=False its status too."""
        self.words += 1
        word = f"{os.getpid()}x{self.words}"
        # The word is written in two halves, so that an echo of this line is not taken for its answer.
        # The command must not read the console: the line after it is there already.
        self.send(f"echo 'beg''in{word}'; {{ {command}\n}} < /dev/null; echo ' e''nd{word}' $?\n")
        self.expect(rf"begin{word}\r?\n", limit)
        start = self.at
        match = self.expect(rf" end{word} (\d+)\r?\n", limit)
        output = bytes(self.console[start:match.start()]).decode(errors="replace").replace("\r\n", "\n").strip()
        status = int(match.group(1))
        if not check:
            return output, status
        if status:
            raise Failed(f"in the guest, '{command}' ended with {status}:\n{output}")
        return output

    def wait(self, limit=60.0):
        """Waits for the machine to end by itself; returns its exit status."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"the machine had not ended {limit:.0f} s later; its console ends in:\n{self.tail()}") from None
        for reader in self.readers:
            reader.join(5)
        return status

    def kill(self):
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()

    def cpu_seconds(self):
        """User and system time of the whole process so far. Spec: proc(5), /proc/PID/stat fields 14 and 15."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
