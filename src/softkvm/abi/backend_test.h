// SPDX-License-Identifier: Apache-2.0
// The same ioctls on softkvm and, where this machine has one that can be opened, on the kernel's /dev/kvm.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "softkvm/abi/kvm_newer.h"
#include "softkvm/softkvm.h"

namespace vireo::softkvm::test {

struct Backend {
  const char* name;
  int (*open)();
  int (*call)(int fd, unsigned long request, uintptr_t argument);  // >= 0 or -errno
  int (*close)(int fd);
};

inline const Backend kSoftkvm{"softkvm", open_system, softkvm::ioctl, softkvm::close};
inline const Backend kKernel{
    "kernel",
    [] { return ::open("/dev/kvm", O_RDWR | O_CLOEXEC); },
    [](int fd, unsigned long request, uintptr_t argument) {
      int result = ::ioctl(fd, request, argument);
      return result >= 0 ? result : -errno;
    },
    [](int fd) { return ::close(fd) == 0 ? 0 : -errno; },
};

inline bool kernel_present() {
  static const bool present = [] {
    int fd = kKernel.open();
    if (fd >= 0) ::close(fd);
    return fd >= 0;
  }();
  return present;
}

// A handle that closes itself.
class Handle {
 public:
  Handle() = default;
  Handle(const Backend& backend, int fd) : backend_(&backend), fd_(fd) {}
  Handle(Handle&& other) noexcept : backend_(other.backend_), fd_(std::exchange(other.fd_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Handle() {
    if (fd_ >= 0) backend_->close(fd_);
  }
  int fd() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

  int operator()(unsigned long request, uintptr_t argument = 0) const { return backend_->call(fd_, request, argument); }
  template <class T>
  int operator()(unsigned long request, T* argument) const {
    return (*this)(request, reinterpret_cast<uintptr_t>(argument));
  }

 private:
  const Backend* backend_ = nullptr;
  int fd_ = -1;
};

// A structure with an array behind it: kvm_msrs, kvm_cpuid2 ...
template <class Header, class Entry>
struct Listed {
  explicit Listed(size_t count) : bytes((sizeof(Header) + count * sizeof(Entry) + 7) / 8) {}
  Header* header() { return reinterpret_cast<Header*>(bytes.data()); }
  Entry* entries() { return reinterpret_cast<Entry*>(reinterpret_cast<char*>(bytes.data()) + sizeof(Header)); }
  std::vector<uint64_t> bytes;
};
using MsrList = Listed<kvm_msrs, kvm_msr_entry>;
using CpuidList = Listed<kvm_cpuid2, kvm_cpuid_entry2>;

// A VM with memory at 0 and one vCPU that has the supported CPUID.
struct Machine {
  enum class Irqchip { kNone, kKernel };
  static constexpr size_t kMemory = 1 << 20;

  explicit Machine(const Backend& backend, Irqchip irqchip = Irqchip::kNone, bool with_vcpu = true) : backend(backend) {
    system = Handle(backend, backend.open());
    vm = Handle(backend, system(KVM_CREATE_VM));
    if (irqchip == Irqchip::kKernel) {
      EXPECT_EQ(vm(KVM_SET_TSS_ADDR, 0xfffbd000), 0);
      EXPECT_EQ(vm(KVM_CREATE_IRQCHIP), 0);
    }
    memory = static_cast<uint8_t*>(::mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    kvm_userspace_memory_region region{0, 0, 0, kMemory, reinterpret_cast<uintptr_t>(memory)};
    EXPECT_EQ(vm(KVM_SET_USER_MEMORY_REGION, &region), 0);
    if (with_vcpu) add_vcpu(0);
  }
  ~Machine() {
    if (run != nullptr) ::munmap(run, 3 * 4096);
    vcpu = Handle();
    vm = Handle();
    ::munmap(memory, kMemory);
  }

  void add_vcpu(unsigned id) {
    vcpu = Handle(backend, vm(KVM_CREATE_VCPU, id));
    ASSERT_GE(vcpu.fd(), 0);
    void* pages = ::mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd(), 0);
    ASSERT_NE(pages, MAP_FAILED);
    run = static_cast<kvm_run*>(pages);
    CpuidList list(256);
    list.header()->nent = 256;
    ASSERT_EQ(system(KVM_GET_SUPPORTED_CPUID, list.header()), 0);
    ASSERT_EQ(vcpu(KVM_SET_CPUID2, list.header()), 0);
  }

  // Real mode at 0:`address`, with the code there.
  void real_mode(uint16_t address, std::initializer_list<uint8_t> code) {
    std::copy(code.begin(), code.end(), memory + address);
    kvm_sregs sregs;
    ASSERT_EQ(vcpu(KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = 0, sregs.cs.selector = 0;
    ASSERT_EQ(vcpu(KVM_SET_SREGS, &sregs), 0);
    kvm_regs regs{};
    regs.rip = address, regs.rflags = 2, regs.rsp = 0x8000;
    ASSERT_EQ(vcpu(KVM_SET_REGS, &regs), 0);
  }

  const Backend& backend;
  Handle system, vm, vcpu;
  uint8_t* memory = nullptr;
  kvm_run* run = nullptr;
};

}  // namespace vireo::softkvm::test
