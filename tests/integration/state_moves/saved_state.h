// SPDX-License-Identifier: Apache-2.0
// A stopped VM in the ABI's own structs: everything that KVM_GET_* gives, as bytes that another process can read, and put back by KVM_SET_*
// into a VM made anew. Guest RAM is not in it. Spec: the kernel's Documentation/virt/kvm/api.rst.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kvm/api.h"

namespace vireo::moves {

struct SavedVcpu {
  std::vector<kvm_cpuid_entry2> cpuid;
  kvm_regs regs = {};
  kvm_sregs2 sregs = {};
  std::vector<uint32_t> xsave;
  kvm_xcrs xcrs = {};
  kvm_debugregs debugregs = {};
  kvm_vcpu_events events = {};
  kvm_mp_state mp_state = {};
  kvm_lapic_state lapic = {};
  bool has_lapic = false;
  std::vector<kvm_msr_entry> msrs;  // all of KVM_GET_MSR_INDEX_LIST that can be read
};

struct SavedVm {
  bool has_irqchip = false;
  kvm_irqchip chips[3] = {};
  kvm_pit_state2 pit = {};
  kvm_clock_data clock = {};
  std::vector<SavedVcpu> vcpus;
  std::vector<uint8_t> devices;  // the caller's own
};

// Ends the program with a message.
[[noreturn, gnu::format(printf, 1, 2)]] void die(const char* format, ...);

// An ioctl that must succeed.
int call(const kvm::Api& api, int fd, unsigned long request, const void* argument, const char* what);
int call(const kvm::Api& api, int fd, unsigned long request, uintptr_t argument, const char* what);

std::vector<uint32_t> msr_indices(const kvm::Api& api, int system);
std::vector<kvm_cpuid_entry2> supported_cpuid(const kvm::Api& api, int system);
void set_cpuid(const kvm::Api& api, int vcpu, std::vector<kvm_cpuid_entry2> entries);

SavedVcpu save_vcpu(const kvm::Api& api, int system, int vm, int vcpu, const std::vector<kvm_cpuid_entry2>& cpuid);
// `foreign`: the state comes from another hypervisor, some of whose registers this one may not know.
void restore_vcpu(const kvm::Api& api, int vcpu, const SavedVcpu& saved, bool foreign);
void save_chips(const kvm::Api& api, int vm, SavedVm& saved);
// Before the vCPUs' state, as their APICs look at the chips.
void restore_chips(const kvm::Api& api, int vm, const SavedVm& saved);
// The VM's clock and the vCPUs' counters stand still while nothing runs.
void restore_clock(const kvm::Api& api, int vm, const SavedVm& saved);

std::vector<uint8_t> to_bytes(const SavedVm& saved);
SavedVm from_bytes(const std::vector<uint8_t>& bytes);

}  // namespace vireo::moves
