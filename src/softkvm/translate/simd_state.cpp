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
#define EACH_LOW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH_HIGH(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define EACH_MASK(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

#define STORE_XMM(n) "movdqa %%xmm" #n ", 160+16*" #n "(%0)\n"
#define LOAD_XMM(n) "movdqa 160+16*" #n "(%0), %%xmm" #n "\n"
#define STORE_YMM(n) "vextracti128 $1, %%ymm" #n ", 16*" #n "(%0)\n"
#define LOAD_YMM(n) "vinserti128 $1, 16*" #n "(%0), %%ymm" #n ", %%ymm" #n "\n"
#define STORE_ZMM(n) "vextracti64x4 $1, %%zmm" #n ", 32*" #n "(%0)\n"
#define LOAD_ZMM(n) "vinserti64x4 $1, 32*" #n "(%0), %%zmm" #n ", %%zmm" #n "\n"
#define STORE_HI16(n) "vmovdqu64 %%zmm" #n ", 64*(" #n "-16)(%0)\n"
#define LOAD_HI16(n) "vmovdqu64 64*(" #n "-16)(%0), %%zmm" #n "\n"
#define CLEAR_HI16(n) "vpxord %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n"
#define STORE_OPMASK(n) "kmovq %%k" #n ", 8*" #n "(%0)\n"
#define LOAD_OPMASK(n) "kmovq 8*" #n "(%0), %%k" #n "\n"
#define CLEAR_OPMASK(n) "kxorq %%k" #n ", %%k" #n ", %%k" #n "\n"

#define MOVES(name, pointer, each, move) \
  void name(pointer at) { asm volatile(each(move) : : "r"(at) : "memory"); }
MOVES(store_xmm, uint8_t*, EACH_LOW, STORE_XMM)  // `at`: the area; of the others, the component
MOVES(load_xmm, const uint8_t*, EACH_LOW, LOAD_XMM)
MOVES(store_ymm, uint8_t*, EACH_LOW, STORE_YMM)
MOVES(load_ymm, const uint8_t*, EACH_LOW, LOAD_YMM)  // on top of the lower halves
MOVES(store_zmm, uint8_t*, EACH_LOW, STORE_ZMM)
MOVES(load_zmm, const uint8_t*, EACH_LOW, LOAD_ZMM)
MOVES(store_hi16, uint8_t*, EACH_HIGH, STORE_HI16)
MOVES(load_hi16, const uint8_t*, EACH_HIGH, LOAD_HI16)
MOVES(store_opmask, uint8_t*, EACH_MASK, STORE_OPMASK)
MOVES(load_opmask, const uint8_t*, EACH_MASK, LOAD_OPMASK)
#define GATHER_HI16(n) "vporq %%zmm" #n ", %%zmm16, %%zmm16\n"
#define GATHER_OPMASK(n) "korq %%k" #n ", %%k0, %%k0\n"
// All zero? Where they are not, the first of them is lost.
bool hi16_is_zero() {
  bool zero;
  asm volatile(EACH_HIGH(GATHER_HI16) "vptestmq %%zmm16, %%zmm16, %%k0\n kortestb %%k0, %%k0" : "=@ccz"(zero) : : "memory");
  return zero;
}
bool opmask_is_zero() {
  bool zero;
  asm volatile(EACH_MASK(GATHER_OPMASK) "kortestq %%k0, %%k0" : "=@ccz"(zero) : : "memory");
  return zero;
}
void clear_hi16() { asm volatile(EACH_HIGH(CLEAR_HI16) ::: "memory"); }
void clear_opmask() { asm volatile(EACH_MASK(CLEAR_OPMASK) ::: "memory"); }

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
  uint32_t used = in_use() & mask;
  if (used & kX87) {
    xsave(area, kX87);
    asm volatile("fninit");
  }
  store_xmm(area);
  if (used & kAvx) store_ymm(area + layout.ymm);
  if (used & kZmmHi256) store_zmm(area + layout.zmm);
  // A component that load_simd() has cleared counts as in use, to the CPU. It is not, as long as nobody has: a guest that does not use it must
  // not find it in its images, nor the same state be another one (native/native.cpp).
  const uint32_t fresh = used & ~components_of(area);
  if (used & kOpmask) store_opmask(area + layout.opmask);
  if (used & kHi16Zmm) store_hi16(area + layout.hi16);
  if (fresh & kOpmask && opmask_is_zero()) used &= ~kOpmask;
  if (fresh & kHi16Zmm && hi16_is_zero()) used &= ~kHi16Zmm;
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
