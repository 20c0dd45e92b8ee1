// SPDX-License-Identifier: Apache-2.0
// What a guest does to get where it must not, or to keep its hypervisor busy for ever. Spec: Intel SDM vol 2 (FXSAVE, FSAVE), vol 3, "Task-Switch Exception
// Condition", "System Management Mode" (SMRAM, and INIT in it), 4.10.4.1 (INVLPG).
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "softkvm/cpu/cpuid.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"

namespace vireo::softkvm {
namespace {

// Memory of the test's own in a slot of its own.
uint8_t* add_slot(TestMachine& m, uint32_t slot, uint32_t flags, uint64_t gpa, size_t size) {
  auto* at = static_cast<uint8_t*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const kvm_userspace_memory_region region{slot, flags, gpa, size, reinterpret_cast<uint64_t>(at)};
  EXPECT_EQ(m.vm->set_memory_region(region), 0);
  return at;
}

// KVM's clock at an address whose bit 52 is that of system management mode's address space inside of softkvm.
GUEST_CODE(clock_in_smram, "mov ecx, 0x4b564d01; mov eax, 0x5001; mov edx, 0x100000; wrmsr; nop; hlt")
TEST(HostileGuest, HasNoClockInSmram) {
  TestMachine m;
  const uint8_t* smram = add_slot(m, 1 << 16, 0, 0, 1 << 20);
  m.vcpu->tsc_khz = 1000000;
  m.cpuid->words[kWordKvmEax] = ~0u;
  ASSERT_EQ(m.run(clock_in_smram()), unsigned{KVM_EXIT_HLT});
  for (unsigned i = 0; i < 32; i++) EXPECT_EQ(smram[0x5000 + i], 0) << i;
}

TEST(HostileGuest, DoesNotEndSmmByInit) {
  TestMachine m;
  m.vcpu->in_smm = true;
  m.vcpu->init_pending = true;
  m.vcpu->accept_startup();
  EXPECT_TRUE(m.vcpu->in_smm);
  EXPECT_TRUE(m.vcpu->init_pending);
  m.vcpu->in_smm = false;
  m.vcpu->accept_startup();
  EXPECT_FALSE(m.vcpu->init_pending);
}

// 32-bit, no paging. The GDT lies in ROM, so that no task ever becomes busy; #DB has a task gate, and its task the T flag.
GUEST_CODE(undefined, "ud2")
TEST(HostileGuest, DoesNotSwitchTasksForEver) {
  TestMachine m;
  auto* gdt = reinterpret_cast<uint64_t*>(add_slot(m, 1, KVM_MEM_READONLY, 0x20000000, 4096));
  auto tss = [](uint64_t base, uint64_t access) { return 0x67 | (base & 0xffffff) << 16 | access << 40; };
  gdt[1] = 0x00cf9b000000ffff, gdt[2] = 0x00cf93000000ffff, gdt[3] = tss(0x9000, 0x89), gdt[4] = tss(0xb000, 0x89);
  auto* task = reinterpret_cast<uint32_t*>(m.ram + 0xb000);
  task[8] = 0x5000, task[9] = 2, task[14] = 0x8000;
  task[18] = 16, task[19] = 8, task[20] = 16, task[21] = 16, task[25] = 1;
  for (unsigned vector : {1u, 6u}) m.at(0x7000 + vector * 8) = 4ull * 8 << 16 | 0x8500ull << 32;
  m.vcpu->cr0 = 0x31, m.vcpu->cr4 = 0, m.vcpu->efer = 0;
  m.vcpu->segment[kCS] = Segment{0, 0xffffffff, 8, 0xc09b, false};
  m.vcpu->tr = Segment{0x9000, 0x67, 0x18, 0x8b, false};
  m.vcpu->gdtr = {0x20000000, 0x3f};
  m.vcpu->idtr = {0x7000, 0xff};
  EXPECT_EQ(m.run(undefined()), unsigned{KVM_EXIT_SHUTDOWN});
}

GUEST_CODE(fxsave_narrow, ".code32; fxsave [0x300000]; hlt; .code64")
GUEST_CODE(fnsave_narrow, ".code32; fnsave cs:[0x300000]; hlt; .code64")
TEST(HostileGuest, SavesNoStateBehindASegmentsLimit) {
  FaultMachine m;
  m.narrow();
  m.vcpu->segment[kDS].limit = 0x30000f;
  m.at(0x300018) = 0x5555;
  EXPECT_EQ(m.vector_of(fxsave_narrow()), unsigned{kGP});
  EXPECT_EQ(m.at(0x300018), 0x5555u);
}
TEST(HostileGuest, SavesNoStateInACodeSegment) {
  FaultMachine m;
  m.narrow();
  m.at(0x300000) = 0x5555;
  EXPECT_EQ(m.vector_of(fnsave_narrow()), unsigned{kGP});
  EXPECT_EQ(m.at(0x300000), 0x5555u);
}

// CR4 comes from user space, as with a machine that is restored.
GUEST_CODE(invlpg_57_bits, "movabs rdi, 0xff10000000300000; mov rax, [rdi]; mov esi, 0x3008; mov qword ptr [rsi], 0x400087; invlpg [rdi]; mov rbx, [rdi]; hlt")
TEST(HostileGuest, OfARestoredMachineWith57BitsHasItsPagesDropped) {
  TestMachine m;
  m.at(0x10000) = 0x1007, m.at(0x10000 + 272 * 8) = 0x1007;
  m.at(0x300000) = 1, m.at(0x500000) = 2;
  m.vcpu->cr3 = 0x10000;
  m.vcpu->cr4 |= kCr4La57;
  ASSERT_EQ(m.run(invlpg_57_bits()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 2u);
}

}  // namespace
}  // namespace vireo::softkvm
