// SPDX-License-Identifier: Apache-2.0
// The few calls the KVM ABI is made of. Two tables exist: the kernel's system calls on /dev/kvm, and softkvm's functions
// where softkvm is linked in. Everything above this file is the same for both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace vireo::kvm {

struct DirectDoorbell {
  uint64_t address = 0;
  uint32_t size = 0;
  bool pio = false;
  bool match = false;
  uint64_t value = 0;
  void (*call)(void* context) = nullptr;
  void* context = nullptr;
};

struct CodeNames {
  bool perf_map = false;
  std::string jitdump_folder, symbols;
  bool any() const { return perf_map || !jitdump_folder.empty() || !symbols.empty(); }
};

// Where translated code is kept for the next machine.
struct CodeFolder {
  std::string path;  // empty: nowhere
  uint64_t most = 256u << 20;  // bytes of all files in it
};

struct Api {
  const char* name;  // "kvm" or "soft"
  int (*open_system)();                                              // descriptor or -errno
  int (*ioctl)(int fd, unsigned long request, uintptr_t argument);  // >= 0 or -errno
  int (*close)(int fd);
  // Where the ABI has no word; null when the hypervisor needs none of it.
  void (*interrupt_this_thread)();
  void (*notice_write)(int vm_fd, const void* host, size_t size);
  int (*add_doorbell)(int vm_fd, const DirectDoorbell& doorbell);
  int (*remove_doorbell)(int vm_fd, const DirectDoorbell& doorbell);
  int (*lend_memory)(int vm_fd, const void* host, size_t size, int fd, uint64_t offset);
  int (*allow_large_pages)(int vm_fd, const void* host, size_t size);
  // Names translated code for perf; before the first VM. Null: nothing is translated.
  Result<> (*name_code)(const CodeNames& wanted);
  // Keeps translated code; as above.
  Result<> (*keep_code)(const CodeFolder& wanted);
  // Other processes will write guest memory without a word; before the first VM. Null: it makes no difference.
  void (*expect_foreign_writes)();
};

const Api& kernel_api();
const Api* soft_api();  // null when softkvm is not in this build

// One descriptor of the ABI, closed through the table it came from.
class Handle {
 public:
  Handle(const Api& api, int fd) : api_(&api), fd_(fd) {}
  Handle(Handle&& other) noexcept : api_(other.api_), fd_(std::exchange(other.fd_, -1)) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() {
    if (fd_ >= 0) api_->close(fd_);
  }

  const Api& api() const { return *api_; }
  int fd() const { return fd_; }

  // `what` names the request in the error.
  Result<int> call(unsigned long request, uintptr_t argument, const char* what) const;
  template <class T>
  Result<int> call(unsigned long request, T* argument, const char* what) const {
    return call(request, reinterpret_cast<uintptr_t>(argument), what);
  }

 private:
  const Api* api_;
  int fd_;
};

}  // namespace vireo::kvm
