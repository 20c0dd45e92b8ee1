// SPDX-License-Identifier: Apache-2.0
// A program for a Linux guest: it has its disk write new code over the page whose code it has just run (O_DIRECT: the device writes into this very
// page; no mapping changes, and nothing of the guest's touches its bytes), and runs it. Page n of the disk returns n * 0x9e3779b1 + 7 in EAX.
// usage: overwritten_code DISK ROUNDS; prints one line.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kPages = 64, kPage = 4096 };
static unsigned char* code;
static _Atomic unsigned turn, answered, want, wrong;

static uint32_t run(void) { return ((uint32_t(*)(void))code)(); }

// Another CPU runs the same page.
static void* other(void* unused) {
  (void)unused;
  for (unsigned seen = 0;;) {
    unsigned now = turn;
    if (now == seen) continue;
    seen = now;
    if (now == ~0u) return NULL;
    if (run() != want) wrong++;
    answered = now;
  }
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const unsigned rounds = (unsigned)atoi(argv[2]);
  const int several = sysconf(_SC_NPROCESSORS_ONLN) > 1;
  int disk = open(argv[1], O_RDONLY | O_DIRECT);
  code = mmap(NULL, kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (disk < 0 || code == MAP_FAILED) return printf("cannot start: %s\n", strerror(errno)), 1;
  pthread_t thread;
  if (several && pthread_create(&thread, NULL, other, NULL)) return printf("no thread\n"), 1;
  uint32_t seed = 1;
  for (unsigned round = 1; round <= rounds; round++) {
    seed = seed * 1664525 + 1013904223;
    const unsigned page = (seed >> 16) % kPages;
    if (pread(disk, code, kPage, (off_t)page * kPage) != kPage) return printf("pread: %s\n", strerror(errno)), 1;
    want = page * 0x9e3779b1u + 7;
    for (int again = 0; again < 3; again++)
      if (run() != want) wrong++;
    if (!several) continue;
    turn = round;
    while (answered != round) {
    }
  }
  if (several) {
    turn = ~0u;
    pthread_join(thread, NULL);
  }
  printf("OVERWRITTEN rounds %u wrong %u\n", rounds, wrong);
  return wrong != 0;
}
