// SPDX-License-Identifier: Apache-2.0
// What the benchmark programs share. The host times what lies between mark('B') and mark('E'): two bytes each on descriptor 3, the
// guest's serial line. What a program prints on its standard output must not depend on the machine: it is compared by checksum.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct row {
  const char *name;
  uint64_t (*run)(uint64_t n);  // n rounds; returns what was computed
  unsigned ops;                 // operations in a round
  int (*prepare)(void);         // nonzero: not possible on this machine (exit status 77)
};
extern const struct row integer_rows[], vector_rows[], string_rows[], system_rows[], exit_rows[];

static inline void mark(char c) {
  char text[2] = {c, '\n'};
  if (write(3, text, 2) != 2) exit(3);
}
static inline void *need(void *p) {
  if (!p || p == (void *)-1) perror("memory"), exit(2);
  return p;
}
#define COUNT(a) (sizeof(a) / sizeof *(a))
#define X4(a) a a a a
#define X8(a) X4(a) X4(a)
#define X16(a) X8(a) X8(a)
