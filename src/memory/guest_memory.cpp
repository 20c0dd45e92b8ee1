// SPDX-License-Identifier: Apache-2.0
#include "memory/guest_memory.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>

#include "base/log.h"
#include "base/owned_fd.h"

namespace vireo {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugeAlign = 2u << 20;
constexpr uint64_t kManyPages = 64 << 10;  // bytes: fewer are not worth a system call
constexpr uint64_t kForTwo = 16 << 20;     // bytes that are worth a second thread
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1; madvise(2)
#endif
constexpr uint64_t kHighStart = 1ull << 32;

// Spec: Linux, Documentation/admin-guide/mm/transhuge.rst.
bool host_has_large_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string policy;
  return std::getline(file, policy) && policy.find("[never]") == policy.npos;
}

// More than 512 faults take: memory that the host has to get from somewhere first.
constexpr int64_t kSlow = 2'000'000;  // ns of processor time

int64_t processor_time() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

void populate(std::span<std::byte> bytes) {
  const auto first = reinterpret_cast<uintptr_t>(bytes.data()) & ~(kPage - 1), last = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
  madvise(reinterpret_cast<void*>(first), (last - first + kPage - 1) & ~(kPage - 1), MADV_POPULATE_WRITE);
}

// Pages for what will be written whole: large ones where `large` and the host has them at hand; else small ones, all by one call, where a fault for
// each costs two to ten times as much. It may fail: then they come by faults.
void make_pages(std::span<std::byte> bytes, bool large) {
  uint64_t at = std::min<uint64_t>(-reinterpret_cast<uintptr_t>(bytes.data()) & (kHugeAlign - 1), bytes.size());
  if (large) populate(bytes.first(at));
  else at = 0;
  while (large && at + kHugeAlign <= bytes.size()) {
    bytes[at] = {};  // the host has nothing to do where there is no page at all
    const int64_t start = processor_time();
    large = madvise(&bytes[at], kHugeAlign, MADV_COLLAPSE) == 0 && processor_time() - start <= kSlow;
    if (large) at += kHugeAlign;
  }
  populate(bytes.subspan(at));
}

// The same by two threads where it is a lot, since the host has to clear it all.
void make_all_pages(std::span<std::byte> bytes, bool large) {
  if (bytes.size() < kManyPages) return;
  if (bytes.size() < kForTwo || std::thread::hardware_concurrency() < 2) return make_pages(bytes, large);
  const size_t half = bytes.size() / 2 & ~(kHugeAlign - 1);
  std::jthread other;
  try {
    other = std::jthread([=] { make_pages(bytes.subspan(half), large); });
  } catch (const std::system_error&) {  // no more threads
    return make_pages(bytes, large);
  }
  make_pages(bytes.first(half), large);
}

std::string in_words(uint64_t bytes) {
  if (bytes % (1ull << 40) == 0) return std::to_string(bytes >> 40) + "T";
  if (bytes % (1ull << 30) == 0) return std::to_string(bytes >> 30) + "G";
  if (bytes % (1ull << 20) == 0) return std::to_string(bytes >> 20) + "M";
  return std::to_string(bytes >> 10) + "K";
}

Result<OwnedFd> open_backing(const MemoryConfig& config) {
  using Backing = MemoryConfig::Backing;
  const bool shared = config.prefer_shared && !config.mergeable;
  if (config.backing == Backing::kAnonymous || (config.backing == Backing::kAutomatic && !shared)) return OwnedFd();
  OwnedFd fd;
  if (config.backing == Backing::kFile) {
    fd.reset(::open(config.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd.valid()) return fail_errno("backing file " + config.path);
    struct stat st;
    if (fstat(fd.get(), &st)) return fail_errno("backing file " + config.path);
    if (S_ISREG(st.st_mode) && static_cast<uint64_t>(st.st_size) >= config.size) return fd;
  } else {
    unsigned flags = MFD_CLOEXEC;
    if (config.backing == Backing::kHugetlb) {
      flags |= MFD_HUGETLB;
      if (config.huge_page_size) flags |= static_cast<unsigned>(std::countr_zero(config.huge_page_size)) << MAP_HUGE_SHIFT;
    }
    fd.reset(memfd_create("vireo-ram", flags));
    if (!fd.valid()) return fail_errno("backing memfd");
  }
  if (ftruncate(fd.get(), static_cast<off_t>(config.size)))
    return fail_errno(in_words(config.size) + ": sizing the backing");
  return fd;
}

}  // namespace

struct GuestMemory::Impl {
  OwnedFd fd;
  bool hugetlb = false, large = false;
  std::byte* reserved = nullptr;
  uint64_t reserved_size = 0;
  std::vector<MemoryRegion> regions;
  struct Hidden {
    std::atomic<uint64_t> start = 0, end = 0;
  };
  std::array<Hidden, kHiddenWindows> hidden;
  std::function<void(GuestAddress, uint64_t)> notice;

  ~Impl() {
    if (reserved) munmap(reserved, reserved_size);
  }

  Result<> map(const MemoryConfig& config);
  Result<> tune(std::byte* start, const MemoryConfig& config);
};

Result<> GuestMemory::Impl::map(const MemoryConfig& config) {
  bool hugetlb = config.backing == MemoryConfig::Backing::kHugetlb;
  uint64_t align = std::max(kHugeAlign, hugetlb ? config.huge_page_size : 0);
  // Reserve with room to align, then map over it: guest 2 MiB pages can be host 2 MiB pages only when both are aligned alike.
  reserved_size = config.size + align;
  void* reservation = mmap(nullptr, reserved_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reservation == MAP_FAILED) {
    reserved_size = 0;
    return fail_errno(in_words(config.size) + ": more than this host can map");
  }
  reserved = static_cast<std::byte*>(reservation);
  auto* start = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(reserved) + align - 1) & ~(align - 1));
  int flags = MAP_FIXED | (fd.valid() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
  if (mmap(start, config.size, PROT_READ | PROT_WRITE, flags, fd.get(), 0) == MAP_FAILED)
    return fail_errno(in_words(config.size) + (hugetlb ? ": not enough free huge pages" : ": more than this host has"));
  regions.push_back({GuestAddress{0}, config.size, start});
  return tune(start, config);
}

Result<> GuestMemory::Impl::tune(std::byte* start, const MemoryConfig& config) {
  bool hugetlb = config.backing == MemoryConfig::Backing::kHugetlb;
  if (config.numa_node >= 0) {
    constexpr unsigned kBits = 8 * sizeof(unsigned long);
    std::array<unsigned long, 1024 / kBits> nodes{};
    if (config.numa_node >= 1024) return fail(ErrorKind::kInvalid, "numa=" + std::to_string(config.numa_node) + ": no such host node");
    nodes[config.numa_node / kBits] |= 1ul << (config.numa_node % kBits);
    if (syscall(SYS_mbind, start, config.size, MPOL_BIND, nodes.data(), 1025ul, 0u))
      return fail_errno("numa=" + std::to_string(config.numa_node));
  }
  if (config.mergeable && madvise(start, config.size, MADV_MERGEABLE)) return fail_errno("mergeable");
  // KSM merges 4 KiB pages. It would have to split a huge page before each merge, a split takes the page's zeros away from it (Linux maps
  // them to its one zero page), and khugepaged puts merged pages together again. Spec: Linux, Documentation/admin-guide/mm/ksm.rst.
  bool huge = config.transparent_huge_pages && !config.mergeable;
  // A kernel without transparent huge pages refuses the advice; that costs speed alone.
  if (!hugetlb) madvise(start, config.size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  large = huge && !hugetlb && config.numa_node < 0 && fd.valid() && config.backing != MemoryConfig::Backing::kFile && host_has_large_pages();
  madvise(start, config.size, MADV_DONTDUMP);
  if (config.prealloc && madvise(start, config.size, MADV_POPULATE_WRITE))
    return fail_errno(in_words(config.size) + ": prealloc");
  return {};
}

GuestMemory::GuestMemory() : impl_(std::make_unique<Impl>()) {}
GuestMemory::~GuestMemory() = default;

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(const MemoryConfig& config, uint64_t low_limit) {
  if (config.size == 0 || config.size % kPage)
    return fail(ErrorKind::kInvalid, std::to_string(config.size) + " bytes: must be a multiple of 4 KiB and not zero");
  if (config.size > 1ull << 46) return fail(ErrorKind::kInvalid, in_words(config.size) + ": beyond 64 TiB");
  if (config.mergeable && config.backing != MemoryConfig::Backing::kAnonymous && config.backing != MemoryConfig::Backing::kAutomatic)
    return fail(ErrorKind::kInvalid, "mergeable: the host merges anonymous memory alone");
  if (config.backing == MemoryConfig::Backing::kHugetlb) {
    uint64_t page = config.huge_page_size ? config.huge_page_size : 2u << 20;
    if (!std::has_single_bit(page) || page < kHugeAlign)
      return fail(ErrorKind::kInvalid, "hugetlb page size " + in_words(page) + ": 2M or 1G");
    if (config.size % page)
      return fail(ErrorKind::kInvalid, in_words(config.size) + ": not a multiple of its " + in_words(page) + " pages");
  }
  std::unique_ptr<GuestMemory> memory(new GuestMemory);
  memory->impl_->fd = TRY(open_backing(config));
  memory->impl_->hugetlb = config.backing == MemoryConfig::Backing::kHugetlb;
  TRY_VOID(memory->impl_->map(config));
  auto& regions = memory->impl_->regions;
  if (config.size > low_limit) {
    regions[0].size = low_limit;
    regions.push_back({GuestAddress{kHighStart}, config.size - low_limit, regions[0].host + low_limit});
  }
  return memory;
}

const std::vector<MemoryRegion>& GuestMemory::regions() const { return impl_->regions; }

bool GuestMemory::large_pages() const { return impl_->large; }

int GuestMemory::shared_file() const { return impl_->hugetlb ? -1 : impl_->fd.get(); }

std::span<std::byte> GuestMemory::range(GuestAddress start, uint64_t size) const {
  for (const MemoryRegion& region : impl_->regions) {
    if (raw(start) < raw(region.start)) continue;
    const uint64_t offset = raw(start) - raw(region.start);
    if (offset > region.size || size > region.size - offset) continue;
    for (const Impl::Hidden& hidden : impl_->hidden)
      if (raw(start) < hidden.end.load(std::memory_order_relaxed) && hidden.start.load(std::memory_order_relaxed) < raw(start) + size) return {};
    return {region.host + offset, size};
  }
  return {};
}

void GuestMemory::hide(unsigned window, GuestAddress start, uint64_t size) {
  Impl::Hidden& hidden = impl_->hidden[window];
  hidden.end = 0;  // nothing, until both are known
  hidden.start = raw(start);
  if (size) hidden.end = raw(start) + size;
}

bool GuestMemory::read(GuestAddress start, std::span<std::byte> out) const {
  if (out.empty()) return true;
  auto bytes = range(start, out.size());
  if (bytes.empty()) return false;
  memcpy(out.data(), bytes.data(), out.size());
  return true;
}

std::span<std::byte> GuestMemory::range_to_fill(GuestAddress start, uint64_t size) {
  auto bytes = range(start, size);
  make_all_pages(bytes, impl_->large);
  return bytes;
}

bool GuestMemory::write(GuestAddress start, std::span<const std::byte> in) {
  if (in.empty()) return true;
  auto bytes = range_to_fill(start, in.size());
  if (bytes.empty()) return false;
  memcpy(bytes.data(), in.data(), in.size());
  notice_write(start, in.size());
  return true;
}

void GuestMemory::notice_write(GuestAddress start, uint64_t size) {
  if (impl_->notice) impl_->notice(start, size);
}

void GuestMemory::set_write_notice(std::function<void(GuestAddress, uint64_t)> notice) { impl_->notice = std::move(notice); }

}  // namespace vireo
