# SPDX-License-Identifier: Apache-2.0
"""Ends what hangs, whatever else the machine has to do: by processor time, not by the clock. A program that works is given as much as it could
need; one that waits for nothing is known by using none. The clock alone cannot tell either from a busy machine."""
import os
import pathlib
import signal
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")


def session_seconds(leader):
    """User and system time of all processes of a session, with the children that they have waited for. Spec: proc(5), /proc/PID/stat,
    fields 6 and 14 to 17."""
    ticks = 0
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[3]) == leader:
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICK


class Watchdog:
    """Kills the process group of `leader`, which leads its session, when it has used `busy` seconds of processor time, or less than one per
    cent for `idle` seconds of the clock. `reason` then tells."""

    def __init__(self, leader, busy, idle=180.0, step=5.0):
        self.leader, self.busy, self.idle, self.step = leader, busy, idle, step
        self.reason = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _watch(self):
        seen = [(time.monotonic(), session_seconds(self.leader))]
        while not self.over.wait(self.step):
            now, used = time.monotonic(), session_seconds(self.leader)
            # Time of processes that have ended and were not waited for is lost: never less than before.
            used = max(used, seen[-1][1])
            seen.append((now, used))
            while len(seen) > 2 and now - seen[1][0] >= self.idle:
                seen.pop(0)
            if used > self.busy:
                self.reason = f"it had no end after {used:.0f} s of processor time"
            elif now - seen[0][0] >= self.idle and used - seen[0][1] < 0.01 * (now - seen[0][0]):
                self.reason = f"it hangs: {used - seen[0][1]:.1f} s of processor time in {now - seen[0][0]:.0f} s"
            if self.reason:
                try:
                    os.killpg(self.leader, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                return


def self_test():
    """What sleeps and what spins is ended, what works and ends by itself is not, and children count."""
    import subprocess
    failures = []
    for what, command, seconds, told in (("asleep", "sleep 60", (1.5, 20), "hangs"), ("spinning", "while :; do :; done", (1, 40), "no end"),
                                         ("a child that spins", "sh -c 'while :; do :; done' & wait", (1, 40), "no end"),
                                         ("at work for 2 s", "i=0; while [ $i -lt 20 ]; do sleep 0.1; i=$((i+1)); done", (2, 40), None)):
        began = time.monotonic()
        with subprocess.Popen(["sh", "-c", command], start_new_session=True) as process, \
                Watchdog(process.pid, busy=1.0, idle=1.5 if told == "hangs" else 60.0, step=0.2) as dog:
            process.wait(60)
        took = time.monotonic() - began
        if not seconds[0] <= took <= seconds[1] or (told or "") not in (dog.reason or "") or bool(told) != bool(dog.reason):
            failures.append(f"{what}: {took:.1f} s, {dog.reason}")
    print("\n".join(failures) or "the watchdog bites what hangs")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(self_test())
