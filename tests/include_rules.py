#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds every #include under src/ to the rules of docs/architecture.md. Prints file:line of each breach, exit 1.

A room is a folder of src/. Each room may include headers of itself and of the rooms that MAY names, written from
src/ on ("room/header.h"). --self-test shows that a breach is found.
"""
import pathlib
import re
import sys

# Lower rooms first. A room sees no room that is not in its set.
MAY = {
    "base": set(),
    "softkvm": {"base"},
    "kvm": {"base", "softkvm"},  # only through softkvm's public door, see DOORS
    "memory": {"base"},
    "devices": {"base", "memory"},
    "storage": {"base", "memory"},
    "network": {"base"},
    "display": {"base", "memory"},
    "virtio": {"base", "memory", "devices", "storage", "network", "display"},
    "machine": {"base", "memory", "devices", "storage", "network", "display", "virtio", "kvm"},
    "migration": {"base", "memory", "kvm", "machine"},
    "control": {"base", "memory", "devices", "machine", "migration", "storage", "network", "display", "kvm"},
    "cli": {"base", "memory", "devices", "storage", "network", "display", "virtio", "machine", "migration", "control",
            "kvm"},
    "preload": {"base", "softkvm"},
}
# Where a room is seen from outside through some headers only.
DOORS = {"softkvm": {"softkvm/softkvm.h", "softkvm/extensions.h"}}
# The seam: who includes <linux/kvm.h>. Devices and virtio never see a hypervisor.
KVM_ABI = {"base", "softkvm", "kvm", "machine", "migration", "preload"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def breaches(root):
    for path in sorted(root.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cc", ".c", ".S", ".inc") or not path.is_file():
            continue
        inside = path.relative_to(root)
        if len(inside.parts) < 2:
            continue
        room = inside.parts[0]
        where = f"{root.name}/{inside}"
        if room not in MAY:
            yield f"{where}:1: '{room}' is not a room of docs/architecture.md"
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found = INCLUDE.match(line)
            if not found:
                continue
            style, target = found.groups()
            if style == "<":
                if target == "linux/kvm.h" and room not in KVM_ABI:
                    yield f"{where}:{number}: room '{room}' must not see the hypervisor's ABI <linux/kvm.h>"
                continue
            other = target.split("/")[0]
            if "/" not in target or target.startswith("."):
                yield f"{where}:{number}: \"{target}\" must be written from src/ on, as \"{room}/...\""
            elif other not in MAY:
                yield f"{where}:{number}: \"{target}\" names no room"
            elif other != room and other not in MAY[room]:
                yield f"{where}:{number}: room '{room}' must not see room '{other}' (\"{target}\")"
            elif other != room and other in DOORS and target not in DOORS[other]:
                yield f"{where}:{number}: \"{target}\" is inside room '{other}'; use {', '.join(sorted(DOORS[other]))}"


def self_test():
    import tempfile
    cases = [("devices/a.cpp", '#include "kvm/vm.h"', True), ("devices/b.cpp", '#include "memory/x.h"', False),
             ("softkvm/cpu/c.cpp", '#include "machine/x.h"', True), ("softkvm/cpu/d.cpp", '#include "base/log.h"', False),
             ("virtio/e.cpp", "#include <linux/kvm.h>", True), ("kvm/f.cpp", '#include "softkvm/mmu/tlb.h"', True),
             ("kvm/g.cpp", '#include "softkvm/softkvm.h"', False), ("base/h.h", '#include "log.h"', True),
             ("util/i.h", "", True), ("cli/j.cpp", '#include "machine/board.h"', False)]
    failed = 0
    for name, text, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "src", name)
            file.parent.mkdir(parents=True)
            file.write_text(text + "\n")
            if bool(list(breaches(pathlib.Path(folder, "src")))) != expected:
                print(f"self-test: {name}: {text}: expected {'a' if expected else 'no'} breach", file=sys.stderr)
                failed += 1
    return failed


def main():
    if "--self-test" in sys.argv[1:]:
        return 1 if self_test() else 0
    found = list(breaches(pathlib.Path(__file__).resolve().parent.parent / "src"))
    print("\n".join(found) or "every #include keeps to the rules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
