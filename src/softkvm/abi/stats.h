// SPDX-License-Identifier: Apache-2.0
// KVM_GET_STATS_FD: counters of a VM or a vCPU in a file of the kernel's binary format. The file is a memfd; its second page is mapped where
// the counters lie (counters.h), so that who reads it reads what is true then, and counting costs nothing more.
// Spec: Documentation/virt/kvm/api.rst, 4.133.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace vireo::softkvm::abi {

class Statistics {
 public:
  struct Counter {
    const char* name;
    uint32_t flags;   // KVM_STATS_TYPE_* | KVM_STATS_UNIT_* | KVM_STATS_BASE_*
    int exponent;     // of the unit, to the base
    size_t at;        // byte offset among the counters
  };
  Statistics() = default;
  ~Statistics();
  Statistics(const Statistics&) = delete;
  Statistics& operator=(const Statistics&) = delete;

  // The file, whose data page takes the place of the page at `counters`, which nobody uses yet. Once. 0 or -errno.
  int create(const std::string& id, std::span<const Counter> table, void* counters);
  // A new descriptor, for reading only, or -errno.
  int open() const;

 private:
  bool is_file(int fd) const;
  int fd_ = -1;
  uint64_t device_ = 0, inode_ = 0;  // of the file: the program may have closed the descriptor
};

}  // namespace vireo::softkvm::abi
