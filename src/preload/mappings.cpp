// SPDX-License-Identifier: Apache-2.0
#include "preload/mappings.h"

#include <sys/sysmacros.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace vireo::preload {

std::vector<Mapping> mappings(uintptr_t begin, uintptr_t end, bool with_flags) {
  std::vector<Mapping> found;
  FILE* file = ::fopen(with_flags ? "/proc/self/smaps" : "/proc/self/maps", "re");
  if (file == nullptr) return found;
  char* line = nullptr;
  size_t room = 0;
  bool wanted = false;
  while (::getline(&line, &room, file) > 0) {
    unsigned long long from, to, offset, inode;
    unsigned major, minor;
    char rights[5];
    int path = 0;
    if (::sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &from, &to, rights, &offset, &major, &minor, &inode, &path) == 7) {
      if (from >= end) break;
      wanted = to > begin;
      if (wanted)
        found.push_back({from, to, offset, makedev(major, minor), inode, rights[0] == 'r', rights[1] == 'w', rights[2] == 'x', rights[3] == 's',
                         line[path] != 0 && line[path] != '\n', {}});
    } else if (wanted && ::strncmp(line, "VmFlags:", 8) == 0) {
      found.back().flags = line + 8;
      found.back().flags.back() = ' ';
    }
  }
  ::free(line);
  ::fclose(file);
  return found;
}

}  // namespace vireo::preload
