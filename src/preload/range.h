// SPDX-License-Identifier: Apache-2.0
// Memory of the program that is a file's, and the VMs that may map it in processes of their own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/owned_fd.h"

namespace vireo::preload {

constexpr uintptr_t kPage = 4096;
constexpr uint64_t kLargePage = 2 << 20;

using Vms = std::vector<std::pair<ino_t, int>>;  // a handle's file and number

struct Range {
  uintptr_t begin, end;
  std::shared_ptr<const OwnedFd> file;  // of all that were one range
  uint64_t offset;  // of `begin`
  bool ours;        // was private memory
  bool lendable = true;
  bool forked = false;  // a child may have it mapped
  Vms to = {};  // that have it

  bool overlaps(uintptr_t from, uintptr_t until) const { return begin < until && end > from; }
};

void lend(Range& range, ino_t file, int vm);

// Lends `part` to all who have `range`.
void lend_as(const Range& range, Range& part);

void take_back(const Range& range);

// The pages of [begin, end) in the file of private memory that was. The number may be another file's by now, if the program has closed all it knew nothing of.
void drop_pages(const Range& range, uintptr_t begin, uintptr_t end);

}  // namespace vireo::preload
