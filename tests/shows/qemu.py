# SPDX-License-Identifier: Apache-2.0
"""Debian's QEMU as the shows drive it: its command line with softkvm as /dev/kvm or with TCG, and its QMP socket."""
import json
import pathlib
import shutil
import socket
import subprocess
import time

from show import Failed, build, skip, vireo

PROGRAM = "qemu-system-x86_64"
OVMF = "/usr/share/OVMF"
# OVMF maps all that the CPU could address; with the host's 46 or more bits that is half a gigabyte of page tables.
HOST_CPU = "host,host-phys-bits-limit=40"


def version():
    if not shutil.which(PROGRAM):
        skip(f"no {PROGRAM} here")
    return subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def softkvm(command):
    """The same command with softkvm as its /dev/kvm."""
    build(("vireo-kvm",))
    return [vireo(), "kvm", "--", *command]


def qemu(*, accel, machine="q35", cpus=1, kernel=None, initrd=None, append="", disk=None, disk_format="raw", cache=None,
         accel_options="", firmware=None, memory="512M", net=True, qmp=None, forward=None, extra=()):
    """The command line. accel: kvm (softkvm) or tcg. firmware: a writable copy of OVMF's variables, or none: SeaBIOS."""
    command = [PROGRAM, "-nodefaults", "-display", "none", "-machine", machine, "-smp", str(cpus), "-m", memory, "-serial",
               "stdio", "-no-reboot", "-accel", "kvm" + accel_options if accel == "kvm" else "tcg,thread=multi",
               "-cpu", HOST_CPU if accel == "kvm" else "max"]
    if firmware:
        code = pathlib.Path(OVMF, "OVMF_CODE_4M.fd")
        if not code.exists():
            skip("no OVMF here (package ovmf)")
        command += ["-drive", f"if=pflash,format=raw,readonly=on,file={code}", "-drive", f"if=pflash,format=raw,file={firmware}"]
    if kernel:
        command += ["-kernel", kernel, "-append", append]
    if initrd:
        command += ["-initrd", initrd]
    if disk:
        command += ["-drive", f"if=none,id=disk,format={disk_format},file={disk}" + (f",cache={cache}" if cache else ""),
                    "-device", "virtio-blk-pci,drive=disk"]
    if net:
        command += ["-netdev", "user,id=net" + (f",hostfwd={forward}" if forward else ""), "-device",
                    "virtio-net-pci,netdev=net,romfile="]
    if qmp:
        command += ["-qmp", f"unix:{qmp},server=on,wait=off"]
    command += list(extra)
    return softkvm(command) if accel == "kvm" else command


def variables(folder):
    """A fresh copy of OVMF's variables."""
    source = pathlib.Path(OVMF, "OVMF_VARS_4M.fd")
    if not source.exists():
        skip("no OVMF here (package ovmf)")
    target = pathlib.Path(folder, "variables.fd")
    shutil.copy(source, target)
    return str(target)


class Qmp:
    """One QMP connection. Spec: QEMU's docs/interop/qmp-spec.txt."""

    def __init__(self, path, limit=20.0):
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + limit
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Failed(f"QEMU opened no QMP socket within {limit:.0f} s") from None
                time.sleep(0.05)
        self.socket.settimeout(60)
        self.file = self.socket.makefile("rw", encoding="utf-8")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.file.write(json.dumps(message) + "\n")
        self.file.flush()
        while True:
            try:
                line = self.file.readline()
            except TimeoutError:
                raise Failed(f"QMP {command}: no answer within 60 s") from None
            except OSError:
                line = ""
            if not line:
                raise Failed(f"QMP {command}: QEMU is gone")
            answer = json.loads(line)
            if "error" in answer:
                raise Failed(f"QMP {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def monitor(self, line):
        said = self("human-monitor-command", command_line=line)
        if said.strip():
            raise Failed(f"{line}: {said.strip()}")

    def status(self):
        return self("query-status")["status"]

    def until(self, question, wanted, limit=60.0):
        """Asks until `wanted(answer)` is true; gives the answer."""
        deadline = time.monotonic() + limit
        while True:
            answer = self(question)
            if wanted(answer):
                return answer
            if time.monotonic() > deadline:
                raise Failed(f"{question}: still {answer} after {limit:.0f} s")
            time.sleep(0.1)
