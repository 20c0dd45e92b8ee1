// SPDX-License-Identifier: Apache-2.0
// What the tests of preload_test share: a machine and memory for it, by libc's names alone.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <string>

constexpr size_t kMemory = 1 << 16;

// One vCPU in real mode at 0:0x1000, on 64 KiB.
struct Machine {
  int system = ::open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1, vcpu = -1;
  uint8_t* memory = static_cast<uint8_t*>(::mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  kvm_run* run = nullptr;

  Machine() {
    vm = ::ioctl(system, KVM_CREATE_VM, 0);
    kvm_userspace_memory_region region{0, 0, 0, kMemory, reinterpret_cast<uintptr_t>(memory)};
    EXPECT_EQ(::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
    vcpu = ::ioctl(vm, KVM_CREATE_VCPU, 0);
    run = static_cast<kvm_run*>(::mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
    EXPECT_NE(run, MAP_FAILED);
    kvm_sregs sregs;
    EXPECT_EQ(::ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = 0, sregs.cs.selector = 0;
    EXPECT_EQ(::ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
    at(0x1000);
  }
  ~Machine() {
    ::munmap(run, 3 * 4096);
    for (int fd : {vcpu, vm, system}) ::close(fd);
    ::munmap(memory, kMemory);
  }
  void at(uint64_t rip) {
    kvm_regs regs{};
    regs.rip = rip, regs.rflags = 2, regs.rsp = 0x8000;
    EXPECT_EQ(::ioctl(vcpu, KVM_SET_REGS, &regs), 0);
  }
  void code(std::initializer_list<uint8_t> bytes) { std::copy(bytes.begin(), bytes.end(), memory + 0x1000); }
  // The value of the next OUT to port 0x10.
  int next_out() {
    if (::ioctl(vcpu, KVM_RUN, 0) != 0 || run->exit_reason != KVM_EXIT_IO) return -1;
    return reinterpret_cast<uint8_t*>(run)[run->io.data_offset];
  }
};

// mov al, VALUE; out 0x10, al; jmp to the start
#define SAYS(value) {0xb0, value, 0xe6, 0x10, 0xeb, 0xfa}
#define SPINS {0xeb, 0xfe}

// Large enough to be lent.
struct SharedMemory {
  static constexpr size_t kSize = 8 << 20;
  uint8_t* at = static_cast<uint8_t*>(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ~SharedMemory() { ::munmap(at, kSize); }
};

// Rights and VmFlags of the mapping at an address, from /proc/self/smaps; "" where nothing is mapped.
inline std::string mapping_of(const void* address) {
  std::ifstream file("/proc/self/smaps");
  std::string line, found;
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  while (std::getline(file, line)) {
    uintptr_t from, to;
    char rights[5];
    if (std::sscanf(line.c_str(), "%zx-%zx %4s", &from, &to, rights) == 3) {
      if (!found.empty()) return found;
      if (wanted >= from && wanted < to) found = rights;
    } else if (!found.empty() && line.starts_with("VmFlags:")) {
      return found + line.substr(8) + " ";
    }
  }
  return found;
}
inline bool shared(const void* address) { return mapping_of(address).starts_with("rw-s"); }

inline int set_slot(int vm, uint32_t slot, uint64_t guest, size_t size, const void* host, uint32_t flags = 0) {
  kvm_userspace_memory_region region{slot, flags, guest, size, reinterpret_cast<uintptr_t>(host)};
  return ::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

// Descriptors of this process that are of the file mapped at an address: each that a range of it, or a VM that it is lent to, has is one.
inline unsigned descriptors_of(const void* address) {
  struct stat wanted = {}, info;
  std::ifstream file("/proc/self/maps");
  for (std::string line; std::getline(file, line);) {
    uintptr_t from, to;
    unsigned long inode;
    if (std::sscanf(line.c_str(), "%zx-%zx %*s %*s %*s %lu", &from, &to, &inode) != 3) continue;
    if (reinterpret_cast<uintptr_t>(address) >= from && reinterpret_cast<uintptr_t>(address) < to) wanted.st_ino = inode;
  }
  unsigned found = 0;
  for (int fd = 0; fd < 1024; fd++) found += ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_ino == wanted.st_ino;
  return found;
}

// What a child of fork answers: the exit code, or 1000 and more for a signal.
template <class Body>
int in_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  unsigned waited = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    ::usleep(10000);
    if (++waited == 3000) ::kill(child, SIGKILL);  // it may wait for itself, with signals held
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
