// SPDX-License-Identifier: Apache-2.0
// For tests: a VM of two vCPUs, each in flat 64-bit mode at CPL 0 with its code and its stack.
#pragma once

#include <gtest/gtest.h>

#include <mutex>
#include <thread>

#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {

// Two vCPUs; the linear page behind kEdge is not the physical one behind it.
class TwoVcpus : public TestMachine {
 public:
  static constexpr uint64_t kTable = 0x6000, kEdge = 0x301000, kElsewhere = 0x320000, kOtherCode = 0x110000;

  TwoVcpus() {
    for (uint64_t i = 0; i < 512; i++) at(kTable + i * 8) = (0x200000 + i * 4096) | 7;
    at(kTable + (kEdge >> 12 & 511) * 8) = kElsewhere | 7;
    at(0x3000 + 8) = kTable | 7;
    page2_ = mmap(nullptr, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    other = Vcpu::create(*vm, 1, static_cast<kvm_run*>(page2_));
    {
      std::lock_guard lock(vm->vcpus_mutex);
      vm->vcpus.push_back(other.get());
    }
    other->cpuid = cpuid.get();
    for (unsigned i = 0; i < 6; i++) other->segment[i] = vcpu->segment[i];
    other->cr0 = vcpu->cr0, other->cr3 = vcpu->cr3, other->cr4 = vcpu->cr4, other->efer = vcpu->efer, other->xcr0 = vcpu->xcr0;
    other->mp_state = 0;
    other->gpr[kRsp] = kStackTop - 0x10000;
    other->set_rflags(2);
  }
  ~TwoVcpus() {
    {
      std::lock_guard lock(vm->vcpus_mutex);
      vm->vcpus.pop_back();
    }
    other.reset();
    munmap(page2_, 12288);
  }
  // Both at once, each to its HLT.
  void run_both(std::span<const uint8_t> first, std::span<const uint8_t> second) {
    memcpy(ram + kCode, first.data(), first.size());
    memcpy(ram + kOtherCode, second.data(), second.size());
    vcpu->rip = kCode, other->rip = kOtherCode;
    vcpu->state_changed(), other->state_changed();
    std::thread thread([this] { EXPECT_EQ(other->run_guest(), 0); });
    EXPECT_EQ(vcpu->run_guest(), 0);
    thread.join();
    EXPECT_EQ(vcpu->run->exit_reason, unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(other->run->exit_reason, unsigned{KVM_EXIT_HLT});
  }
  uint64_t over_the_edge(unsigned before) {
    uint64_t value;
    memcpy(&value, ram + kEdge - before, before);
    memcpy(reinterpret_cast<uint8_t*>(&value) + before, ram + kElsewhere, 8 - before);
    return value;
  }
  void set_over_the_edge(unsigned before, uint64_t value) {
    memcpy(ram + kEdge - before, &value, before);
    memcpy(ram + kElsewhere, reinterpret_cast<uint8_t*>(&value) + before, 8 - before);
  }

  std::unique_ptr<Vcpu> other;

 private:
  void* page2_;
};

}  // namespace vireo::softkvm
