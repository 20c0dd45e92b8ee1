// SPDX-License-Identifier: Apache-2.0
// The places in a 64-bit Linux kernel that hold its addresses, listed behind its ELF file: 32-bit words, each the lower half of a place's linear
// address. A zero, places of 64-bit addresses, a zero, places of 32-bit distances to per-CPU variables (kernels before 6.15), a zero, places of
// 32-bit addresses. Observed in Debian's kernels; written by arch/x86/tools/relocs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vireo {

struct KernelRelocation {
  static constexpr uint64_t kMapStart = 0xffffffff80000000;  // __START_KERNEL_map: the kernel's addresses are this and its physical ones
  std::span<std::byte> image;   // the kernel, in place
  uint64_t linked_at = 0;       // physical address of its first byte, as linked

  // Moves all addresses by `shift`. False: no table as above, or one that leads out of the image, which is half done then.
  bool apply(std::span<const uint32_t> table, uint64_t shift) const;
};

}  // namespace vireo
