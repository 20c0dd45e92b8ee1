# SPDX-License-Identifier: Apache-2.0
"""What is measured, in the order of the table, and the bars that each row is held to."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    title: str
    group: str             # micro, system, whole or boot
    native_bar: float = 0  # at most so many times native; 0: none
    us_bar: float = 0      # at most so many microseconds an operation
    cpus: int = 1
    user: bool = True      # counts as a user-mode whole program

    @property
    def micro(self):
        return self.group in ("micro", "system")


def _micro(bar, *names, cpus=1):
    return [Row(name, title, "micro", native_bar=bar, cpus=cpus) for name, title in names]


ROWS = [
    *_micro(1.3, ("alu", "ALU"), ("branches", "branches, half unpredictable"), ("branches_predicted", "branches, predictable")),
    *_micro(2.0, ("indirect_calls", "indirect calls"), ("call_ret", "call and ret (recursion)")),
    *_micro(0, ("page_end", "instruction across a page's end")),
    *_micro(2.5, ("loads", "loads, L1, one base"), ("loads_indexed", "loads, L1, indexed"), ("stores", "stores, L1")),
    *_micro(0, ("chase_8m", "pointer chase, 8 MiB")),
    *_micro(1.3, ("sse2_scalar", "SSE2 double, scalar"), ("sse2_double", "SSE2 double, packed"), ("sse2_integer", "SSE2 integer"),
            ("avx2_double", "AVX2 double"), ("avx2_integer", "AVX2 integer"), ("avx512_double", "AVX-512 double"),
            ("avx512_integer", "AVX-512 integer"), ("x87", "x87")),
    *_micro(2.0, ("locked", "locked operations")),
    *_micro(0, ("movs_16", "rep movsb, 16 B"), ("movs_64", "rep movsb, 64 B"), ("movs_256", "rep movsb, 256 B")),
    *_micro(1.3, ("movs_1024", "rep movsb, 1 KiB"), ("movs_4096", "rep movsb, 4 KiB"), ("movs_65536", "rep movsb, 64 KiB")),
    *_micro(0, ("stos_16", "rep stosq, 16 B"), ("stos_64", "rep stosq, 64 B"), ("stos_256", "rep stosq, 256 B")),
    *_micro(1.3, ("stos_1024", "rep stosq, 1 KiB"), ("stos_4096", "rep stosq, 4 KiB"), ("stos_65536", "rep stosq, 64 KiB")),
    *_micro(0, ("atomics_two_cpus", "atomics, two CPUs on one line"), ("parallel_1", "parallel job, one thread"),
            ("parallel_2", "parallel job, two threads"), cpus=2),
    Row("getpid", "getpid", "system", us_bar=0.4),
    Row("page_fault", "page fault", "system", native_bar=6),
    Row("mmap_munmap", "mmap and munmap", "system"),
    Row("fork_exec", "fork, exec, wait", "system", native_bar=6),
    Row("pipe_ping_pong", "pipe, there and back", "system"),
    Row("context_switch", "context switch", "system"),
    Row("signal", "signal to itself", "system"),
    Row("file_create_delete", "file create, write, delete (tmpfs)", "system"),
    Row("cpuid", "CPUID", "system"),
    Row("msr", "RDMSR through /dev/cpu/0/msr", "system"),
    Row("port", "port read (UART scratch register)", "system", us_bar=0.5),
    Row("mmio", "MMIO read (virtio status)", "system"),
    Row("gcc", "gcc compiles a C file", "whole"),
    Row("python", "Python script", "whole"),
    Row("zstd", "zstd", "whole"),
    Row("gzip", "gzip", "whole"),
    Row("sha256", "sha256sum", "whole"),
    Row("sort", "sort", "whole"),
    Row("awk", "awk", "whole"),
    Row("sqlite", "sqlite insert and select", "whole"),
    Row("aes", "openssl AES-256-CBC", "whole"),
    Row("rsa", "openssl RSA-2048 signing", "whole"),
    Row("luajit", "LuaJIT script", "whole"),
    Row("node", "node script", "whole"),
    Row("packages", "package installation", "whole", user=False),
    Row("boot", "kernel start to first user process", "boot"),
]
BY_NAME = {row.name: row for row in ROWS}
