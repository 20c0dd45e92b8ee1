// SPDX-License-Identifier: Apache-2.0
// rep movs and rep stos by size.
#include "bench.h"

static char from[1 << 17] __attribute__((aligned(4096))), to[1 << 17] __attribute__((aligned(4096)));

static int fill(void) {
  for (unsigned i = 0; i < sizeof from; i++) from[i] = i * 31 + (i >> 8);
  return 0;
}
static inline __attribute__((always_inline)) uint64_t movs(uint64_t n, uint64_t size) {
  while (n--) {
    void *s = from, *d = to;
    uint64_t c = size;
    __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(c)::"memory");
  }
  return to[size - 1];
}
static inline __attribute__((always_inline)) uint64_t stos(uint64_t n, uint64_t size) {
  while (n--) {
    void *d = to;
    uint64_t c = size / 8;
    __asm__ volatile("rep stosq" : "+D"(d), "+c"(c) : "a"(n) : "memory");
  }
  return to[size - 8];
}
#define SIZE(bytes)                                                              \
  static uint64_t movs_##bytes(uint64_t n) { return movs(n, bytes); }            \
  static uint64_t stos_##bytes(uint64_t n) { return stos(n, bytes); }
SIZE(16) SIZE(64) SIZE(256) SIZE(1024) SIZE(4096) SIZE(65536)
#define ROWS(bytes) {"movs_" #bytes, movs_##bytes, 1, fill}, {"stos_" #bytes, stos_##bytes, 1, fill}
const struct row string_rows[] = {ROWS(16), ROWS(64), ROWS(256), ROWS(1024), ROWS(4096), ROWS(65536), {0}};
