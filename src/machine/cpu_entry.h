// SPDX-License-Identifier: Apache-2.0
// The state in which a boot protocol hands the processor to a kernel. Spec: Intel SDM vol 3, 10.1.4 (state after reset).
#pragma once

#include <cstdint>

#include "base/result.h"
#include "kvm/vcpu.h"
#include "memory/guest_memory.h"

namespace vireo {

struct CpuEntry {
  enum class Mode { kReset, kProtected32, kLong64 };
  Mode mode = Mode::kReset;
  uint64_t rip = 0, rax = 0, rbx = 0, rsi = 0;
  // The interrupt controllers as PC firmware leaves them: vectors 8 and 0x70. Kernels that start in real mode's shape rely on it.
  bool firmware_vectors = false;
};

// Low memory the entry states use: a GDT, page tables that map the first 4 GiB to themselves, and in 64-bit mode a stack behind them. The boot protocol
// promises no stack, but what unpacks a kernel leaves it its own, and Linux before 4.10 calls a function with its first instruction.
constexpr uint64_t kBootGdt = 0x500, kBootGdtEnd = 0x520;
constexpr uint64_t kBootPageTables = 0x9000;  // six pages
constexpr uint64_t kBootStackEnd = 0x10000;       // a page
constexpr uint64_t kBootDataEnd = kBootStackEnd;

// Changes a vCPU that is in its reset state. Writes GDT and page tables where the mode needs them.
Result<> enter(kvm::Vcpu& vcpu, GuestMemory& memory, const CpuEntry& entry);

// The same at the vector that the guest left in the FACS before it slept: X_Firmware_Waking_Vector in flat 32-bit protected mode, without a GDT in
// memory, or else Firmware_Waking_Vector in real mode. False: there is none. Spec: ACPI 6.5, 5.2.10.
Result<bool> enter_waking_vector(kvm::Vcpu& vcpu, GuestMemory& memory, GuestAddress facs);

}  // namespace vireo
