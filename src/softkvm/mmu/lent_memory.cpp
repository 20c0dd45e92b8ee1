// SPDX-License-Identifier: Apache-2.0
#include "softkvm/mmu/lent_memory.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

namespace vireo::softkvm {

int LentMemory::add(const void* host, uint64_t size, int fd, uint64_t offset) {
  if (reinterpret_cast<uint64_t>(host) % 4096 || size % 4096 || offset % 4096 || !size) return -EINVAL;
  struct stat st;
  if (fstat(fd, &st)) return -errno;
  if (static_cast<uint64_t>(st.st_size) < offset || static_cast<uint64_t>(st.st_size) - offset < size) return -EINVAL;
  OwnedFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.valid()) return -errno;
  std::lock_guard lock(mutex_);
  ranges_.push_back({static_cast<const uint8_t*>(host), size, std::make_shared<const OwnedFd>(std::move(copy)), offset});
  generation_++;
  return 0;
}

void LentMemory::remove(const void* host, uint64_t size) {
  auto* begin = static_cast<const uint8_t*>(host);
  std::lock_guard lock(mutex_);
  if (std::erase_if(ranges_, [&](const Range& r) { return begin < r.host + r.size && r.host < begin + size; })) generation_++;
}

std::vector<LentMemory::Range> LentMemory::ranges() const {
  std::lock_guard lock(mutex_);
  return ranges_;
}

}  // namespace vireo::softkvm
