// SPDX-License-Identifier: Apache-2.0
// The system handle: capabilities, CPUID tables, and making VMs. Spec: the kernel's Documentation/virt/kvm/api.rst.
#pragma once

#include <linux/kvm.h>

#include <memory>
#include <vector>

#include "kvm/api.h"

namespace vireo::kvm {

class Vm;

class System {
 public:
  static Result<std::unique_ptr<System>> open(const Api& api);

  const Api& api() const { return handle_.api(); }
  int extension(unsigned capability) const;  // 0 when absent
  Result<std::unique_ptr<Vm>> create_vm();
  Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
  // Of what a vCPU's state is made, as far as the hypervisor has it.
  Result<std::vector<uint32_t>> msr_indices() const;
  size_t vcpu_mapping_size() const { return mapping_size_; }

 private:
  explicit System(Handle handle) : handle_(std::move(handle)) {}
  Handle handle_;
  size_t mapping_size_ = 0;
};

}  // namespace vireo::kvm
