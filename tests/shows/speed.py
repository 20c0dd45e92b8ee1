# SPDX-License-Identifier: Apache-2.0
"""What the scripts 02-N share: they measure through the benchmark suite (bench/) and hold its figures against a bar.

VIREO_ROUNDS (5) and VIREO_SIZE (100, percent of the whole programs' full size) make a run shorter; the bars are meant for the defaults.
"""
import functools
import os
import shutil
import sys

from show import TOP, Failed, say, skip, vireo

sys.path.insert(0, str(TOP / "bench"))
sys.dont_write_bytecode = True
from suite import machines, report  # noqa: E402
from suite.measure import Run  # noqa: E402
from suite.rows import ROWS  # noqa: E402

ROUNDS = int(os.environ.get("VIREO_ROUNDS", "5"))
SIZE = int(os.environ.get("VIREO_SIZE", "100"))


@functools.cache
def place(folder):
    if os.geteuid() != 0:
        skip("the native runs need root (chroot, mount namespaces)")
    for program in ("mmdebstrap", "qemu-system-x86_64", "setpriv"):
        if not shutil.which(program):
            skip(f"{program} is not installed")
    try:
        made = machines.Place(folder, vireo())
        made.program("tcg10")
        return made
    except machines.Broken as broken:
        skip(str(broken))


def group(name):
    return [row.name for row in ROWS if row.group == name]


def measured(numbers, folder, wanted, names=machines.NAMES):
    """Measures rows; prints the table, keeps it in the numbers; gives the rows by name and the whole result."""
    try:
        machines.favour(0)
        run = Run(place(folder), list(names), ROUNDS, size=SIZE)
        run.rows(set(wanted))
        result = run.result()
    except machines.Broken as broken:
        raise Failed(str(broken)) from None
    finally:
        machines.favour(0, 0)
    numbers["result"] = result
    say(report.table(result))
    if result["trouble"]:
        raise Failed("; ".join(result["trouble"])[:2000])
    rows = {row["name"]: row for row in result["rows"]}
    for name in wanted:
        if name not in rows or "vireo" not in rows[name]["median_s"]:
            raise Failed(f"{name}: no figure for vireo")
    return rows, result


class Bars:
    """Collects what does not hold, so that one run says all of it."""

    def __init__(self):
        self.missed = []

    def at_most(self, what, value, bar, unit=""):
        if value is None or value > bar:
            self.missed.append(f"{what} {'has no figure' if value is None else f'{value:.3g}{unit}'}, at most {bar:g}{unit}")

    def at_least(self, what, value, bar, unit=""):
        if value is None or value < bar:
            self.missed.append(f"{what} {'has no figure' if value is None else f'{value:.3g}{unit}'}, at least {bar:g}{unit}")

    def hold(self):
        if self.missed:
            raise Failed("; ".join(self.missed))
