// SPDX-License-Identifier: Apache-2.0
// What the kernel is asked for: system calls, faults, processes, signals, files in a tmpfs.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "bench.h"

static uint64_t getpids(uint64_t n) {
  uint64_t same = 1, pid = syscall(SYS_getpid);
  while (n--) same &= syscall(SYS_getpid) == (long)pid;
  return same;
}
enum { kPages = 256 };
static uint64_t page_faults(uint64_t n) {
  uint64_t sum = 0;
  while (n--) {
    char *p = need(mmap(0, kPages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    madvise(p, kPages * 4096, MADV_NOHUGEPAGE);
    for (int i = 0; i < kPages; i++) sum += p[i * 4096]++;
    munmap(p, kPages * 4096);
  }
  return sum;
}
static uint64_t map_unmap(uint64_t n) {
  while (n--) munmap(need(mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)), 65536);
  return 0;
}
static uint64_t fork_exec(uint64_t n) {
  uint64_t good = 0;
  while (n--) {
    int status;
    pid_t pid = fork();
    if (pid == 0) {
      execl("/proc/self/exe", "micro", "--exec", (char *)0);
      _exit(1);
    }
    good += waitpid(pid, &status, 0) == pid && status == 0;
  }
  return good;
}
static void peer(uint64_t n, int in, int out) {  // answers n bytes
  char c;
  while (n--)
    if (read(in, &c, 1) != 1 || write(out, &c, 1) != 1) _exit(1);
  _exit(0);
}
static uint64_t pipe_ping_pong(uint64_t n) {
  int to[2], back[2];
  if (pipe(to) || pipe(back)) exit(2);
  pid_t pid = fork();
  if (pid == 0) peer(n, to[0], back[1]);
  uint64_t good = 0;
  char c = 'x';
  for (uint64_t i = 0; i < n; i++) good += write(to[1], &c, 1) == 1 && read(back[0], &c, 1) == 1;
  waitpid(pid, 0, 0);
  for (int i = 0; i < 2; i++) close(to[i]), close(back[i]);
  return good;
}
// Two processes on one CPU that do nothing but give way to each other.
static uint64_t context_switch(uint64_t n) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  sched_setaffinity(0, sizeof one, &one);
  pid_t pid = fork();
  for (uint64_t i = 0; i < n; i++) sched_yield();
  if (pid == 0) _exit(0);
  waitpid(pid, 0, 0);
  return n;
}
static volatile uint64_t signals;
static void count(int s) { (void)s, signals++; }
static uint64_t signal_self(uint64_t n) {
  signals = 0;
  signal(SIGUSR1, count);
  pid_t pid = getpid();
  while (n--) kill(pid, SIGUSR1);
  return signals;
}
static uint64_t files(uint64_t n) {
  uint64_t good = 0;
  while (n--) {
    int fd = open("/tmp/bench-file", O_CREAT | O_EXCL | O_WRONLY, 0600);
    good += fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0 && unlink("/tmp/bench-file") == 0;
  }
  return good;
}

const struct row system_rows[] = {{"getpid", getpids, 1, 0}, {"page_fault", page_faults, kPages, 0}, {"mmap_munmap", map_unmap, 1, 0},
                                  {"fork_exec", fork_exec, 1, 0}, {"pipe_ping_pong", pipe_ping_pong, 1, 0},
                                  {"context_switch", context_switch, 2, 0}, {"signal", signal_self, 1, 0},
                                  {"file_create_delete", files, 1, 0}, {0}};
