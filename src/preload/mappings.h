// SPDX-License-Identifier: Apache-2.0
// What the process has mapped, as /proc/self/maps and smaps tell it (proc(5)).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vireo::preload {

struct Mapping {
  uintptr_t begin = 0, end = 0;
  uint64_t offset = 0;
  dev_t device = 0;
  ino_t inode = 0;
  bool readable = false, writable = false, executable = false, shared = false;
  bool named = false;  // a file, the stack, the heap; not memory that the program has named (PR_SET_VMA_ANON_NAME)
  std::string flags;  // smaps' VmFlags

  bool has(const char* flag) const { return flags.find(std::string(" ") + flag + " ") != std::string::npos; }
};

// The mappings that overlap [begin, end), in order of address. Nothing if they cannot be read (no descriptor is free). Names come with flags only, for which
// all that lies below is read, and the kernel walks its page tables; before Linux 6.11 all that lies below is always read.
std::optional<std::vector<Mapping>> mappings(uintptr_t begin, uintptr_t end, bool with_flags = false);

}  // namespace vireo::preload
