// SPDX-License-Identifier: Apache-2.0
// Integer, control flow, memory and atomics.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "bench.h"

static uint64_t data[4096] __attribute__((aligned(4096)));

static uint64_t alu(uint64_t n) {
  uint64_t a = 1, b = 3, c = 5, d = 7;
  __asm__ volatile("1:" X4("add %1, %0; xor %0, %1; rol $3, %2; lea (%2,%0), %3; sub %3, %1; imul $5, %3, %2; shr $1, %0; or %3, %0;")
                   "sub $1, %4; jnz 1b" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(n)::"cc");
  return a ^ b ^ c ^ d;
}
// Taken or not as bits of a random sequence say: half of the branches cannot be predicted, half follow a pattern.
static uint64_t branches(uint64_t n) {
  uint64_t x = 88172645463325252u, taken = 0;
  __asm__ volatile("1: mov %0, %%rax; shl $13, %%rax; xor %%rax, %0; mov %0, %%rax; shr $7, %%rax; xor %%rax, %0;"
                   "test $1, %0; jz 2f; inc %1; 2: test $64, %2; jnz 3f; add $3, %1; 3: test $3, %2; jnz 4f; dec %1; 4:"
                   "cmp $0, %0; jl 5f; add $2, %1; 5: dec %2; jnz 1b" : "+r"(x), "+r"(taken), "+r"(n)::"cc", "rax");
  return x ^ taken;
}
// Loop of predictable branches only.
static uint64_t branches_predicted(uint64_t n) {
  uint64_t taken = 0;
  __asm__ volatile("1: test $1, %1; jz 2f; inc %0; 2: test $2, %1; jnz 3f; add $3, %0; 3: test $3, %1; jnz 4f; dec %0; 4:"
                   "cmp $0, %0; jl 5f; add $2, %0; 5: dec %1; jnz 1b" : "+r"(taken), "+r"(n)::"cc");
  return taken;
}

typedef uint64_t (*op)(uint64_t);
#define OP(i) __attribute__((noinline)) static uint64_t op##i(uint64_t x) { return x * (2 * i + 3) + i; }
OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7)
static const op ops[8] = {op0, op1, op2, op3, op4, op5, op6, op7};
static uint64_t indirect_calls(uint64_t n) {
  const op *volatile table = ops;
  const op *t = table;
  uint64_t x = 1;
  while (n--) x = t[x >> 3 & 7](x), x = t[n & 7](x), x = t[n >> 1 & 3](x), x = t[5](x);
  return x;
}
__attribute__((noinline)) static uint64_t fib(uint64_t n) {
  __asm__ volatile("" : "+r"(n));  // keeps the compiler from unfolding the recursion
  return n < 2 ? n : fib(n - 1) + fib(n - 2);
}
static uint64_t call_ret(uint64_t n) {
  uint64_t x = 0;
  while (n--) x += fib(10);
  return x;
}
// A loop with an instruction that begins on one page and ends on the next.
static uint64_t page_end(uint64_t n) {
  uint64_t a = 1, b = 3;
  __asm__ volatile("jmp 2f; .balign 4096; .skip 4082, 0x90; 1: add %1, %0; rol $3, %0; xor $5, %1; movabs $0x123456789abcdef, %%rax; 2: add %%rax, %0; sub $1, %2; jnz 1b"
                   : "+r"(a), "+r"(b), "+r"(n)::"cc", "rax");
  return a;
}
static uint64_t loads(uint64_t n) {
  uint64_t *p = data, s = 0;
  __asm__ volatile("1:" X4("add (%0), %1; add 8(%0), %1; add 128(%0), %1; add 264(%0), %1;") "sub $1, %2; jnz 1b" : "+r"(p), "+r"(s), "+r"(n)::"cc", "memory");
  return s;
}
// Sixteen addresses of an 8 KiB table through an index, as code with arrays does.
static uint64_t loads_indexed(uint64_t n) {
  uint64_t *p = data, s = 0, i = 0;
  __asm__ volatile("1:" X8("add (%0,%3,8), %1; add $37, %3; and $1023, %3;") "sub $1, %2; jnz 1b" : "+r"(p), "+r"(s), "+r"(n), "+r"(i)::"cc", "memory");
  return s + i;
}
static uint64_t stores(uint64_t n) {
  uint64_t *p = data, v = 1;
  __asm__ volatile("1:" X4("mov %1, (%0); mov %1, 8(%0); mov %2, 128(%0); mov %2, 264(%0);") "sub $1, %2; jnz 1b" : "+r"(p), "+r"(v), "+r"(n)::"cc", "memory");
  return data[0] + data[33];
}
enum { kChain = 8 << 20 };
static void **chain;
static int make_chain(void) {
  size_t lines = kChain / 64;
  char *base = need(mmap(0, kChain, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  uint32_t *order = need(malloc(lines * sizeof *order));
  for (size_t i = 0; i < lines; i++) order[i] = i;
  uint64_t x = 88172645463325252u;
  for (size_t i = lines - 1; i > 0; i--) {  // Sattolo: one cycle through all lines
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    size_t j = x % i;
    uint32_t t = order[i];
    order[i] = order[j], order[j] = t;
  }
  for (size_t i = 0; i < lines; i++) *(void **)(base + 64ul * order[i]) = base + 64ul * order[(i + 1) % lines];
  chain = (void **)base;
  return 0;
}
static uint64_t chase(uint64_t n) {
  void **p = chain;
  n *= 1024;
  while (n--) p = *p;
  return (char *)p - (char *)chain;
}
static uint64_t locked(uint64_t n) {
  uint64_t *p = data, v = 3;
  __asm__ volatile("1: lock incq (%0); mov $5, %1; lock xadd %1, 8(%0); mov 16(%0), %%rax; lock cmpxchg %1, 16(%0); xchg %1, 24(%0); sub $1, %2; jnz 1b"
                   : "+r"(p), "+r"(v), "+r"(n)::"cc", "memory", "rax");
  return v;
}
// A thread on each CPU from the start: else short runs measure when the scheduler moves one.
static void stay_on(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}
static uint64_t shared[8] __attribute__((aligned(64)));
static void *add_shared(void *arg) {
  for (uint64_t n = *(uint64_t *)arg; n--;) __atomic_fetch_add(shared, 1, __ATOMIC_SEQ_CST);
  return 0;
}
static uint64_t atomics_two_cpus(uint64_t n) {
  uint64_t before = shared[0];
  pthread_t other;
  stay_on(1);
  if (pthread_create(&other, 0, add_shared, &n)) exit(2);  // inherits it
  stay_on(0);
  add_shared(&n);
  pthread_join(other, 0);
  return shared[0] - before;
}
// Independent work of one or two threads: what a second CPU is worth.
static void *work(void *arg) {
  uint64_t n = *(uint64_t *)arg, table[256], x = 1;
  for (int i = 0; i < 256; i++) table[i] = i * 0x9e3779b97f4a7c15u;
  while (n--) {
    uint64_t *slot = &table[x >> 56];
    x = (x ^ *slot) * 0x2545f4914f6cdd1du;
    *slot += x;
    if (x & 1) x += n;
  }
  *(uint64_t *)arg = x;
  return 0;
}
static uint64_t parallel(uint64_t n, int threads) {
  uint64_t each[2] = {n * 1000 / threads, n * 1000 / threads};
  pthread_t other;
  stay_on(1);
  if (threads == 2 && pthread_create(&other, 0, work, &each[1])) exit(2);
  stay_on(0);
  work(&each[0]);
  if (threads == 2) pthread_join(other, 0);
  return each[0];
}
static uint64_t parallel_1(uint64_t n) { return parallel(n, 1); }
static uint64_t parallel_2(uint64_t n) { return parallel(n, 2); }

const struct row integer_rows[] = {
    {"alu", alu, 32, 0}, {"branches", branches, 5, 0}, {"branches_predicted", branches_predicted, 5, 0},
    {"indirect_calls", indirect_calls, 4, 0}, {"call_ret", call_ret, 177, 0}, {"page_end", page_end, 6, 0}, {"loads", loads, 16, 0},
    {"loads_indexed", loads_indexed, 8, 0}, {"stores", stores, 16, 0}, {"chase_8m", chase, 1024, make_chain}, {"locked", locked, 4, 0},
    {"atomics_two_cpus", atomics_two_cpus, 2, 0}, {"parallel_1", parallel_1, 1000, 0}, {"parallel_2", parallel_2, 1000, 0}, {0}};
