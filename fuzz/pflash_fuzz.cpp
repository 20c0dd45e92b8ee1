// SPDX-License-Identifier: Apache-2.0
// A guest's commands to the flash chip: each 4 bytes of the input are an access, of offset, size, direction and a byte of data. What the chip says has
// changed must be all that has.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "devices/pflash.h"

using namespace vireo;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint64_t kSize = 2 * Pflash::kBlockSize;
  std::vector<std::byte> array(kSize, std::byte{0x5a}), kept = array;
  bool shown = true;
  Pflash chip(array, {[&](bool array_shown) { shown = array_shown; },
                      [&](uint64_t offset, uint64_t bytes) {
                        if (offset > kSize || bytes > kSize - offset) abort();
                        memcpy(&kept[offset], &array[offset], bytes);
                      }});
  for (; size >= 4; data += 4, size -= 4) {
    const uint64_t offset = (data[0] | data[1] << 8) % kSize;
    const size_t bytes = size_t{1} << (data[2] & 3);
    std::byte values[8];
    memset(values, data[3], sizeof values);
    if (data[2] & 4) {
      chip.write({offset}, std::span(values).first(bytes));
    } else {
      chip.read({offset}, std::span(values).first(bytes));
      if (shown && values[0] != array[offset]) abort();
    }
  }
  if (kept != array) abort();
  return 0;
}
