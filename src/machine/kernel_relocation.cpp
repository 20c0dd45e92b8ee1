// SPDX-License-Identifier: Apache-2.0
#include "machine/kernel_relocation.h"

#include <cstring>
#include <vector>

namespace vireo {
namespace {

// Adds to the little-endian T at each place.
template <class T>
bool add(const KernelRelocation& kernel, std::span<const uint32_t> places, uint64_t what) {
  const uint64_t first = KernelRelocation::kMapStart + kernel.linked_at;
  for (uint32_t low : places) {
    const uint64_t at = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(low))) - first;
    if (at >= kernel.image.size() || sizeof(T) > kernel.image.size() - at) return false;
    T value;
    memcpy(&value, &kernel.image[at], sizeof value);
    value += static_cast<T>(what);
    memcpy(&kernel.image[at], &value, sizeof value);
  }
  return true;
}

}  // namespace

bool KernelRelocation::apply(std::span<const uint32_t> table, uint64_t shift) const {
  std::vector<std::span<const uint32_t>> lists;
  for (size_t at = 0; at < table.size(); at++) {
    if (table[at] == 0)
      lists.push_back(table.subspan(at + 1, 0));
    else if (lists.empty())
      return false;
    else
      lists.back() = {lists.back().data(), lists.back().size() + 1};
  }
  if (lists.size() != 2 && lists.size() != 3) return false;
  if (!add<uint64_t>(*this, lists.front(), shift) || !add<uint32_t>(*this, lists.back(), shift)) return false;
  return lists.size() == 2 || add<uint32_t>(*this, lists[1], -shift);
}

}  // namespace vireo
