// SPDX-License-Identifier: Apache-2.0
// Spec: proc(5), smaps; madvise(2); memfd_create(2).
#include "preload/moving.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "preload/descriptors.h"
#include "preload/next.h"
#include "preload/used_pages.h"
#include "softkvm/softkvm.h"

namespace vireo::preload {
namespace {

constexpr uint64_t kMostCopied = 64 << 20;  // of what is in use already: a program that has filled its memory would wait, and need it twice meanwhile

bool ksm_runs() {
  OwnedFd fd(VIREO_NEXT_AS("open", int(const char*, int, ...))("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC));
  char c = '0';
  return fd.valid() && VIREO_NEXT_AS("read", ssize_t(int, void*, size_t))(fd.get(), &c, 1) == 1 && c == '1';
}

// Copies the pages that are in use. False: there are too many, or it is not known which.
bool copy_used(int file, uint64_t offset, uintptr_t begin, uintptr_t end) {
  const auto used = used_pages(begin, end, kMostCopied);
  if (!used) return false;
  for (auto [at, until] : *used)
    while (at < until) {
      const ssize_t done = ::pwrite(file, reinterpret_cast<const void*>(at), until - at, static_cast<off_t>(offset + (at - begin)));
      if (done <= 0) return false;
      at += static_cast<uintptr_t>(done);
    }
  return true;
}

// The rights and advice that a mapping had, to what is in its place now, readable and writable.
void advise_as(const Mapping& m, uintptr_t begin, uintptr_t end) {
  void* at = reinterpret_cast<void*>(begin);
  const size_t size = end - begin;
  const int rights = (m.readable ? PROT_READ : 0) | (m.writable ? PROT_WRITE : 0) | (m.executable ? PROT_EXEC : 0);
  if (rights != (PROT_READ | PROT_WRITE)) VIREO_NEXT_AS("mprotect", int(void*, size_t, int))(at, size, rights);
  auto* advise = VIREO_NEXT_AS("madvise", int(void*, size_t, int));
  constexpr std::pair<const char*, int> kAdvice[] = {{"dc", MADV_DONTFORK}, {"dd", MADV_DONTDUMP}, {"hg", MADV_HUGEPAGE}, {"nh", MADV_NOHUGEPAGE},
                                                     {"sr", MADV_SEQUENTIAL}, {"rr", MADV_RANDOM}};
  for (auto [flag, advice] : kAdvice)
    if (m.has(flag)) advise(at, size, advice);
}

}  // namespace

bool may_move(const Mapping& m, uintptr_t begin, uintptr_t end) {
  if (m.shared || m.named || m.inode != 0 || !m.readable || !m.writable || end - begin < kLeastMoved) return false;
  // Hugetlbfs, devices, locked pages, userfaultfd; wiped in a child, which memory of a file cannot be.
  for (const char* flag : {"ht", "io", "pf", "lo", "um", "uw", "ui", "wf"})
    if (m.has(flag)) return false;
  if (m.has("mg") && ksm_runs()) return false;  // equal pages are to be one
  int policy = MPOL_DEFAULT;
  if (::syscall(SYS_get_mempolicy, &policy, nullptr, 0, begin, MPOL_F_ADDR) == 0 && policy != MPOL_DEFAULT) return false;
  rlimit most;
  return ::getrlimit(RLIMIT_FSIZE, &most) == 0 && (most.rlim_cur == RLIM_INFINITY || most.rlim_cur > end - begin + kLargePage);
}

bool move_into_file(const Mapping& m, Range& range) {
  const uint64_t size = range.end - range.begin;
  range.offset = range.begin % kLargePage;  // large pages of the file are such of the addresses
  OwnedFd file = beside_streams(::memfd_create("vireo-guest-memory", MFD_CLOEXEC));
  if (!file.valid() || ::ftruncate(file.get(), static_cast<off_t>(range.offset + size)) != 0) return false;
  if (!copy_used(file.get(), range.offset, range.begin, range.end)) return false;
  void* at = reinterpret_cast<void*>(range.begin);
  const int rights = PROT_READ | PROT_WRITE | (m.executable ? PROT_EXEC : 0);
  if (VIREO_NEXT_AS("mmap", void*(void*, size_t, int, int, int, off_t))(at, size, rights, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file.get(),
                                                                        static_cast<off_t>(range.offset)) != at)
    return false;
  advise_as(m, range.begin, range.end);
  softkvm::notice_change(at, size);
  range.file = std::make_shared<const OwnedFd>(std::move(file));
  return true;
}

bool move_home(const Range& r, uintptr_t begin, uintptr_t end) {
  const size_t size = end - begin;
  auto* map = VIREO_NEXT_AS("mmap", void*(void*, size_t, int, int, int, off_t));
  void* made = map(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED) return false;
  const auto base = static_cast<off_t>(r.offset + (begin - r.begin)), last = base + static_cast<off_t>(size);
  bool whole = true;
  for (off_t from = base, until; whole && (from = ::lseek(r.file->get(), from, SEEK_DATA)) >= 0 && from < last; from = until) {
    until = std::min(last, ::lseek(r.file->get(), from, SEEK_HOLE));
    auto* to = static_cast<char*>(made) + (from - base);
    for (off_t at = from; whole && at < until;) {
      const ssize_t got = VIREO_NEXT_AS("pread", ssize_t(int, void*, size_t, off_t))(r.file->get(), to + (at - from), static_cast<size_t>(until - at), at);
      whole = got > 0;
      at += got;
    }
  }
  const auto were = mappings(begin, end, true).value_or(std::vector<Mapping>{});
  if (!whole || VIREO_NEXT_AS("mremap", void*(void*, size_t, size_t, int, ...))(made, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, reinterpret_cast<void*>(begin)) == MAP_FAILED) {
    VIREO_NEXT_AS("munmap", int(void*, size_t))(made, size);
    return false;
  }
  for (const Mapping& m : were) advise_as(m, std::max(begin, m.begin), std::min(end, m.end));
  return true;
}
}  // namespace vireo::preload
