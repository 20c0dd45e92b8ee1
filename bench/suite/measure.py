# SPDX-License-Identifier: Apache-2.0
"""Runs rows on machines in turn. One boot per machine and CPU count; in each round every row runs on every machine, one at a time."""
import os
import platform
import statistics
import subprocess
import sys
import time

from . import machines
from .rows import ROWS


def note(text):
    print(text, file=sys.stderr, flush=True)


def machine_facts():
    model, virtual = "unknown CPU", False
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
            if line.startswith("flags"):
                virtual = " hypervisor " in line
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=machines.TOP, capture_output=True, text=True, check=False)
    return {"date": time.strftime("%Y-%m-%d %H:%M %z"), "commit": commit.stdout.strip() or "unknown", "cpu": model,
            "cpus": os.cpu_count(), "kernel": platform.release(), "virtual": virtual,
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30), "load_before": round(os.getloadavg()[0], 1)}


class Run:
    """One comparison: options, the machines that are up, and what was measured."""

    def __init__(self, place, names, rounds, *, micro_seconds=0.2, size=100, limit=300):
        self.place, self.names, self.rounds = place, names, rounds
        self.micro_seconds, self.size, self.limit = micro_seconds, size, limit
        self.times = {}    # row -> machine -> seconds per operation (micro) or run
        self.counts = {}   # row -> machine -> rounds of the micro's loop
        self.trouble = []  # what went wrong, as sentences
        self.outputs = {}  # (row, count) -> output
        self.checked = {}  # row -> number of outputs found equal to another machine's
        self.live, self.ops, self.failed = {}, {}, set()

    def rows(self, wanted):
        """Measures the rows named; machines are started as their CPU counts come up and stopped after. Called again it adds as many rounds, on
        machines started anew: where code comes to lie differs from one start to the next, and no round on the same machines averages that out."""
        chosen = [row for row in ROWS if row.name in wanted]
        for cpus in sorted({row.cpus for row in chosen if row.group != "boot"}):
            self._with_machines(cpus, [row for row in chosen if row.cpus == cpus and row.group != "boot"])
        for row in chosen:
            if row.group == "boot":
                self._boot(row)

    def _with_machines(self, cpus, rows):
        try:
            for name in self.names:
                self.live[name] = self.place.start(name, cpus)
                note(f"{name}, {cpus} CPU{'s' * (cpus > 1)}: ready after {self.live[name].ready_seconds:.1f} s")
            for row in rows:
                if row.micro:
                    for name in list(self.live):
                        if name not in self.counts.get(row.name, {}):  # counted by an earlier start of the machines
                            self._attempt(name, row, self._calibrate)
            for turn in range(self.rounds):
                began = time.monotonic()
                for row in rows:
                    for name in list(self.live):
                        self._attempt(name, row, self._measure)
                note(f"round {turn + 1} of {self.rounds}: {time.monotonic() - began:.0f} s")
        finally:
            for machine in self.live.values():
                machine.kill()
            self.live.clear()

    def _attempt(self, name, row, what):
        if (row.name, name) in self.failed or row.micro and what == self._measure and name not in self.counts.get(row.name, {}):
            return  # not possible there
        try:
            what(name, row)
        except machines.Broken as broken:
            note(str(broken))
            self.trouble.append(str(broken))
            self.failed.add((row.name, name))
            if self.live[name].process.poll() is not None or "said nothing" in str(broken):
                self.live.pop(name).kill()  # the other machines go on

    def _micro(self, name, row, count):
        return self.live[name].run("self", f"/bench/micro {row.name} {count}", self.limit)

    def _calibrate(self, name, row):
        """Finds the count that takes the wanted time on this machine. A run that others' work delayed looks like a slow one, so a count
        is settled only when it took long enough twice."""
        others = self.counts.get(row.name, {})
        wanted = self.micro_seconds * (10 if row.cpus > 1 else 1)  # the scheduler takes its time to spread threads
        count, good, seconds = max(1, others.get("native", 0) // 200), 0, 0.0
        while good < 2:
            took, status, _ = self._micro(name, row, count)
            if status == 77:
                return
            if took >= wanted / 3:
                seconds = min(seconds, took) if good else took
                good += 1
            else:
                good = 0
                count = max(count * 2, int(count * min(100, wanted / max(took, 1e-5))))
        count = max(1, int(count * wanted / seconds))
        self.counts.setdefault(row.name, {})[name] = count

    def _measure(self, name, row):
        if row.micro:
            count = self.counts[row.name][name]
            seconds, _, output = self._micro(name, row, count)
            self._compare(row, name, count, output, lambda judge: self._micro(judge, row, count)[2])
            seconds /= count * self._ops(name, row)
        else:
            mode = "self" if row.name == "packages" else "whole"
            seconds, _, output = self.live[name].run(mode, f"sh /bench/whole.sh {row.name} {self.size}", self.limit)
            self._compare(row, name, 0, output, lambda judge: None)
        self.times.setdefault(row.name, {}).setdefault(name, []).append(seconds)

    def _ops(self, name, row):
        if not self.ops:
            got = subprocess.run([self.place.root + "/bench/micro", "--list"], capture_output=True, text=True, check=True).stdout
            self.ops = {line.split()[0]: int(line.split()[1]) for line in got.splitlines()}
        return self.ops[row.name]

    def _compare(self, row, name, count, output, ask):
        """Holds an output against that of another machine (native where it can) for the same work."""
        key = (row.name, count)
        if key not in self.outputs:
            able = [other for other in self.live if other != name and (not row.micro or other in self.counts[row.name])]
            if row.micro:  # the first one (native) judges, unless it is so slow at this that it would take long
                able.sort(key=lambda other: self.counts[row.name][other] < count / 5)
            judged = ask(able[0]) if able and row.micro else None
            self.outputs[key] = judged or output
            if judged is None:
                return
        if self.outputs[key] != output:
            text = f"{row.name}: {name}'s output {output} differs from another machine's {self.outputs[key]}"
            note(text)
            self.trouble.append(text)
        else:
            self.checked[row.name] = self.checked.get(row.name, 0) + 1

    def _boot(self, row):
        for turn in range(self.rounds):
            for name in self.names:
                if name == "native":
                    continue
                try:
                    self.times.setdefault(row.name, {}).setdefault(name, []).append(self.place.boot(name, row.cpus))
                except machines.Broken as broken:
                    note(str(broken))
                    self.trouble.append(str(broken))

    def result(self):
        facts = machine_facts()
        facts["load_after"] = facts.pop("load_before")
        rows = []
        for row in ROWS:
            times = {name: values for name, values in self.times.get(row.name, {}).items() if values}
            if not times:
                continue
            median = {name: statistics.median(values) for name, values in times.items()}
            rows.append({"name": row.name, "title": row.title, "group": row.group, "cpus": row.cpus, "median_s": median, "times_s": times,
                         "counts": self.counts.get(row.name, {}), "outputs_compared": self.checked.get(row.name, 0),
                         "ratios": ratios(median), "bars": {k: v for k, v in (("native", row.native_bar), ("us", row.us_bar)) if v}})
        return {"facts": facts, "machines": {name: self.place.version(name) for name in self.names}, "rounds": self.rounds,
                "size_percent": self.size, "rows": rows, "trouble": self.trouble}


def ratios(median):
    """vireo and TCG over native; and how many times faster vireo is than the faster TCG."""
    out = {}
    for name in ("vireo", "tcg7", "tcg10"):
        if name in median and median.get("native"):
            out[f"{name}_native"] = median[name] / median["native"]
    tcg = [median[name] for name in ("tcg7", "tcg10") if name in median]
    if tcg and median.get("vireo"):
        out["faster_than_tcg"] = min(tcg) / median["vireo"]
    return out


def geometric_mean(values):
    values = list(values)
    return statistics.geometric_mean(values) if values else None
