// SPDX-License-Identifier: Apache-2.0
#include "storage/file/resident_pages.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

namespace vireo::storage {
namespace {

// cachestat(2), which Debian 12's headers do not have. Layouts: the kernel's include/uapi/linux/mman.h.
constexpr long kCachestat = 451;
struct CachestatRange {
  uint64_t offset, length;
};
struct Cachestat {
  uint64_t cached, dirty, writeback, evicted, recently_evicted;  // pages
};

constexpr uint64_t kPage = 4096;
constexpr unsigned kGiveUp = 32, kAskAgain = 64;

bool all_cached(int fd, uint64_t offset, uint64_t length) {
  const uint64_t pages = (offset % kPage + length + kPage - 1) / kPage;
  CachestatRange range{offset, length};
  Cachestat found{};
  return syscall(kCachestat, fd, &range, &found, 0) == 0 && found.cached == pages;
}

}  // namespace

std::unique_ptr<ResidentPages> ResidentPages::open(int file) {
  CachestatRange range{0, kPage};
  Cachestat found;
  if (syscall(kCachestat, file, &range, &found, 0) != 0) return nullptr;
  // By its descriptor: its name may be another file's by now.
  OwnedFd fd(::open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return nullptr;
  posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM);  // nothing is read ahead
  return std::unique_ptr<ResidentPages>(new ResidentPages(std::move(fd)));
}

bool ResidentPages::has(uint64_t offset, uint64_t length) {
  const unsigned missed = missed_.load(std::memory_order_relaxed);
  if (missed >= kGiveUp && missed % kAskAgain) {
    missed_.store(missed + 1 ? missed + 1 : kGiveUp, std::memory_order_relaxed);
    return false;
  }
  const bool there = length > 0 && all_cached(fd_.get(), offset, length);
  missed_.store(there ? 0 : missed + 1, std::memory_order_relaxed);
  return there;
}

}  // namespace vireo::storage
