// SPDX-License-Identifier: Apache-2.0
// Guest RAM as the machine sees it: guest physical ranges with their host mappings. Guest addresses are hostile: every
// access is checked, and no pointer is kept past the request that asked for it. Reads and writes are thread-safe as plain
// memory is; the layout is fixed once the guest runs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace vireo {

enum class GuestAddress : uint64_t {};  // guest physical
constexpr uint64_t raw(GuestAddress a) { return static_cast<uint64_t>(a); }
constexpr GuestAddress operator+(GuestAddress a, uint64_t n) { return GuestAddress{raw(a) + n}; }

struct MemoryConfig {
  // kAutomatic: a memfd where the machine asks for memory that can be mapped again (prefer_shared), else anonymous.
  enum class Backing { kAutomatic, kAnonymous, kMemfd, kFile, kHugetlb };
  uint64_t size = 0;  // bytes
  Backing backing = Backing::kAutomatic;
  bool prefer_shared = false;   // for kAutomatic; memory that is mergeable stays anonymous, since KSM takes no other
  std::string path;             // for kFile
  uint64_t huge_page_size = 0;  // for kHugetlb: 2 MiB or 1 GiB, 0 the default
  bool prealloc = false;
  bool mergeable = false;  // MADV_MERGEABLE; anonymous memory alone
  bool transparent_huge_pages = true;  // not with mergeable, whatever this says
  int numa_node = -1;  // host node to bind to, or -1
};

struct MemoryRegion {
  GuestAddress start;
  uint64_t size;
  std::byte* host;
};

class GuestMemory {
 public:
  // Maps the RAM and lays it out: below `low_limit` (start of the 32-bit hole) first, the rest from 4 GiB.
  static Result<std::unique_ptr<GuestMemory>> create(const MemoryConfig& config, uint64_t low_limit);
  ~GuestMemory();

  const std::vector<MemoryRegion>& regions() const;

  // The file that the RAM is mapped from, shared and in pages of 4 KiB, or -1. Regions lie in it one behind the other, from 0.
  int shared_file() const;

  // May parts of it be put into the host's transparent large pages? Asked for where the host's policy alone would not: that of shared memory is
  // "never" by default. Not where the host allows none, nor where pages have to stay small or on a node.
  bool large_pages() const;

  // [start, start+size) is no RAM for whoever asks here, until that is said otherwise of the same window: the processors keep it for themselves.
  // Any thread; what was asked for before is not taken back.
  static constexpr unsigned kHiddenWindows = 2;
  void hide(unsigned window, GuestAddress start, uint64_t size);

  // The host bytes of [start, start+size), or an empty span when any byte of it is not RAM.
  std::span<std::byte> range(GuestAddress start, uint64_t size) const;

  bool read(GuestAddress start, std::span<std::byte> out) const;      // false: not all RAM, nothing read
  bool write(GuestAddress start, std::span<const std::byte> in);      // calls the write notice

  // The same for a range that the host is going to write whole: in large pages, where that can be had at once. notice_write() is the caller's.
  std::span<std::byte> range_to_fill(GuestAddress start, uint64_t size);

  // The host wrote [start, start+size) behind the hypervisor's back (device DMA). To be called after the data is in place and
  // before its completion becomes visible to the guest. The hypervisor may have translated code there; with /dev/kvm it is a no-op.
  void notice_write(GuestAddress start, uint64_t size);
  void set_write_notice(std::function<void(GuestAddress, uint64_t)> notice);

 private:
  GuestMemory();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vireo
