// SPDX-License-Identifier: Apache-2.0
// What a handle stands for: the system, a VM or a vCPU. As in the kernel, a VM lives as long as a descriptor of it or of one of its
// vCPUs is open, and a vCPU lives as long as its VM, whatever happens to its own descriptors.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace vireo::softkvm::abi {

enum class FileKind : uint8_t { kSystem, kVm, kVcpu };

class File {
 public:
  explicit File(FileKind kind) : kind(kind) {}
  virtual ~File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const FileKind kind;
  // The address space this was made in; another one (the child of a fork) may close it but not use it.
  uint64_t address_space = 0;
  // The memfd behind its descriptors.
  dev_t device = 0;
  ino_t inode = 0;
};

}  // namespace vireo::softkvm::abi
