// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/capability.h"

namespace vireo::softkvm::abi {

int check_extension(const VmFile* vm, unsigned long number) {
  static constexpr CapabilityList (*kLists[])() = {
      system_capabilities, vm_capabilities,     memory_capabilities, irq_capabilities,   coalesced_capabilities,
      run_capabilities,    regs_capabilities,   sregs_capabilities,  fpu_capabilities,   events_capabilities,
      debug_capabilities,  msrs_capabilities,   cpuid_capabilities,  lapic_capabilities, clock_capabilities,
      stats_capabilities,
  };
  for (auto* list : kLists) {
    for (const Capability& capability : list()) {
      if (capability.number == number) return capability.computed != nullptr ? capability.computed(vm) : capability.value;
    }
  }
  return 0;
}

}  // namespace vireo::softkvm::abi
