// SPDX-License-Identifier: Apache-2.0
// The ioctls of the system handle, what open("/dev/kvm") gives.
#pragma once

#include <cstdint>

#include "softkvm/abi/file.h"
#include "softkvm/cpu/cpuid.h"

namespace vireo::softkvm::abi {

class SystemFile final : public File {
 public:
  SystemFile() : File(FileKind::kSystem) {}
};

// From now on callers are other programs, which may take the layout of the XSAVE area from the bare CPU and not from KVM_GET_SUPPORTED_CPUID, as
// QEMU does: what would give it components that the CPU has not is not offered. Before the first system handle.
void expect_foreign_callers();

// What KVM_GET_SUPPORTED_CPUID says.
const CpuidTable& offered_cpuid();

int system_ioctl(unsigned long request, uintptr_t argument);

}  // namespace vireo::softkvm::abi
