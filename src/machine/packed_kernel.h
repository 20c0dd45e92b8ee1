// SPDX-License-Identifier: Apache-2.0
// The kernel in a bzImage, unpacked and placed by the loader, as the code in front of it would do in the guest: 64-bit kernels, which are entered
// at their own start then. Where they are made for it they get a random place and random addresses (KASLR), unless the command line says
// "nokaslr". Memory for five levels of page tables is not switched on: four reach as far as a guest's memory here.
// Spec: the kernel's Documentation/x86/boot.rst; where a kernel lies and what its relocations look like is what its own unpacking
// (arch/x86/boot/compressed) does.
#pragma once

#include <asm/bootparam.h>

#include <optional>
#include <span>
#include <string_view>

#include "memory/guest_memory.h"

namespace vireo {

struct UnpackWish {
  std::span<const std::byte> payload;  // setup_header's payload_offset and payload_length
  const setup_header& header;
  std::string_view command_line;
  uint64_t low = 0, high = 0;  // the RAM that may be taken, below 4 GiB
};

struct UnpackedKernel {
  uint64_t entry = 0;           // physical
  bool randomized = false;      // the kernel is to be told by KASLR_FLAG
};

// Nothing: the kernel has to unpack itself, for one of many reasons (another packing, no 64-bit kernel, no room, relocations that we do not know).
// Memory between low and high may have been written then.
std::optional<UnpackedKernel> unpack_kernel(const UnpackWish& wish, GuestMemory& memory);

}  // namespace vireo
