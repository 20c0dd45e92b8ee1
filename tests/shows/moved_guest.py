# SPDX-License-Identifier: Apache-2.0
"""The guest that is moved while it boots: an initial RAM disk of busybox whose work ends in lines that depend on no time."""
import pathlib
import shutil

from show import skip

FORMAT_FILE, FORMAT_DIRECTORY, FORMAT_DEVICE = 0o100755, 0o040755, 0o020600

# The work: integer, SIMD and x87 code, pipes, processes, files and timers, on all CPUs at once. No line depends on time.
INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
echo 1 > /proc/sys/kernel/printk
echo; echo "RESULT cpus $(grep -c ^processor /proc/cpuinfo)"
work() {
  sum=$1 n=0
  while [ $n -lt ROUNDS ]; do
    n=$((n + 1))
    sum=$(for i in 1 2 3 4 5 6; do echo "$sum"; cat /bin/busybox; done | sha256sum)
    gzip -c /init | gunzip -c | cmp - /init || echo "gzip $n" > /tmp/wrong.$1
    awk -v n=$n 'BEGIN { for (i = 1; i < 3000; i++) s += i / (n + i % 7) - 3.7 / i; printf "%.14g\n", s }' >> /tmp/sums.$1
    usleep 3000
  done
  echo "$sum" >> /tmp/sums.$1
}
cpus=$(grep -c ^processor /proc/cpuinfo)
for cpu in $(seq $cpus); do work $cpu & done
before=$(cut -d. -f1 /proc/uptime)
wait
for cpu in $(seq $cpus); do
  echo "RESULT $cpu $(sha256sum < /tmp/sums.$cpu) $(tail -n 1 /tmp/sums.$cpu) $(cat /tmp/wrong.$cpu 2> /dev/null)"
done
after=$(cut -d. -f1 /proc/uptime)
[ $after -ge $before ] && [ $after -lt $((before + 100)) ] && echo "RESULT time goes on"
dmesg | grep -iE 'BUG:|WARNING:|unstable|Call Trace|lockup|rcu.*detected'
echo "RESULT end"
reboot -f
"""


def archive(path, rounds=5):
    """An initial RAM disk whose guest works for so many rounds. Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst."""
    busybox = shutil.which("busybox")
    if not busybox:
        skip("busybox is not installed")
    out = bytearray()

    def entry(name, mode, data=b"", device=(0, 0)):
        encoded = name.encode() + b"\0"
        fields = (len(out) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        out.extend(bytes(-len(out) % 4))
        out.extend(data)
        out.extend(bytes(-len(out) % 4))

    for folder in ("dev", "bin", "proc", "tmp"):
        entry(folder, FORMAT_DIRECTORY)
    entry("dev/console", FORMAT_DEVICE, device=(5, 1))
    entry("dev/null", FORMAT_DEVICE, device=(1, 3))
    entry("bin/busybox", FORMAT_FILE, pathlib.Path(busybox).read_bytes())
    entry("init", FORMAT_FILE, INIT.replace("ROUNDS", str(rounds)).encode())
    entry("TRAILER!!!", 0)
    pathlib.Path(path).write_bytes(out)
