// SPDX-License-Identifier: Apache-2.0
// Which parts of the linear addresses may have been reached by way of a large page since the TLB was emptied. The TLB's entries are of 4 KiB
// and know nothing of it, but INVLPG of one address in a large page drops all of that page (Intel SDM vol 3, 4.10.4.1, its footnote). By hash: a
// part may be named that was not. FAST.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

class LargeAreas {
 public:
  // The sizes that pages have beside 4 KiB: 4 MiB with entries of four bytes, else the others.
  enum Size : uint8_t { k2M, k4M, k1G };
  static constexpr Size kAll[] = {k2M, k4M, k1G};
  static constexpr unsigned shift_of(Size size) { return size == k2M ? 21 : size == k4M ? 22 : 30; }

  void add(unsigned shift, uint64_t linear, bool global) {
    const Size size = shift == 21 ? k2M : shift == 22 ? k4M : k1G;
    seen_[global].word[size][index(size, linear)] |= bit(size, linear);
    seen_[global].any = true;
  }
  bool has(Size size, uint64_t linear, bool also_global = true) const {
    return (seen_[0].word[size][index(size, linear)] | (also_global ? seen_[1].word[size][index(size, linear)] : 0)) & bit(size, linear);
  }
  void clear(bool keep_global) {
    for (Seen& seen : seen_) {
      if (!seen.any || (keep_global && &seen == &seen_[1])) continue;
      for (auto& words : seen.word)
        for (uint64_t& w : words) w = 0;
      seen.any = false;
    }
  }

 private:
  static constexpr unsigned kWords = 128;  // 8192 areas
  static unsigned index(Size size, uint64_t linear) { return linear >> (shift_of(size) + 6) & (kWords - 1); }
  static uint64_t bit(Size size, uint64_t linear) { return 1ull << (linear >> shift_of(size) & 63); }
  struct Seen {
    uint64_t word[3][kWords] = {};
    bool any = false;
  };
  Seen seen_[2];  // [1]: of global pages
};

}  // namespace vireo::softkvm
