// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/random_block_state.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>

#include "softkvm/vm.h"

namespace vireo::softkvm {
namespace {

// G. Steele and others, Fast splittable pseudorandom number generators, OOPSLA 2014: a state needs thousands of numbers.
struct SplitMix {
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
};

// Data is cut from one pool at a place of the seed's: drawing 64 KiB anew costs more than running the block.
struct Pools {
  std::vector<uint8_t> writable = std::vector<uint8_t>(kDataSize + 4096 * 8);
  std::vector<uint8_t> fixed = std::vector<uint8_t>(kDataSize);  // read-only pages are set once on the bare CPU: always the same
  Pools() {
    SplitMix rng{1};
    for (auto* pool : {&writable, &fixed})
      for (size_t i = 0; i < pool->size(); i += 8) {
        uint64_t w = rng();
        memcpy(&(*pool)[i], &w, 8);
      }
  }
};

}  // namespace

uint64_t components() {
  static const uint64_t those = Vcpu::supported_xcr0() & 0xe7;
  return those;
}

AreaLayout::AreaLayout() {
  for (unsigned i = 2; i < 8; i++) {
    unsigned a, b, c, d;
    __cpuid_count(0xd, i, a, b, c, d);
    if (components() >> i & 1) offset[i] = b, size[i] = a, end = std::max(end, a + b);
  }
}

const AreaLayout& layout() {
  static const AreaLayout l;
  return l;
}

void normalize(uint8_t* area) {
  uint64_t bv;
  memcpy(&bv, area + 512, 8);
  for (unsigned i = 0; i < 8; i++) {
    if (bv >> i & 1 || !(components() >> i & 1)) continue;
    if (i == 0) {
      memset(area, 0, 24);
      memset(area + 32, 0, 128);
      area[0] = 0x7f, area[1] = 3;
    } else if (layout().size[i]) {
      memset(area + layout().offset[i], 0, layout().size[i]);
    }
  }
  memset(area + 6, 0, 18);                                             // FOP, FIP, FDP
  memset(area + 28, 0, 4);                                             // MXCSR_MASK
  for (unsigned i = 0; i < 8; i++) memset(area + 32 + 16 * i + 10, 0, 6);
  memset(area + 416, 0, 576 - 416);
}

void random_state(BlockState& s, uint64_t seed, uint64_t rip, CodeMode mode) {
  SplitMix rng{seed ^ 0x9e3779b97f4a7c15};
  s.rip = rip;
  s.mode = mode;
  for (uint64_t& r : s.gpr) r = rng() >> (rng() % 3 ? 0 : rng() % 64);
  if (mode != CodeMode::k64)
    for (unsigned i = 0; i < 16; i++) s.gpr[i] = i < 8 ? s.gpr[i] & 0xffffffff : 0;
  s.gpr[kRsp] = BlockSpace::kStack;
  s.flags = (rng() & kStatusFlags) | (rng() % 8 ? 0 : kDF);
  // Floating point values from all classes: half of the elements keep an exponent near 1.
  auto* words = reinterpret_cast<uint32_t*>(s.area);
  for (unsigned i = 0; i < kAreaSize / 4; i++) words[i] = static_cast<uint32_t>(rng() % 2 ? rng() : 0x3f800000 ^ (rng() & 0x80ffffff));
  uint16_t fcw = static_cast<uint16_t>(0x7f | (rng() % 4) << 10 | (rng() % 8 ? 3u << 8 : 2u << 8));
  if (rng() % 16 == 0) fcw &= static_cast<uint16_t>(rng() | 0xff00);
  fcw |= 0x40;
  memcpy(s.area, &fcw, 2);
  uint16_t fsw = static_cast<uint16_t>(rng() & 0x7f00);  // no exception open
  memcpy(s.area + 2, &fsw, 2);
  s.area[4] = static_cast<uint8_t>(rng());
  s.area[5] = 0;
  memset(s.area + 6, 0, 18);
  for (unsigned i = 0; i < 8; i++) {
    if (rng() % 4) {
      long double v = static_cast<long double>(static_cast<int64_t>(rng())) / static_cast<long double>(1ull << rng() % 63);
      memcpy(s.area + 32 + 16 * i, &v, 10);
    }
    memset(s.area + 42 + 16 * i, 0, 6);
  }
  uint32_t mxcsr = 0x1f80 | (rng() % 4 << 13) | (rng() % 4 ? 0 : rng() & 0x8040);
  if (rng() % 16 == 0) mxcsr &= static_cast<uint32_t>(rng() | 0xffff007f);
  memcpy(s.area + 24, &mxcsr, 4);
  memset(s.area + 28, 0, 4);
  memset(s.area + 416, 0, 160);
  uint64_t bv = components();
  if (rng() % 8 == 0) bv &= rng() | 3;
  memcpy(s.area + 512, &bv, 8);
  static const Pools pools;
  memcpy(s.data.data(), pools.writable.data() + rng() % 4096 * 8, kDataSize);
  for (unsigned p = 0; p < BlockSpace::kPages; p++)
    if (BlockSpace::kind(p) != BlockSpace::Kind::kWritable) memcpy(&s.data[p * 4096], &pools.fixed[p * 4096], 4096);
}

}  // namespace vireo::softkvm
