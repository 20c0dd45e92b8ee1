#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/suite without machines: calibration, comparison of outputs, ratios and bars, the shapes of the reports."""
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from suite import measure, report  # noqa: E402
from suite.rows import BY_NAME  # noqa: E402

ALU = BY_NAME["alu"]


class FakeMachine:
    """Takes so many seconds for a round of a micro; the delays are added to its first runs. What it prints depends on the count alone."""

    def __init__(self, cost, delays=(), wrong=False):
        self.cost, self.delays, self.wrong, self.counts = cost, list(delays), wrong, []

    def run(self, _mode, command, _limit):
        count = int(command.split()[-1])
        self.counts.append(count)
        delay = self.delays.pop(0) if self.delays else 0
        return count * self.cost + delay, 0, (1, f"{count}{'x' * self.wrong}")


def run_with(**live):
    run = measure.Run(None, list(live), 1, micro_seconds=0.04)
    run.live, run.ops = live, {"alu": 1}
    for name in live:
        run._calibrate(name, ALU)
    return run


class Calibration(unittest.TestCase):
    def test_a_run_takes_about_the_wanted_time(self):
        run = run_with(native=FakeMachine(1e-9), tcg7=FakeMachine(2e-5))
        self.assertAlmostEqual(run.counts["alu"]["native"] * 1e-9, 0.04, delta=0.004)
        self.assertAlmostEqual(run.counts["alu"]["tcg7"] * 2e-5, 0.04, delta=0.004)

    def test_a_delayed_run_is_not_taken_for_a_slow_machine(self):
        run = run_with(native=FakeMachine(1e-9, delays=[0.5]))
        self.assertGreater(run.counts["alu"]["native"] * 1e-9, 0.01)


class Outputs(unittest.TestCase):
    def test_equal_work_is_compared_with_another_machine(self):
        run = run_with(native=FakeMachine(1e-9), vireo=FakeMachine(2e-9))
        for name in run.live:
            run._measure(name, ALU)
        self.assertEqual(run.trouble, [])
        self.assertEqual(run.checked["alu"], 2)
        self.assertIn(run.counts["alu"]["vireo"], run.live["native"].counts)

    def test_a_wrong_output_is_trouble(self):
        run = run_with(native=FakeMachine(1e-9), vireo=FakeMachine(2e-9, wrong=True))
        run._measure("vireo", ALU)
        self.assertEqual(len(run.trouble), 1)


def result_of(row, median):
    whole = {"name": row.name, "title": row.title, "group": row.group, "median_s": median, "times_s": {k: [v] for k, v in median.items()},
             "ratios": measure.ratios(median), "outputs_compared": 1,
             "bars": {k: v for k, v in (("native", row.native_bar), ("us", row.us_bar)) if v}}
    return {"facts": {"date": "d", "commit": "c", "cpus": 2, "cpu": "x", "memory_gib": 1, "kernel": "k", "virtual": False, "load_after": 0},
            "machines": {name: "v" for name in median}, "rounds": 1, "size_percent": 100, "rows": [whole], "trouble": []}


class Reports(unittest.TestCase):
    def test_the_faster_tcg_counts(self):
        self.assertEqual(measure.ratios({"native": 1, "tcg7": 12, "tcg10": 9, "vireo": 3}),
                         {"vireo_native": 3, "tcg7_native": 12, "tcg10_native": 9, "faster_than_tcg": 3})

    def test_bars(self):
        for row, vireo, said in ((BY_NAME["alu"], 1.2, "meets"), (BY_NAME["alu"], 1.4, "misses"), (BY_NAME["getpid"], 0.5e-6, "misses"),
                                 (BY_NAME["gcc"], 1.4, "meets"), (BY_NAME["gcc"], 2.0, "misses")):
            native = 1 if vireo > 0.1 else 1e-7
            row = result_of(row, {"native": native, "tcg7": native * 3, "vireo": vireo})["rows"][0]
            self.assertTrue(report.verdict(row).startswith(said), row)

    def test_every_line_of_a_table_has_the_same_columns(self):
        result = result_of(BY_NAME["gcc"], {"native": 1.0, "tcg7": 9.0, "vireo": 2.0})
        lines = [line for line in report.markdown(result, {"gcc": "why"}, "p.svg").splitlines() if line.startswith("|")]
        self.assertEqual(len({line.count("|") for line in lines}), 1)
        self.assertIn("why", lines[-1])
        self.assertIn("4.50", report.table(result))
        self.assertIn("<svg", report.svg(result))


unittest.main()
