// SPDX-License-Identifier: Apache-2.0
// A bzImage's header and payload as a file may say them: unpacking and relocating stay in the memory that they may take.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "machine/packed_kernel.h"

using namespace vireo;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint64_t kRam = 40 << 20, kLow = 0x100000, kHigh = 36 << 20;
  static const auto memory = std::move(*GuestMemory::create({.size = kRam}, kRam));
  struct {
    uint32_t init_size, start, alignment;
    uint8_t flags, relocatable, nokaslr, rest;
  } given;
  if (size < sizeof given) return 0;
  memcpy(&given, data, sizeof given);
  setup_header header{};
  header.xloadflags = given.flags | XLF_KERNEL_64;
  header.init_size = given.init_size, header.pref_address = given.start, header.kernel_alignment = given.alignment, header.relocatable_kernel = given.relocatable & 1;
  auto ram = memory->range(GuestAddress{0}, kRam);
  ram[kLow - 1] = ram[kHigh] = std::byte{0x5a};
  auto got = unpack_kernel({.payload = std::as_bytes(std::span(data, size)).subspan(sizeof given),
                            .header = header,
                            .command_line = given.nokaslr & 1 ? "nokaslr" : given.nokaslr & 2 ? "mem=30M" : "",
                            .low = kLow,
                            .high = kHigh},
                           *memory);
  if (ram[kLow - 1] != std::byte{0x5a} || ram[kHigh] != std::byte{0x5a}) abort();
  if (got && (got->entry < kLow || got->entry >= kHigh)) abort();
  return 0;
}
