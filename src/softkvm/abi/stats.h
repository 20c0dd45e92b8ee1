// SPDX-License-Identifier: Apache-2.0
// KVM_GET_STATS_FD: counters of a VM or a vCPU in a file of the kernel's binary format. The file is a memfd in which the counters themselves
// lie, so that who reads it reads what is true then. Spec: Documentation/virt/kvm/api.rst, 4.133.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace vireo::softkvm::abi {

class Statistics {
 public:
  struct Counter {
    const char* name;
    uint32_t flags;  // KVM_STATS_TYPE_* | KVM_STATS_UNIT_* | KVM_STATS_BASE_*
  };
  Statistics() = default;
  ~Statistics();
  Statistics(const Statistics&) = delete;
  Statistics& operator=(const Statistics&) = delete;

  // A new descriptor, for reading only, or -errno. The file is made with the first.
  int open(const std::string& id, std::span<const Counter> counters);
  bool wanted() const { return values_ != nullptr; }  // somebody has asked for the file
  void set(unsigned counter, uint64_t value) {
    if (values_ != nullptr) __atomic_store_n(&values_[counter], value, __ATOMIC_RELAXED);
  }

 private:
  int fd_ = -1;
  void* mapping_ = nullptr;
  size_t size_ = 0;
  uint64_t* values_ = nullptr;
};

}  // namespace vireo::softkvm::abi
