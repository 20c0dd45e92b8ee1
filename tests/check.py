#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds Vireo, runs its tests and prints a tally; ./check is the way to call it.

Unit tests come from ctest's list of the dev build (ASan+UBSan) and are counted case by case from GoogleTest's
report; the other tests stand in tests/list.txt. A skip that tests/expected-skips.txt does not name is a failure.
Logs: build/check-logs/NAME.log. With --full, results are kept in build/check-state/ under the commit (and what has
been changed since), and a second run goes on where the first one ended; failures are run again.
"""
import argparse
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree

TOP = pathlib.Path(__file__).resolve().parent.parent
BUILD = TOP / "build"
LOGS = BUILD / "check-logs"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
UNIT_LIMIT = 900


class Test:
    def __init__(self, name, kind, limit, command, quick=True, environment=None, folder=None, skip_code=77):
        self.name, self.kind, self.limit, self.command, self.quick = name, kind, limit, command, quick
        self.environment, self.folder, self.skip_code = environment or {}, folder or TOP, skip_code

    def log(self):
        return LOGS / (self.name.replace("/", "--") + ".log")


running = set()
running_lock = threading.Lock()
stopping = threading.Event()


def run(command, log, limit, environment=None, folder=TOP):
    """Runs a command in a process group of its own; returns its exit status, None after the time limit."""
    shell = isinstance(command, str)
    with open(log, "wb") as out:
        process = subprocess.Popen(command, shell=shell, executable="/bin/bash" if shell else None, cwd=folder,
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                   env={**os.environ, **(environment or {})}, start_new_session=True)
        with running_lock:
            running.add(process)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Also what the test left behind in its group.
            try:
                os.killpg(process.pid, signal.SIGTERM)
                time.sleep(0.2 if process.poll() is not None else 2)
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            with running_lock:
                running.discard(process)


def last_line(log, pattern):
    found = None
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(pattern, line)
        found = match.group(1).strip() if match else found
    return found


def gtest_cases(test, report, code):
    """The results of one GoogleTest program: (name, result, reason) for each of its cases."""
    try:
        root = xml.etree.ElementTree.parse(report).getroot()
    except (OSError, xml.etree.ElementTree.ParseError):
        return None
    cases = []
    for case in root.iter("testcase"):
        name = f"{test.name}/{case.get('classname')}.{case.get('name')}"
        failure, skip = case.find("failure"), case.find("skipped")
        if failure is not None:
            cases.append((name, FAILED, " ".join((failure.get("message") or "").split())[:200]))
        elif skip is not None:
            text = (skip.get("message") or "").split("\n", 1)[-1]  # the first line is the place in the source
            cases.append((name, SKIPPED, " ".join(text.split()) or "no reason given"))
        elif case.get("status") == "run":
            cases.append((name, PASSED, ""))
    if code not in (0, 1) or (code == 1 and not any(c[1] == FAILED for c in cases)):
        cases.append((test.name, FAILED, f"ended with exit status {code}"))
    return cases


def execute(test):
    """Runs one test; returns its results as a list of (name, result, reason)."""
    if stopping.is_set():
        return []
    log, environment, command = test.log(), dict(test.environment), test.command
    report = log.with_suffix(".xml")
    if test.kind == "gtest":
        report.unlink(missing_ok=True)
        environment["GTEST_OUTPUT"] = f"xml:{report}"
    code = run(command, log, test.limit, environment, test.folder)
    if code is None:
        return [(test.name, FAILED, f"took longer than {test.limit} s")]
    if stopping.is_set() and code < 0:
        return []
    if test.kind == "gtest":
        cases = gtest_cases(test, report, code)
        if cases is not None:
            return cases
    if test.kind == "lines":
        cases = []
        for line in log.read_text(errors="replace").splitlines():
            match = re.match(r"(PASS|FAIL|SKIP) ([^\s:]+)(?:: *(.*))?$", line)
            if match:
                result = {"PASS": PASSED, "FAIL": FAILED, "SKIP": SKIPPED}[match.group(1)]
                cases.append((f"{test.name}/{match.group(2)}", result, match.group(3) or ""))
        if code == 0 and cases:
            return cases
        if code != 0 and any(c[1] == FAILED for c in cases):
            return cases
        if code != test.skip_code:
            return cases + [(test.name, FAILED, f"exit status {code} with {len(cases)} results")]
    if code == test.skip_code:
        return [(test.name, SKIPPED, last_line(log, r"SKIP: *(.*)") or "no reason given")]
    if code:
        return [(test.name, FAILED, f"exit status {code}")]
    return [(test.name, PASSED, "")]


def listed_tests():
    tests = []
    for number, line in enumerate((TOP / "tests/list.txt").read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        which, limit, kind, name, command = line.split(None, 4)
        if which not in ("quick", "full") or kind not in ("one", "lines"):
            sys.exit(f"check: tests/list.txt:{number}: expected SET SECONDS COUNT NAME COMMAND")
        tests.append(Test(name, kind, int(limit), command, which == "quick"))
    return tests


def unit_tests(preset):
    """The tests that ctest knows of in one build."""
    folder = BUILD / preset
    listing = subprocess.run(["ctest", "--show-only=json-v1"], cwd=folder, capture_output=True, check=False)
    if listing.returncode:
        return []
    tests = []
    for entry in json.loads(listing.stdout).get("tests", []):
        properties = {p["name"]: p["value"] for p in entry.get("properties", [])}
        command = entry.get("command")
        if not command:
            tests.append(Test(f"{preset}/{entry['name']}", "one", 10, "echo 'program not built'; false"))
            continue
        environment = {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
                       **dict(v.split("=", 1) for v in properties.get("ENVIRONMENT", []))}
        kind = "gtest" if pathlib.Path(command[0]).name.endswith("_test") else "one"
        tests.append(Test(f"{preset}/{entry['name']}", kind, int(properties.get("TIMEOUT", UNIT_LIMIT)), command,
                          environment=environment, folder=properties.get("WORKING_DIRECTORY", folder),
                          skip_code=int(properties.get("SKIP_RETURN_CODE", 77))))
    return tests


def source_key():
    """Names what is being tested: the commit and a hash of what differs from it."""
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=TOP, capture_output=True, check=False)
    try:
        head = git("rev-parse", "HEAD")
    except FileNotFoundError:
        head = None
    digest = hashlib.sha256()
    if head is not None and head.returncode == 0:
        digest.update(git("diff", "HEAD").stdout)
        for name in git("ls-files", "-z", "--others", "--exclude-standard").stdout.split(b"\0"):
            if name:
                digest.update(name + (TOP / os.fsdecode(name)).read_bytes())
        return f"{head.stdout.decode().strip()[:16]}-{digest.hexdigest()[:8]}"
    for path in sorted(TOP.rglob("*")):
        if path.is_file() and BUILD not in path.parents:
            digest.update(str(path.relative_to(TOP)).encode() + path.read_bytes())
    return f"tree-{digest.hexdigest()[:16]}"


class Tally:
    def __init__(self, state_file):
        self.results, self.state_file, self.done, self.lock = [], state_file, {}, threading.Lock()
        if state_file and state_file.exists():
            self.done = json.loads(state_file.read_text())

    def known(self, test):
        """Results of an earlier run of the same sources, where none of them failed."""
        cases = self.done.get(test.name)
        return cases if cases and not any(case[1] == FAILED for case in cases) else None

    def add(self, test_name, cases, seconds, quiet=False, log=None):
        with self.lock:
            self.results += cases
            if self.state_file and cases:
                self.done[test_name] = cases
                self.state_file.parent.mkdir(parents=True, exist_ok=True)
                temporary = self.state_file.with_suffix(".tmp")
                temporary.write_text(json.dumps(self.done))
                temporary.replace(self.state_file)
        counts = {r: sum(c[1] == r for c in cases) for r in (PASSED, FAILED, SKIPPED)}
        text = ", ".join(f"{n} {r}" for r, n in counts.items() if n) if len(cases) != 1 else cases[0][1]
        print(f"{test_name}: {text} ({'seen before' if quiet else f'{seconds:.1f} s'})", flush=True)
        for name, result, reason in cases:
            if result == FAILED:
                print(f"  FAILED {name}: {reason}", flush=True)
        if log and counts[FAILED] and log.exists():
            for line in log.read_text(errors="replace").splitlines()[-12:]:
                print(f"  | {line[:200]}", flush=True)

    def close(self):
        expected = []
        for line in (TOP / "tests/expected-skips.txt").read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                expected.append([part.strip() for part in line.split("|", 1)])
        reasons, unexpected = {}, 0
        for name, result, reason in self.results:
            if result != SKIPPED:
                continue
            reasons.setdefault(reason, []).append(name)
            if not any(len(e) == 2 and fnmatch.fnmatchcase(name, e[0]) and fnmatch.fnmatchcase(reason, e[1])
                       for e in expected):
                print(f"UNEXPECTED SKIP {name}: {reason}")
                unexpected += 1
        failed = [(name, reason) for name, result, reason in self.results if result == FAILED]
        if failed:
            print(f"failed, with logs in {LOGS.relative_to(TOP)}/:")
            for name, reason in failed:
                print(f"  {name}: {reason}")
        if reasons:
            print("skipped:")
            for reason, names in sorted(reasons.items()):
                print(f"  {len(names)}  {reason}: {', '.join(names)}")
        if unexpected:
            print(f"{unexpected} skips are not in tests/expected-skips.txt")
        passed = sum(r[1] == PASSED for r in self.results)
        skipped = sum(len(n) for n in reasons.values())
        print(f"{passed} passed, {len(failed)} failed, {skipped} skipped", flush=True)
        return 1 if failed or unexpected or not passed else 0


def build(preset, targets, tally):
    """Configures and builds; True when the build is good."""
    began = time.monotonic()
    name = f"build/{preset}"
    log = LOGS / f"build--{preset}.log"
    wanted = " ".join(f"--target {t}" for t in targets)
    command = (f"set -e; [ -f build/{preset}/build.ninja ] || cmake --preset {preset}; "
               f"cmake --build --preset {preset} {wanted} -- -k 0")
    code = run(command, log, 3600)
    if stopping.is_set():
        return False
    if code:
        sys.stdout.write("\n".join(log.read_text(errors="replace").splitlines()[-40:]) + "\n")
    result = (name, PASSED, "") if code == 0 else (name, FAILED, "did not build")
    tally.add(name, [result], time.monotonic() - began)
    return code == 0


def programs(tests, preset):
    return sorted(set(re.findall(rf"build/{preset}/bin/([\w.-]+)", " ".join(t.command for t in tests))))


def main():
    parser = argparse.ArgumentParser(prog="./check", description="Builds Vireo, runs its tests, prints a tally.")
    parser.add_argument("--full", action="store_true", help="run everything; goes on where the last run ended")
    parser.add_argument("--fresh", action="store_true", help="with --full: forget what ran before")
    parser.add_argument("--only", metavar="PATTERN", action="append", default=[],
                        help="run tests whose name holds or matches PATTERN, of the full set too")
    parser.add_argument("--list", action="store_true", help="print the tests and stop")
    parser.add_argument("--minutes", type=float, default=60, metavar="N",
                        help="start no further test after this time; not with --full or --only (default 60)")
    options = parser.parse_args()
    began = time.monotonic()

    def chosen(name):
        return not options.only or any(p in name or fnmatch.fnmatchcase(name, p) for p in options.only)

    tests = [t for t in listed_tests() if chosen(t.name) and (t.quick or options.full or options.only or options.list)]
    if options.list:
        for t in tests:
            print(f"{'quick' if t.quick else 'full '}  {t.limit:6d} s  {t.name}")
        for t in unit_tests("dev") if (BUILD / "dev").exists() else []:
            if chosen(t.name):
                print(f"quick  {t.limit:6d} s  {t.name}")
        return 0

    LOGS.mkdir(parents=True, exist_ok=True)
    state = BUILD / "check-state" / f"{source_key()}.json" if options.full else None
    if state and options.fresh:
        state.unlink(missing_ok=True)
    tally = Tally(state)

    def stop(*_):
        stopping.set()
        with running_lock:
            for process in running:
                try:
                    os.killpg(process.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)

    def perform(test):
        earlier = tally.known(test) if state else None
        if earlier:
            tally.add(test.name, [tuple(c) for c in earlier], 0, quiet=True)
            return
        if not (options.full or options.only) and time.monotonic() - began > options.minutes * 60:
            tally.add(test.name, [(test.name, SKIPPED, "no time left")], 0)
            return
        start = time.monotonic()
        cases = execute(test)
        if cases:
            tally.add(test.name, cases, time.monotonic() - start, log=test.log())

    # What is quick to say no goes first; then the release build, which the guest tests need, and the sanitized one.
    rules = [t for t in tests if t.name.startswith("rules/")]
    guests = [t for t in tests if t not in rules]
    for test in rules:
        perform(test)
    if not options.only or any(p.startswith("dev") for p in options.only) or not tests:
        build("dev", [], tally)  # after a failure too: what could be built is still tested
        if not stopping.is_set():
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                list(pool.map(perform, [t for t in unit_tests("dev") if chosen(t.name)]))
    if guests and not stopping.is_set():
        # The preload library and its test are not built with sanitizers.
        wanted = ["vireo", "preload_test"]
        if build("release", wanted + [p for p in programs(guests, "release") if p not in wanted], tally):
            # What ctest has in the release build only: that, and checks of the compiled code, which need no program of their own.
            known = {t.name.split("/")[1] for t in unit_tests("dev")}
            for test in unit_tests("release"):
                if test.kind == "one" and test.name.split("/")[1] not in known and chosen(test.name):
                    perform(test)
            for test in guests:
                perform(test)
    status = tally.close()
    print_time = time.monotonic() - began
    (LOGS / "seconds").write_text(f"{print_time:.0f}\n")
    return 130 if stopping.is_set() else status


if __name__ == "__main__":
    sys.exit(main())
