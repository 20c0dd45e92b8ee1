// SPDX-License-Identifier: Apache-2.0
// What KVM_CHECK_EXTENSION answers. Each file that implements a capability states it in a list of its own, next to the code;
// capabilities.cpp gathers the lists. A capability that is in no list is not there.
#pragma once

#include <linux/kvm.h>

#include <span>

#include "softkvm/abi/kvm_newer.h"

namespace vireo::softkvm::abi {

class VmFile;

struct Capability {
  unsigned number;
  int value = 1;
  int (*computed)(const VmFile* vm) = nullptr;  // instead of `value`; `vm` is null when the system is asked
};

using CapabilityList = std::span<const Capability>;

// Defines the accessor that capabilities.cpp gathers the list by.
#define CAPABILITIES(name, list) \
  CapabilityList name() { return list; }

CapabilityList system_capabilities();
CapabilityList vm_capabilities();
CapabilityList memory_capabilities();
CapabilityList irq_capabilities();
CapabilityList coalesced_capabilities();
CapabilityList run_capabilities();
CapabilityList regs_capabilities();
CapabilityList sregs_capabilities();
CapabilityList fpu_capabilities();
CapabilityList events_capabilities();
CapabilityList debug_capabilities();
CapabilityList msrs_capabilities();
CapabilityList cpuid_capabilities();
CapabilityList lapic_capabilities();
CapabilityList clock_capabilities();
CapabilityList stats_capabilities();

// The answer to KVM_CHECK_EXTENSION.
int check_extension(const VmFile* vm, unsigned long number);

}  // namespace vireo::softkvm::abi
