// SPDX-License-Identifier: Apache-2.0
// For tests: a machine whose user code runs natively from the start, and tells whether it did.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>

#include "softkvm/native/native.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {

// 16 MiB of lent memory. Linear addresses from 4 MiB on are user pages, mapped one to one by page tables for 4 KiB; the kernel is at kKernel: HLT
// for a system call, and for each exception at its handler.
class NativeMachine {
 public:
  static constexpr uint64_t kRam = 16u << 20, kUser = 0x400000, kKernel = 0x100000, kIdt = 0x7000, kGdt = 0x8000, kTss = 0x9000,
                            kHandlers = 0xa000, kTables = 0x20000, kStack = 0x7ff000, kData = 0x600000;

  NativeMachine() {
    file = memfd_create("native-test", MFD_CLOEXEC);
    EXPECT_EQ(ftruncate(file, kRam), 0);
    ram = static_cast<uint8_t*>(mmap(nullptr, kRam, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    page = mmap(nullptr, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    vm = Vm::create();
    kvm_userspace_memory_region region{0, 0, 0, kRam, reinterpret_cast<uint64_t>(ram)};
    EXPECT_EQ(vm->set_memory_region(region), 0);
    EXPECT_EQ(vm->lent.add(ram, kRam, file, 0), 0);
    vcpu = Vcpu::create(*vm, 0, static_cast<kvm_run*>(page));
    {
      std::lock_guard lock(vm->vcpus_mutex);
      vm->vcpus.push_back(vcpu.get());
    }
    cpuid = make_cpuid_table(supported_cpuid(CpuidHost::bare(), {}));
    vcpu->cpuid = cpuid.get();
    vcpu->tsc_khz = 2'000'000;
    build();
  }
  ~NativeMachine() {
    vcpu.reset();
    vm.reset();
    munmap(ram, kRam);
    munmap(page, 12288);
    close(file);
  }

  template <class T = uint64_t>
  T& at(uint64_t address) {
    return *reinterpret_cast<T*>(ram + address);
  }
  uint64_t& entry(uint64_t linear) { return at(kTables + (linear >> 21) * 4096 + (linear >> 12 & 511) * 8); }

  void build() {
    at(0x1000) = 0x2007;
    at(0x2000) = 0x3007;
    for (uint64_t i = 0; i < kRam >> 21; i++) at(0x3000 + i * 8) = (kTables + i * 4096) | 7;
    for (uint64_t linear = 0; linear < kRam; linear += 4096) entry(linear) = linear | (linear < kUser ? 3 : 7);
    for (unsigned v = 0; v < 32; v++) {
      const uint64_t handler = kHandlers + v * 16;
      at(kIdt + v * 16) = (handler & 0xffff) | 8ull << 16 | (v == kBP ? 0xee00ull : 0x8e00ull) << 32 | (handler >> 16 & 0xffff) << 48;
      at<uint8_t>(handler) = 0xf4;
    }
    at<uint8_t>(kKernel) = 0xf4;
    at(kGdt + 8) = 0x00af9b000000ffff;
    at(kGdt + 16) = 0x00cf93000000ffff;
    at(kGdt + 0x28) = 0x00cff3000000ffff;
    at(kGdt + 0x30) = 0x00affb000000ffff;
    const uint64_t kernel_stack = 0x10000;
    memcpy(ram + kTss + 4, &kernel_stack, 8);
    vcpu->cr0 = 0x80050033;
    vcpu->cr3 = 0x1000;
    vcpu->cr4 = kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt | kCr4Osxsave | kCr4Fsgsbase | kCr4Umip;
    vcpu->efer = kEferLme | kEferLma | kEferSce | kEferNx;
    vcpu->xcr0 = Vcpu::supported_xcr0();
    vcpu->mp_state = 0;
    vcpu->msr.star = 8ull << 32 | 0x23ull << 48;
    vcpu->msr.lstar = kKernel;
    vcpu->msr.sfmask = 0x200;
    vcpu->tr = Segment{kTss, 0x67, 0x40, 0x8b, false};
    vcpu->gdtr = {kGdt, 0x3f};
    vcpu->idtr = {kIdt, 0x1ff};
    user(kUser);
  }
  // At CPL 3, as Linux runs it.
  void user(uint64_t rip) {
    vcpu->segment[kCS] = Segment{0, 0xffffffff, 0x33, 0xa0fb, false};
    vcpu->segment[kSS] = Segment{0, 0xffffffff, 0x2b, 0xc0f3, false};
    for (unsigned s : {kES, kDS, kFS, kGS}) vcpu->segment[s] = Segment{0, 0, 0, 0, true};
    vcpu->cpl = 3;
    vcpu->rip = rip;
    vcpu->gpr[kRsp] = kStack;
    vcpu->set_rflags(kIF | 2);
    vcpu->state_changed();
  }
  void put(std::span<const uint8_t> code, uint64_t where = kUser) {
    memcpy(ram + where, code.data(), code.size());
    vm->notice_write(ram + where, code.size());
  }
  // Runs until the kernel's HLT. False: the host allows no stub processes.
  bool go() {
    vcpu->engine->native->prepare();
    UserProfile& profile = vcpu->engine->profile;
    if (!profile.ticks_per_microsecond) return false;
    profile.enter(vcpu->cr3 & kPageMask);
    profile.current->native = profile.native = true;
    const uint64_t before = counts().runs;
    vcpu->attention = 0;
    result = vcpu->run_guest();
    ran = counts().runs - before;
    return vcpu->engine->profile.ticks_per_microsecond != 0;
  }
  bool run(std::span<const uint8_t> code) {
    put(code);
    user(kUser);
    return go();
  }
  const VcpuCounters::Native& counts() { return vcpu->engine->counters.native; }
  // The exception whose handler was reached, or 255.
  unsigned vector() const {
    return vcpu->rip > kHandlers && vcpu->rip <= kHandlers + 512 ? static_cast<unsigned>((vcpu->rip - kHandlers) / 16) : 255;
  }
  bool in_system_call() const { return vcpu->rip == kKernel + 1; }
  // The n-th word of the frame on the kernel's stack, from its top: 0 SS, 1 RSP, 2 RFLAGS, 3 CS, 4 RIP, 5 the error code.
  uint64_t frame(unsigned n) { return at(0x10000 - 8 - n * 8); }

  int file;
  uint8_t* ram;
  void* page;
  int result = 0;
  uint64_t ran = 0;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
  std::unique_ptr<CpuidTable> cpuid;
};

#define RUN(machine, ...) RUN_NATIVELY_IF(true, machine, __VA_ARGS__)
// Where `allowed` is false the host leaves such code to translation, which has to do the same.
#define RUN_NATIVELY_IF(allowed, machine, ...)                                          \
  if (!(machine).run(__VA_ARGS__)) GTEST_SKIP() << "the host allows no stub processes"; \
  ASSERT_EQ((machine).result, 0);                                                       \
  EXPECT_TRUE(!(allowed) || (machine).ran)
#define GO_ON(machine)        \
  ASSERT_TRUE((machine).go()); \
  ASSERT_EQ((machine).result, 0)

}  // namespace vireo::softkvm
