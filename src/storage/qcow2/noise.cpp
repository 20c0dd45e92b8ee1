// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/noise.h"

#include <array>
#include <cstdint>
#include <cstring>

namespace vireo::storage::qcow2 {
namespace {

constexpr size_t kLeast = 4096;  // of less the counts say nothing

// Pearson's chi-squared of the bytes' counts against all being as many: noise has 255 with a deviation of 22.6. A code for the bytes saves
// about 0.72 bits for each 1 of it (the divergence, to second order), and its tables take hundreds.
constexpr double kUneven = 480;

bool even(std::span<const std::byte> bytes) {
  std::array<std::array<uint32_t, 256>, 4> counts{};  // side by side, so that equal bytes in a row do not wait for each other
  size_t i = 0;
  for (; i + 4 <= bytes.size(); i += 4)
    for (size_t j = 0; j < 4; ++j) ++counts[j][std::to_integer<size_t>(bytes[i + j])];
  for (; i < bytes.size(); ++i) ++counts[0][std::to_integer<size_t>(bytes[i])];
  double squares = 0;
  for (size_t value = 0; value < 256; ++value) {
    const double count = counts[0][value] + counts[1][value] + counts[2][value] + counts[3][value];
    squares += count * count;
  }
  const auto n = static_cast<double>(bytes.size());
  return squares * 256 / n - n < kUneven;
}

// Of all runs of eight bytes those whose hash begins with six zeroes are kept, so that a stretch that comes twice is met both times.
bool repeats(std::span<const std::byte> bytes) {
  constexpr unsigned kChosen = 6, kSlots = 12;
  std::array<uint64_t, 1 << kSlots> seen{};
  for (size_t i = 0; i + 8 <= bytes.size(); ++i) {
    uint64_t run;
    memcpy(&run, &bytes[i], 8);
    const uint64_t hash = run * 0x9e3779b97f4a7c15;
    if (hash >> (64 - kChosen)) continue;
    uint64_t& slot = seen[hash >> (64 - kChosen - kSlots)];
    if (slot == run) return true;
    slot = run;
  }
  return false;
}

}  // namespace

bool is_noise(std::span<const std::byte> bytes) { return bytes.size() >= kLeast && even(bytes.first(kLeast)) && even(bytes) && !repeats(bytes); }

}  // namespace vireo::storage::qcow2
