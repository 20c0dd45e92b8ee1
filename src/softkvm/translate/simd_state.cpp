// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/simd_state.h"

#include <cpuid.h>

#include <cstring>

namespace vireo::softkvm {
namespace {

constexpr uint32_t kX87 = 1, kSse = 2, kAvx = 4, kOpmask = 0x20, kZmmHi256 = 0x40, kHi16Zmm = 0x80;
constexpr uint32_t kAvxSet = kX87 | kSse | kAvx, kAvx512Set = kAvxSet | kOpmask | kZmmHi256 | kHi16Zmm;
constexpr unsigned kMxcsr = 24, kHeader = 512;
constexpr uint32_t kHostMxcsr = 0x1f80;

// Where the components lie in the area.
struct Layout {
  bool tells_use = false;  // XGETBV with ECX = 1
  uint32_t ymm = 0, opmask = 0, zmm = 0, hi16 = 0;

  Layout() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(0xd, 1, &a, &b, &c, &d)) return;
    tells_use = a >> 2 & 1;
    auto offset = [](unsigned component) {
      unsigned size, at, flags, reserved;
      __cpuid_count(0xd, component, size, at, flags, reserved);
      return at;
    };
    ymm = offset(2), opmask = offset(5), zmm = offset(6), hi16 = offset(7);
  }
};
const Layout layout;

bool piece_by_piece(uint32_t mask) { return layout.tells_use && (mask == kAvxSet || mask == kAvx512Set); }

// Which components are not in their initial configuration.
uint32_t in_use() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
  return low;
}

uint32_t components_of(const uint8_t* area) {
  uint32_t saved;
  memcpy(&saved, area + kHeader, sizeof saved);
  return saved;
}

void xrstor(const uint8_t* area, uint32_t mask) { asm volatile("xrstor64 (%0)" : : "r"(area), "a"(mask), "d"(0) : "memory"); }
void xsave(uint8_t* area, uint32_t mask) { asm volatile("xsave64 (%0)" : : "r"(area), "a"(mask), "d"(0) : "memory"); }

// Nothing here names the registers as clobbered: they are the guest's, and what C++ has in them is nobody's any more.

void store_xmm(uint8_t* area) {
  asm volatile(
        "movdqa %%xmm0, 160(%0)\n"
        "movdqa %%xmm1, 176(%0)\n"
        "movdqa %%xmm2, 192(%0)\n"
        "movdqa %%xmm3, 208(%0)\n"
        "movdqa %%xmm4, 224(%0)\n"
        "movdqa %%xmm5, 240(%0)\n"
        "movdqa %%xmm6, 256(%0)\n"
        "movdqa %%xmm7, 272(%0)\n"
        "movdqa %%xmm8, 288(%0)\n"
        "movdqa %%xmm9, 304(%0)\n"
        "movdqa %%xmm10, 320(%0)\n"
        "movdqa %%xmm11, 336(%0)\n"
        "movdqa %%xmm12, 352(%0)\n"
        "movdqa %%xmm13, 368(%0)\n"
        "movdqa %%xmm14, 384(%0)\n"
        "movdqa %%xmm15, 400(%0)\n"
      : : "r"(area) : "memory");
}
void load_xmm(const uint8_t* area) {
  asm volatile(
        "movdqa 160(%0), %%xmm0\n"
        "movdqa 176(%0), %%xmm1\n"
        "movdqa 192(%0), %%xmm2\n"
        "movdqa 208(%0), %%xmm3\n"
        "movdqa 224(%0), %%xmm4\n"
        "movdqa 240(%0), %%xmm5\n"
        "movdqa 256(%0), %%xmm6\n"
        "movdqa 272(%0), %%xmm7\n"
        "movdqa 288(%0), %%xmm8\n"
        "movdqa 304(%0), %%xmm9\n"
        "movdqa 320(%0), %%xmm10\n"
        "movdqa 336(%0), %%xmm11\n"
        "movdqa 352(%0), %%xmm12\n"
        "movdqa 368(%0), %%xmm13\n"
        "movdqa 384(%0), %%xmm14\n"
        "movdqa 400(%0), %%xmm15\n"
      : : "r"(area) : "memory");
}
void store_ymm(uint8_t* upper) {
  asm volatile(
        "vextracti128 $1, %%ymm0, 0(%0)\n"
        "vextracti128 $1, %%ymm1, 16(%0)\n"
        "vextracti128 $1, %%ymm2, 32(%0)\n"
        "vextracti128 $1, %%ymm3, 48(%0)\n"
        "vextracti128 $1, %%ymm4, 64(%0)\n"
        "vextracti128 $1, %%ymm5, 80(%0)\n"
        "vextracti128 $1, %%ymm6, 96(%0)\n"
        "vextracti128 $1, %%ymm7, 112(%0)\n"
        "vextracti128 $1, %%ymm8, 128(%0)\n"
        "vextracti128 $1, %%ymm9, 144(%0)\n"
        "vextracti128 $1, %%ymm10, 160(%0)\n"
        "vextracti128 $1, %%ymm11, 176(%0)\n"
        "vextracti128 $1, %%ymm12, 192(%0)\n"
        "vextracti128 $1, %%ymm13, 208(%0)\n"
        "vextracti128 $1, %%ymm14, 224(%0)\n"
        "vextracti128 $1, %%ymm15, 240(%0)\n"
      : : "r"(upper) : "memory");
}
// On top of the lower halves.
void load_ymm(const uint8_t* upper) {
  asm volatile(
        "vinserti128 $1, 0(%0), %%ymm0, %%ymm0\n"
        "vinserti128 $1, 16(%0), %%ymm1, %%ymm1\n"
        "vinserti128 $1, 32(%0), %%ymm2, %%ymm2\n"
        "vinserti128 $1, 48(%0), %%ymm3, %%ymm3\n"
        "vinserti128 $1, 64(%0), %%ymm4, %%ymm4\n"
        "vinserti128 $1, 80(%0), %%ymm5, %%ymm5\n"
        "vinserti128 $1, 96(%0), %%ymm6, %%ymm6\n"
        "vinserti128 $1, 112(%0), %%ymm7, %%ymm7\n"
        "vinserti128 $1, 128(%0), %%ymm8, %%ymm8\n"
        "vinserti128 $1, 144(%0), %%ymm9, %%ymm9\n"
        "vinserti128 $1, 160(%0), %%ymm10, %%ymm10\n"
        "vinserti128 $1, 176(%0), %%ymm11, %%ymm11\n"
        "vinserti128 $1, 192(%0), %%ymm12, %%ymm12\n"
        "vinserti128 $1, 208(%0), %%ymm13, %%ymm13\n"
        "vinserti128 $1, 224(%0), %%ymm14, %%ymm14\n"
        "vinserti128 $1, 240(%0), %%ymm15, %%ymm15\n"
      : : "r"(upper) : "memory");
}
void store_zmm(uint8_t* upper) {
  asm volatile(
        "vextracti64x4 $1, %%zmm0, 0(%0)\n"
        "vextracti64x4 $1, %%zmm1, 32(%0)\n"
        "vextracti64x4 $1, %%zmm2, 64(%0)\n"
        "vextracti64x4 $1, %%zmm3, 96(%0)\n"
        "vextracti64x4 $1, %%zmm4, 128(%0)\n"
        "vextracti64x4 $1, %%zmm5, 160(%0)\n"
        "vextracti64x4 $1, %%zmm6, 192(%0)\n"
        "vextracti64x4 $1, %%zmm7, 224(%0)\n"
        "vextracti64x4 $1, %%zmm8, 256(%0)\n"
        "vextracti64x4 $1, %%zmm9, 288(%0)\n"
        "vextracti64x4 $1, %%zmm10, 320(%0)\n"
        "vextracti64x4 $1, %%zmm11, 352(%0)\n"
        "vextracti64x4 $1, %%zmm12, 384(%0)\n"
        "vextracti64x4 $1, %%zmm13, 416(%0)\n"
        "vextracti64x4 $1, %%zmm14, 448(%0)\n"
        "vextracti64x4 $1, %%zmm15, 480(%0)\n"
      : : "r"(upper) : "memory");
}
void load_zmm(const uint8_t* upper) {
  asm volatile(
        "vinserti64x4 $1, 0(%0), %%zmm0, %%zmm0\n"
        "vinserti64x4 $1, 32(%0), %%zmm1, %%zmm1\n"
        "vinserti64x4 $1, 64(%0), %%zmm2, %%zmm2\n"
        "vinserti64x4 $1, 96(%0), %%zmm3, %%zmm3\n"
        "vinserti64x4 $1, 128(%0), %%zmm4, %%zmm4\n"
        "vinserti64x4 $1, 160(%0), %%zmm5, %%zmm5\n"
        "vinserti64x4 $1, 192(%0), %%zmm6, %%zmm6\n"
        "vinserti64x4 $1, 224(%0), %%zmm7, %%zmm7\n"
        "vinserti64x4 $1, 256(%0), %%zmm8, %%zmm8\n"
        "vinserti64x4 $1, 288(%0), %%zmm9, %%zmm9\n"
        "vinserti64x4 $1, 320(%0), %%zmm10, %%zmm10\n"
        "vinserti64x4 $1, 352(%0), %%zmm11, %%zmm11\n"
        "vinserti64x4 $1, 384(%0), %%zmm12, %%zmm12\n"
        "vinserti64x4 $1, 416(%0), %%zmm13, %%zmm13\n"
        "vinserti64x4 $1, 448(%0), %%zmm14, %%zmm14\n"
        "vinserti64x4 $1, 480(%0), %%zmm15, %%zmm15\n"
      : : "r"(upper) : "memory");
}
void store_hi16(uint8_t* at) {
  asm volatile(
        "vmovdqu64 %%zmm16, 0(%0)\n"
        "vmovdqu64 %%zmm17, 64(%0)\n"
        "vmovdqu64 %%zmm18, 128(%0)\n"
        "vmovdqu64 %%zmm19, 192(%0)\n"
        "vmovdqu64 %%zmm20, 256(%0)\n"
        "vmovdqu64 %%zmm21, 320(%0)\n"
        "vmovdqu64 %%zmm22, 384(%0)\n"
        "vmovdqu64 %%zmm23, 448(%0)\n"
        "vmovdqu64 %%zmm24, 512(%0)\n"
        "vmovdqu64 %%zmm25, 576(%0)\n"
        "vmovdqu64 %%zmm26, 640(%0)\n"
        "vmovdqu64 %%zmm27, 704(%0)\n"
        "vmovdqu64 %%zmm28, 768(%0)\n"
        "vmovdqu64 %%zmm29, 832(%0)\n"
        "vmovdqu64 %%zmm30, 896(%0)\n"
        "vmovdqu64 %%zmm31, 960(%0)\n"
      : : "r"(at) : "memory");
}
void load_hi16(const uint8_t* at) {
  asm volatile(
        "vmovdqu64 0(%0), %%zmm16\n"
        "vmovdqu64 64(%0), %%zmm17\n"
        "vmovdqu64 128(%0), %%zmm18\n"
        "vmovdqu64 192(%0), %%zmm19\n"
        "vmovdqu64 256(%0), %%zmm20\n"
        "vmovdqu64 320(%0), %%zmm21\n"
        "vmovdqu64 384(%0), %%zmm22\n"
        "vmovdqu64 448(%0), %%zmm23\n"
        "vmovdqu64 512(%0), %%zmm24\n"
        "vmovdqu64 576(%0), %%zmm25\n"
        "vmovdqu64 640(%0), %%zmm26\n"
        "vmovdqu64 704(%0), %%zmm27\n"
        "vmovdqu64 768(%0), %%zmm28\n"
        "vmovdqu64 832(%0), %%zmm29\n"
        "vmovdqu64 896(%0), %%zmm30\n"
        "vmovdqu64 960(%0), %%zmm31\n"
      : : "r"(at) : "memory");
}
void clear_hi16() {
  asm volatile(
        "vpxord %%zmm16, %%zmm16, %%zmm16\n"
        "vpxord %%zmm17, %%zmm17, %%zmm17\n"
        "vpxord %%zmm18, %%zmm18, %%zmm18\n"
        "vpxord %%zmm19, %%zmm19, %%zmm19\n"
        "vpxord %%zmm20, %%zmm20, %%zmm20\n"
        "vpxord %%zmm21, %%zmm21, %%zmm21\n"
        "vpxord %%zmm22, %%zmm22, %%zmm22\n"
        "vpxord %%zmm23, %%zmm23, %%zmm23\n"
        "vpxord %%zmm24, %%zmm24, %%zmm24\n"
        "vpxord %%zmm25, %%zmm25, %%zmm25\n"
        "vpxord %%zmm26, %%zmm26, %%zmm26\n"
        "vpxord %%zmm27, %%zmm27, %%zmm27\n"
        "vpxord %%zmm28, %%zmm28, %%zmm28\n"
        "vpxord %%zmm29, %%zmm29, %%zmm29\n"
        "vpxord %%zmm30, %%zmm30, %%zmm30\n"
        "vpxord %%zmm31, %%zmm31, %%zmm31\n"
      ::: "memory");
}
void store_opmask(uint8_t* at) {
  asm volatile(
        "kmovq %%k0, 0(%0)\n"
        "kmovq %%k1, 8(%0)\n"
        "kmovq %%k2, 16(%0)\n"
        "kmovq %%k3, 24(%0)\n"
        "kmovq %%k4, 32(%0)\n"
        "kmovq %%k5, 40(%0)\n"
        "kmovq %%k6, 48(%0)\n"
        "kmovq %%k7, 56(%0)\n"
      : : "r"(at) : "memory");
}
void load_opmask(const uint8_t* at) {
  asm volatile(
        "kmovq 0(%0), %%k0\n"
        "kmovq 8(%0), %%k1\n"
        "kmovq 16(%0), %%k2\n"
        "kmovq 24(%0), %%k3\n"
        "kmovq 32(%0), %%k4\n"
        "kmovq 40(%0), %%k5\n"
        "kmovq 48(%0), %%k6\n"
        "kmovq 56(%0), %%k7\n"
      : : "r"(at) : "memory");
}
void clear_opmask() {
  asm volatile(
        "kxorq %%k0, %%k0, %%k0\n"
        "kxorq %%k1, %%k1, %%k1\n"
        "kxorq %%k2, %%k2, %%k2\n"
        "kxorq %%k3, %%k3, %%k3\n"
        "kxorq %%k4, %%k4, %%k4\n"
        "kxorq %%k5, %%k5, %%k5\n"
        "kxorq %%k6, %%k6, %%k6\n"
        "kxorq %%k7, %%k7, %%k7\n"
      ::: "memory");
}

}  // namespace

void load_simd(const uint8_t* area, uint32_t mask) {
  const uint32_t saved = components_of(area);
  if (!piece_by_piece(mask) || !(saved & kSse)) return load_simd_whole(area, mask);
  const uint32_t used = in_use();
  // XRSTOR takes a component that was not saved for one in its initial configuration, and so makes that.
  if ((saved | used) & kX87) xrstor(area, kX87);
  asm volatile("vzeroupper");
  load_xmm(area);
  if (saved & kAvx) load_ymm(area + layout.ymm);
  if (saved & kZmmHi256) load_zmm(area + layout.zmm);
  if (saved & kHi16Zmm) load_hi16(area + layout.hi16);
  else if (used & kHi16Zmm) clear_hi16();
  if (saved & kOpmask) load_opmask(area + layout.opmask);
  else if (used & kOpmask) clear_opmask();
  asm volatile("ldmxcsr %0" : : "m"(area[kMxcsr]));
}

void save_simd(uint8_t* area, uint32_t mask) {
  if (!piece_by_piece(mask)) return save_simd_whole(area, mask);
  const uint32_t used = in_use() & mask;
  if (used & kX87) {
    xsave(area, kX87);
    asm volatile("fninit");
  }
  store_xmm(area);
  if (used & kAvx) store_ymm(area + layout.ymm);
  if (used & kZmmHi256) store_zmm(area + layout.zmm);
  if (used & kHi16Zmm) store_hi16(area + layout.hi16);
  if (used & kOpmask) store_opmask(area + layout.opmask);
  uint32_t mxcsr;
  asm volatile("vzeroupper; stmxcsr %0" : "=m"(mxcsr));
  if (mxcsr != kHostMxcsr) asm volatile("ldmxcsr %0" : : "m"(kHostMxcsr));
  memcpy(area + kMxcsr, &mxcsr, sizeof mxcsr);
  const uint32_t header = (components_of(area) & ~mask) | used | kSse;
  memcpy(area + kHeader, &header, sizeof header);
}

void load_simd_whole(const uint8_t* area, uint32_t mask) { xrstor(area, mask); }

void save_simd_whole(uint8_t* area, uint32_t mask) {
  xsave(area, mask);
  // What the guest has left as it is at first needs no setting for C++.
  const uint32_t saved = components_of(area);
  uint32_t mxcsr;
  memcpy(&mxcsr, area + kMxcsr, sizeof mxcsr);
  if (saved & (kAvx | kZmmHi256)) asm volatile("vzeroupper");
  if (saved & kX87) asm volatile("fninit");
  if (mxcsr != kHostMxcsr) asm volatile("ldmxcsr %0" : : "m"(kHostMxcsr));
}

}  // namespace vireo::softkvm
