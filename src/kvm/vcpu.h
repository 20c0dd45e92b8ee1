// SPDX-License-Identifier: Apache-2.0
// One virtual CPU: its registers and KVM_RUN. State calls are for when the vCPU is not running. Spec: api.rst.
#pragma once

#include <linux/kvm.h>

#include <memory>
#include <span>
#include <vector>

#include "base/owned_fd.h"
#include "kvm/api.h"
#include "kvm/vm.h"

namespace vireo::kvm {

// Everything a vCPU holds, in the ABI's own structs.
struct VcpuState {
  kvm_regs regs = {};
  kvm_sregs sregs = {};
  std::vector<uint32_t> xsave;  // as KVM_GET_XSAVE2 or KVM_GET_XSAVE gives it; empty: fpu is used
  kvm_fpu fpu = {};
  kvm_xcrs xcrs = {};
  bool has_xcrs = false;
  kvm_debugregs debugregs = {};
  kvm_vcpu_events events = {};
  kvm_mp_state mp_state = {};
  kvm_lapic_state lapic = {};
  bool has_lapic = false;
  std::vector<kvm_msr_entry> msrs;
};

class Vcpu {
 public:
  ~Vcpu();

  unsigned id() const { return id_; }
  const Api& api() const { return handle_.api(); }
  kvm_run& run_page() { return *run_; }
  std::span<std::byte> io_data();  // of a KVM_EXIT_IO: size * count bytes, bounded by the mapping

  // 0, or the errno of KVM_RUN (EINTR, EAGAIN, EFAULT ...).
  int run();

  Result<kvm_regs> regs() const;
  Result<> set_regs(const kvm_regs& regs);
  Result<kvm_sregs> sregs() const;
  Result<> set_sregs(const kvm_sregs& sregs);
  Result<> set_cpuid(std::span<const kvm_cpuid_entry2> entries);
  Result<> set_mp_state(uint32_t state);
  Result<uint32_t> mp_state() const;
  // The guest's TSC is the host's (offset 0), so that a hypervisor that lets the guest's own RDTSC run may do so.
  Result<> share_host_tsc();
  // Sets or reads one register; kUnsupported when the hypervisor does not know it.
  Result<> set_msr(uint32_t index, uint64_t value);
  Result<uint64_t> msr(uint32_t index) const;

  // KVM_GET_STATS_FD, see kvm/statistics.h; kUnsupported where the hypervisor has none.
  Result<OwnedFd> statistics() const;

  Result<VcpuState> state(std::span<const uint32_t> msr_indices) const;
  Result<> set_state(const VcpuState& state);

 private:
  friend class Vm;
  Vcpu(const Vm& vm, Handle handle, unsigned id, kvm_run* run, size_t run_size)
      : vm_(&vm), handle_(std::move(handle)), id_(id), run_(run), run_size_(run_size) {}
  const Vm* vm_;
  Handle handle_;
  unsigned id_;
  kvm_run* run_;
  size_t run_size_;
};

}  // namespace vireo::kvm
