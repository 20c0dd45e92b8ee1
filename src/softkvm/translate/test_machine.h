// SPDX-License-Identifier: Apache-2.0
// For tests: a VM of one vCPU in flat 64-bit mode at CPL 0, with RAM mapped one to one by 2 MiB pages, that runs code until HLT.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "softkvm/cpu/cpuid_supported.h"
#include "softkvm/cpu/system.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {

class TestMachine {
 public:
  static constexpr uint64_t kRam = 16u << 20, kCode = 0x100000, kStackTop = 0x200000, kData = 0x300000;

  TestMachine() {
    ram = static_cast<uint8_t*>(mmap(nullptr, kRam, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    page = mmap(nullptr, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    vm = Vm::create();
    kvm_userspace_memory_region region{0, 0, 0, kRam, reinterpret_cast<uint64_t>(ram)};
    vm->set_memory_region(region);
    vcpu = Vcpu::create(*vm, 0, static_cast<kvm_run*>(page));
    {
      std::lock_guard lock(vm->vcpus_mutex);
      vm->vcpus.push_back(vcpu.get());
    }
    cpuid = make_cpuid_table(supported_cpuid(CpuidHost::bare(), {}));
    vcpu->cpuid = cpuid.get();
    enter_long_mode();
  }
  ~TestMachine() {
    vcpu.reset();
    vm.reset();
    munmap(ram, kRam);
    munmap(page, 12288);
  }

  void enter_long_mode() {
    auto* pml4 = reinterpret_cast<uint64_t*>(ram + 0x1000);
    auto* pdpt = reinterpret_cast<uint64_t*>(ram + 0x2000);
    auto* pd = reinterpret_cast<uint64_t*>(ram + 0x3000);
    pml4[0] = 0x2007;
    pdpt[0] = 0x3007;
    for (unsigned i = 0; i < 512; i++) pd[i] = i * 0x200000ull | 0x87;
    Segment code{0, 0xffffffff, 8, 0xa09b, false}, data{0, 0xffffffff, 16, 0xc093, false};
    for (Segment& s : vcpu->segment) s = data;
    vcpu->segment[kCS] = code;
    vcpu->cr0 = 0x80010033;
    vcpu->cr3 = 0x1000;
    vcpu->cr4 = kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt | kCr4Osxsave;
    vcpu->efer = kEferLme | kEferLma | kEferSce | kEferNx;
    vcpu->xcr0 = Vcpu::supported_xcr0();
    vcpu->mp_state = 0;
    vcpu->gpr[kRsp] = kStackTop;
    vcpu->set_rflags(2);
    vcpu->state_changed();
  }

  // Copies code to kCode and runs it from there; the exit reason.
  uint32_t run(std::span<const uint8_t> code) {
    memcpy(ram + kCode, code.data(), code.size());
    vm->notice_write(ram + kCode, code.size());
    vcpu->rip = kCode;
    vcpu->state_changed();
    return go();
  }
  uint32_t go() {
    result = vcpu->run_guest();
    return vcpu->run->exit_reason;
  }
  template <class T = uint64_t>
  T& at(uint64_t address) {
    return *reinterpret_cast<T*>(ram + address);
  }

  uint8_t* ram;
  void* page;
  int result = 0;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
  std::unique_ptr<CpuidTable> cpuid;
};

// A piece of guest code assembled with the tests: GUEST_CODE(name, "insns"); gives `name()`, a span of its bytes.
#define GUEST_CODE(name, text)                                                                                   \
  asm(".pushsection .rodata\n.globl guest_" #name "\nguest_" #name ":\n.intel_syntax noprefix\n" text            \
      "\n.att_syntax prefix\n.globl guest_" #name "_end\nguest_" #name "_end:\n.popsection\n");                    \
  extern "C" const uint8_t guest_##name[], guest_##name##_end[];                                                  \
  static std::span<const uint8_t> name() { return {guest_##name, guest_##name##_end}; }

}  // namespace vireo::softkvm
