// SPDX-License-Identifier: Apache-2.0
// An Archive that keeps fields in memory, for tests: save into it, load from it, compare.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/archive.h"

namespace vireo {

class MemoryArchive final : public Archive {
 public:
  void bytes(unsigned number, const char* name, std::span<std::byte> value) override {
    if (loading) {
      auto found = fields.find(number);
      if (found != fields.end() && found->second.size() == value.size()) std::ranges::copy(found->second, value.begin());
    } else {
      duplicate |= !fields.emplace(number, std::vector<std::byte>(value.begin(), value.end())).second;
    }
  }
  std::map<unsigned, std::vector<std::byte>> fields;
  bool loading = false;
  bool duplicate = false;  // a field number was used twice
};

}  // namespace vireo
