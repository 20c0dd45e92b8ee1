// SPDX-License-Identifier: Apache-2.0
// SSE2, AVX2, AVX-512 and x87. Two dependent chains and loads from L1, as numeric code has them.
#include "bench.h"

static double numbers[64] __attribute__((aligned(64)));
static int fill(void) {
  for (int i = 0; i < 64; i++) numbers[i] = 1 + i * 1e-9;
  for (int i = 0; i < 8; i++) numbers[40 + i] = 1 / numbers[16 + i];  // near inverses: products stay in range
  return 0;
}
static int need_avx2(void) { return fill() || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"); }
static int need_avx512(void) { return fill() || !__builtin_cpu_supports("avx512f"); }

static uint64_t sse2_double(uint64_t n) {
  double out[2];
  __asm__ volatile("movapd (%1), %%xmm0; movapd 64(%1), %%xmm1; movapd 128(%1), %%xmm2; movapd 320(%1), %%xmm3;"
                   "1:" X4("mulpd %%xmm2, %%xmm0; addpd 192(%1), %%xmm1; mulpd %%xmm3, %%xmm0; subpd 192(%1), %%xmm1;") "sub $1, %0; jnz 1b;"
                   "addpd %%xmm1, %%xmm0; movupd %%xmm0, (%2)" : "+r"(n) : "r"(numbers), "r"(out) : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3");
  return (uint64_t)(out[0] * 1e15);
}
static uint64_t sse2_scalar(uint64_t n) {
  double out;
  __asm__ volatile("movsd (%1), %%xmm0; movsd 64(%1), %%xmm1; movsd 128(%1), %%xmm2; movsd %%xmm0, %%xmm3;"
                   "1:" X4("mulsd %%xmm3, %%xmm0; addsd %%xmm2, %%xmm1; subsd 192(%1), %%xmm1; mulsd %%xmm3, %%xmm2;") "sub $1, %0; jnz 1b;"
                   "addsd %%xmm1, %%xmm0; movsd %%xmm0, (%2)" : "+r"(n) : "r"(numbers), "r"(&out) : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3");
  return (uint64_t)(out * 1e9);
}
static uint64_t avx2_double(uint64_t n) {
  double out[4];
  __asm__ volatile("vmovapd (%1), %%ymm0; vmovapd 64(%1), %%ymm1; vmovapd 128(%1), %%ymm2; vxorpd %%ymm3, %%ymm3, %%ymm3;"
                   "1:" X4("vfmadd231pd 192(%1), %%ymm3, %%ymm0; vmulpd %%ymm0, %%ymm3, %%ymm1; vaddpd 256(%1), %%ymm1, %%ymm2; vsubpd %%ymm2, %%ymm2, %%ymm3;")
                   "sub $1, %0; jnz 1b; vaddpd %%ymm2, %%ymm0, %%ymm0; vmovupd %%ymm0, (%2); vzeroupper"
                   : "+r"(n) : "r"(numbers), "r"(out) : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3");
  return (uint64_t)(out[0] * 1e15);
}
__attribute__((target("avx512f"))) static uint64_t avx512_double(uint64_t n) {
  double out[8];
  __asm__ volatile("vmovapd (%1), %%zmm0; vmovapd 64(%1), %%zmm1; vmovapd 128(%1), %%zmm2; vpxorq %%zmm3, %%zmm3, %%zmm3;"
                   "1:" X4("vfmadd231pd 192(%1), %%zmm3, %%zmm0; vmulpd %%zmm0, %%zmm3, %%zmm1; vaddpd 256(%1), %%zmm1, %%zmm2; vsubpd %%zmm2, %%zmm2, %%zmm3;")
                   "sub $1, %0; jnz 1b; vaddpd %%zmm2, %%zmm0, %%zmm0; vmovupd %%zmm0, (%2); vzeroupper"
                   : "+r"(n) : "r"(numbers), "r"(out) : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3");
  return (uint64_t)(out[0] * 1e15);
}
static uint64_t sse2_integer(uint64_t n) {
  uint64_t out[2];
  __asm__ volatile("movdqa (%1), %%xmm0; movdqa 64(%1), %%xmm1; movdqa 128(%1), %%xmm2;"
                   "1:" X4("paddd %%xmm1, %%xmm0; pxor 192(%1), %%xmm0; pmuludq %%xmm0, %%xmm1; psrlq $3, %%xmm0; pshufd $0x1b, %%xmm0, %%xmm2; paddq %%xmm2, %%xmm1;")
                   "sub $1, %0; jnz 1b; pxor %%xmm1, %%xmm0; movdqu %%xmm0, (%2)" : "+r"(n) : "r"(numbers), "r"(out) : "cc", "memory", "xmm0", "xmm1", "xmm2");
  return out[0] ^ out[1];
}
static uint64_t avx2_integer(uint64_t n) {
  uint64_t out[4];
  __asm__ volatile("vmovdqa (%1), %%ymm0; vmovdqa 64(%1), %%ymm1; vmovdqa 128(%1), %%ymm2;"
                   "1:" X4("vpaddd %%ymm1, %%ymm0, %%ymm0; vpxor 192(%1), %%ymm0, %%ymm0; vpmuludq %%ymm0, %%ymm1, %%ymm1; vpsrlq $3, %%ymm0, %%ymm0;"
                           "vpermq $0x1b, %%ymm0, %%ymm2; vpaddq %%ymm2, %%ymm1, %%ymm1;")
                   "sub $1, %0; jnz 1b; vpxor %%ymm1, %%ymm0, %%ymm0; vmovdqu %%ymm0, (%2); vzeroupper"
                   : "+r"(n) : "r"(numbers), "r"(out) : "cc", "memory", "xmm0", "xmm1", "xmm2");
  return out[0] ^ out[1] ^ out[2] ^ out[3];
}
__attribute__((target("avx512f"))) static uint64_t avx512_integer(uint64_t n) {
  uint64_t out[8], sum = 0;
  __asm__ volatile("vmovdqa64 (%1), %%zmm0; vmovdqa64 64(%1), %%zmm1; vmovdqa64 128(%1), %%zmm2;"
                   "1:" X4("vpaddd %%zmm1, %%zmm0, %%zmm0; vpxorq 192(%1), %%zmm0, %%zmm0; vpmuludq %%zmm0, %%zmm1, %%zmm1; vpsrlq $3, %%zmm0, %%zmm0;"
                           "vpermq $0x1b, %%zmm0, %%zmm2; vpaddq %%zmm2, %%zmm1, %%zmm1;")
                   "sub $1, %0; jnz 1b; vpxorq %%zmm1, %%zmm0, %%zmm0; vmovdqu64 %%zmm0, (%2); vzeroupper"
                   : "+r"(n) : "r"(numbers), "r"(out) : "cc", "memory", "xmm0", "xmm1", "xmm2");
  for (int i = 0; i < 8; i++) sum ^= out[i];
  return sum;
}
static uint64_t x87(uint64_t n) {
  long double out;
  __asm__ volatile("fldl (%1); fldl 128(%1); 1:" X4("fmul %%st(0), %%st(1); fxch; fsubl 64(%1); fldl 256(%1); faddp; fxch; fsqrt;")
                   "sub $1, %0; jnz 1b; faddp; fstpt (%2)" : "+r"(n) : "r"(numbers), "r"(&out) : "cc", "memory");
  return (uint64_t)(out * 1e12L);
}

const struct row vector_rows[] = {{"sse2_double", sse2_double, 16, fill}, {"sse2_scalar", sse2_scalar, 16, fill}, {"sse2_integer", sse2_integer, 24, fill},
                                  {"avx2_double", avx2_double, 16, need_avx2}, {"avx2_integer", avx2_integer, 24, need_avx2},
                                  {"avx512_double", avx512_double, 16, need_avx512}, {"avx512_integer", avx512_integer, 24, need_avx512},
                                  {"x87", x87, 28, fill}, {0}};
