// SPDX-License-Identifier: Apache-2.0
// The SMBIOS tables a guest reads its machine's name and size from. Spec: DMTF DSP0134, SMBIOS 3.6, 5.2.2 and 7.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace vireo {

// The 64-bit entry point, whose table address is still to be set, and the structures.
struct Smbios {
  static constexpr size_t kChecksum = 5, kTableAddress = 16;  // in the entry point
  std::vector<uint8_t> entry, table;
};
Smbios build_smbios(unsigned cpus, uint64_t ram);

// The 64-bit entry point at `start`, which must lie on a 16-byte boundary in 0xf0000 to 0xfffff, and the structures behind it.
Result<> write_smbios(GuestMemory& memory, unsigned cpus, uint64_t ram, GuestAddress start, GuestAddress end);

}  // namespace vireo
