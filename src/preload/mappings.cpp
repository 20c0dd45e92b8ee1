// SPDX-License-Identifier: Apache-2.0
#include "preload/mappings.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/owned_fd.h"
#include "preload/next.h"

namespace vireo::preload {
namespace {

// Younger than the headers that we are built with: struct procmap_query of <linux/fs.h>, Linux 6.11.
struct Query {
  uint64_t size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
  uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
  uint64_t vma_name_addr, build_id_addr;
};
constexpr unsigned long kQuery = _IOWR('f', 17, Query);  // PROCMAP_QUERY
constexpr uint64_t kReadable = 1, kWritable = 2, kExecutable = 4, kShared = 8, kCoveringOrNext = 16;

// False: this kernel has no such call. A line of the text takes 1.5 us, and QEMU has 360.
bool ask(uintptr_t begin, uintptr_t end, std::vector<Mapping>& found) {
  OwnedFd file(VIREO_NEXT_AS("open", int(const char*, int, ...))("/proc/self/maps", O_RDONLY | O_CLOEXEC));
  while (begin < end) {
    Query q{};
    q.size = sizeof q;
    q.query_flags = kCoveringOrNext;
    q.query_addr = begin;
    if (VIREO_NEXT_AS("ioctl", int(int, unsigned long, ...))(file.get(), kQuery, &q) != 0) return errno == ENOENT;  // none behind that
    if (q.vma_start >= end) break;
    found.push_back({q.vma_start, q.vma_end, q.vma_offset, makedev(q.dev_major, q.dev_minor), q.inode, (q.vma_flags & kReadable) != 0,
                     (q.vma_flags & kWritable) != 0, (q.vma_flags & kExecutable) != 0, (q.vma_flags & kShared) != 0, false, {}});
    begin = q.vma_end;
  }
  return true;
}

}  // namespace

std::optional<std::vector<Mapping>> mappings(uintptr_t begin, uintptr_t end, bool with_flags) {
  std::vector<Mapping> found;
  if (!with_flags && ask(begin, end, found)) return found;
  found.clear();
  FILE* file = ::fopen(with_flags ? "/proc/self/smaps" : "/proc/self/maps", "re");
  if (file == nullptr) return std::nullopt;
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
                         line[path] != 0 && line[path] != '\n' && ::strncmp(line + path, "[anon:", 6) != 0, {}});
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
