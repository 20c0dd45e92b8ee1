// SPDX-License-Identifier: Apache-2.0
// Accesses that the host cannot make in one piece: what the other vCPU and devices see of them. Spec: Intel SDM vol 3, 9.1.2.2 (LOCK, whatever
// the alignment), vol 2, VPMASKMOV and VPSCATTERDD (elements that are masked off are not accessed; faults leave what is done).
#include <cpuid.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "softkvm/translate/fault_machine.h"
#include "softkvm/translate/two_vcpus.h"

namespace vireo::softkvm {
namespace {

// Each waits for the other at first, so that they run beside each other.
#define MEET "mov ebx, 0x308000; lock inc dword ptr [rbx]; 9: pause; cmp dword ptr [rbx], 2; jb 9b; "

GUEST_CODE(locked_add, MEET "mov edi, 0x300ffc; mov ecx, 4000; 1: lock add qword ptr [rdi], 1; dec ecx; jnz 1b; hlt")
TEST(Atomicity, ALockedAddOverAPageLosesNothing) {
  TwoVcpus m;
  const uint64_t from = 0xffffffff - 4000;  // the carry goes over the edge
  m.set_over_the_edge(4, from);
  m.run_both(locked_add(), locked_add());
  EXPECT_EQ(m.over_the_edge(4), from + 8000);
}

GUEST_CODE(exchange_add, MEET "mov edi, 0x300ffd; mov ecx, 4000; 1: mov eax, 1; lock xadd [rdi], eax; mov edx, [0x309000]; dec ecx; jnz 1b; hlt")
TEST(Atomicity, ALockedExchangeAndAddOverAPageLosesNothing) {
  TwoVcpus m;
  m.set_over_the_edge(3, 0);
  m.run_both(exchange_add(), exchange_add());
  EXPECT_EQ(m.over_the_edge(3) & 0xffffffff, 8000u);
}

// By name: bit strings. Each vCPU has a bit of its own, which it must find as it left it. [0x300ff8 + 4] is over the edge of the page.
GUEST_CODE(bits_first, MEET "mov edi, 0x300ffc; mov edx, 3; xor eax, eax; mov ecx, 20000; 1: lock bts qword ptr [rdi], rdx; adc eax, 0; lock btr qword ptr [rdi], rdx; cmc; adc eax, 0; dec ecx; jnz 1b; hlt")
GUEST_CODE(bits_second, MEET "mov edi, 0x300ffc; mov edx, 44; xor eax, eax; mov ecx, 20000; 1: lock bts qword ptr [rdi], rdx; adc eax, 0; lock btr qword ptr [rdi], rdx; cmc; adc eax, 0; dec ecx; jnz 1b; hlt")
TEST(Atomicity, ALockedBitStringOverAPageLosesNothing) {
  TwoVcpus m;
  m.set_over_the_edge(4, 0);
  m.run_both(bits_first(), bits_second());
  EXPECT_EQ(m.vcpu->gpr[kRax], 0u);
  EXPECT_EQ(m.other->gpr[kRax], 0u);
  EXPECT_EQ(m.over_the_edge(4), 0u);
}

bool has(uint64_t components) { return (Vcpu::supported_xcr0() & components) == components; }

// Elements 0 and 7 are stored; the other vCPU counts in element 1.
GUEST_CODE(masked_store, MEET "vpcmpeqd ymm1, ymm1, ymm1; vpxor ymm2, ymm2, ymm2; vpblendd ymm1, ymm2, ymm1, 0x81; mov edi, 0x300ff0; mov ecx, 30000; 1: vmaskmovps [rdi], ymm1, ymm1; dec ecx; jnz 1b; hlt")
GUEST_CODE(count_beside, MEET "mov edi, 0x300ff4; mov ecx, 20000000; 1: inc dword ptr [rdi]; dec ecx; jnz 1b; hlt")
TEST(Atomicity, AMaskedStoreOverAPageLeavesWhatItDoesNotStore) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  TwoVcpus m;
  m.run_both(masked_store(), count_beside());
  EXPECT_EQ(m.at<uint32_t>(0x300ff4), 20000000u);
  EXPECT_EQ(m.at<uint32_t>(0x300ff0), ~0u);
  EXPECT_EQ(m.at<uint32_t>(TwoVcpus::kElsewhere + 12), ~0u);
  EXPECT_EQ(m.at<uint32_t>(TwoVcpus::kElsewhere + 8), 0u);
}

GUEST_CODE(masked_to_device, "vpcmpeqd ymm1, ymm1, ymm1; vpxor ymm2, ymm2, ymm2; vpblendd ymm1, ymm2, ymm1, 0x82; mov edi, 0x10000000; vmaskmovps [rdi], ymm1, ymm1; hlt")
TEST(Atomicity, AMaskedStoreToADeviceWritesItsElementsAndReadsNothing) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  TestMachine m;
  kvm_run& r = *m.vcpu->run;
  uint32_t data;
  ASSERT_EQ(m.run(masked_to_device()), unsigned{KVM_EXIT_MMIO});
  for (uint64_t address : {0x10000004u, 0x1000001cu}) {
    ASSERT_EQ(r.exit_reason, unsigned{KVM_EXIT_MMIO});
    EXPECT_EQ(r.mmio.is_write, 1);
    EXPECT_EQ(r.mmio.phys_addr, address);
    EXPECT_EQ(r.mmio.len, 4u);
    memcpy(&data, r.mmio.data, 4);
    EXPECT_EQ(data, ~0u);
    m.go();
  }
  EXPECT_EQ(r.exit_reason, unsigned{KVM_EXIT_HLT});
}

GUEST_CODE(bytes_to_device, "mov eax, 0x80; movd xmm1, eax; pslldq xmm1, 5; pcmpeqd xmm0, xmm0; mov edi, 0x10000000; maskmovdqu xmm0, xmm1; hlt")
TEST(Atomicity, AByteMaskedStoreToADeviceWritesItsBytes) {
  TestMachine m;
  kvm_run& r = *m.vcpu->run;
  ASSERT_EQ(m.run(bytes_to_device()), unsigned{KVM_EXIT_MMIO});
  EXPECT_EQ(r.mmio.is_write, 1);
  EXPECT_EQ(r.mmio.phys_addr, 0x10000005u);
  EXPECT_EQ(r.mmio.len, 1u);
  EXPECT_EQ(r.mmio.data[0], 0xff);
  EXPECT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
}

// An x87 store that an unmasked exception withholds.
GUEST_CODE(withheld_from_device, "fninit; fld1; fldz; fdivp; push 0x37e; fldcw [rsp]; mov edi, 0x10000000; fistp dword ptr [rdi]; mov eax, 1; fnclex; hlt")
TEST(Atomicity, AnX87StoreThatIsWithheldDoesNotReachTheDevice) {
  TestMachine m;
  EXPECT_EQ(m.run(withheld_from_device()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
}

// Element 0 is a device's, element 1 lies in a page that is not there.
GUEST_CODE(scatter, "mov eax, 3; kmovw k1, eax; mov edi, 0x400000; mov eax, -0x1ff8; vmovd xmm2, eax; mov eax, -0x1000; vpinsrd xmm2, xmm2, eax, 1; "
                    "mov eax, 0x11; vmovd xmm1, eax; vpinsrd xmm1, xmm1, eax, 1; vpscatterdd [rdi + xmm2]{k1}, xmm1; hlt")
TEST(Atomicity, AScatterThatFaultsHasWrittenItsElementsToTheDeviceOnce) {
  if (!has(0xe6)) GTEST_SKIP() << "no AVX-512";
  FaultMachine m;
  m.at(FaultMachine::kTable + 8 * 0x1fe) = 0x10000007;  // 0x3fe000 is the device
  kvm_run& r = *m.vcpu->run;
  std::vector<uint64_t> written;
  uint32_t reason = m.run(scatter());
  while (reason == KVM_EXIT_MMIO) {
    EXPECT_EQ(r.mmio.is_write, 1);
    EXPECT_EQ(r.mmio.data[0], 0x11);
    written.push_back(r.mmio.phys_addr);
    reason = m.go();
  }
  EXPECT_EQ(reason, unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(written, std::vector<uint64_t>{0x10000008});
  EXPECT_EQ(m.vcpu->rip, FaultMachine::kHandlers + 14 * 16 + 1);
  EXPECT_EQ(m.vcpu->cr2, 0x3ff000u);
  unsigned a, opmask, c, d;
  __cpuid_count(0xd, 5, a, opmask, c, d);
  EXPECT_EQ(*reinterpret_cast<uint64_t*>(m.component(opmask + 8)), 2u);  // element 1 is still wanted
}

// One vCPU writes the code of a call and says so, the other makes the call behind a serializing instruction (SDM vol 3, 9.1.3), while slots come, go and
// change: neither goes by other slots than its fellow.
GUEST_CODE(patches, "1: inc rbx; mov [rdi + 1], ebx; mov [rsi], rbx; 2: cmp [rdx], rbx; jne 2b; cmp rbx, r8; jb 1b; hlt")
GUEST_CODE(calls_patched, "1: mov r10, [rsi]; cmp r10, r9; jbe 1b; mov r9, r10; push rdx; xor eax, eax; cpuid; pop rdx; call rdi; sub eax, r9d; or r12, rax; mov [rdx], r9; cmp r9, r8; jb 1b; hlt")
GUEST_CODE(patched, "mov eax, 0; ret")
TEST(Atomicity, CodeIsSeenToChangeWhileSlotsDo) {
  constexpr uint64_t kRounds = 10000, kAlias = 0x10000000, kAliasSize = 1 << 20;
  for (unsigned time = 0; time < 10; time++) {
    TwoVcpus m;
    memcpy(m.ram + 0x310000, patched().data(), patched().size());
    for (Vcpu* v : {m.vcpu.get(), m.other.get()}) {
      v->gpr[kRdi] = 0x310000, v->gpr[kRsi] = 0x311000, v->gpr[kRdx] = 0x312000;
      v->gpr[8] = kRounds, v->gpr[9] = v->gpr[12] = v->gpr[kRbx] = 0;
    }
    std::atomic<bool> over{false};
    std::thread slots([&] {
      kvm_userspace_memory_region alias{1, 0, kAlias, 0, reinterpret_cast<uint64_t>(m.ram + 0x300000)};
      kvm_userspace_memory_region ram{0, 0, 0, TestMachine::kRam, reinterpret_cast<uint64_t>(m.ram)};
      for (unsigned n = 0; !over; n++) {
        if (n % 8) {
          ram.flags ^= KVM_MEM_LOG_DIRTY_PAGES;
          EXPECT_EQ(m.vm->set_memory_region(ram), 0);
        } else {
          alias.memory_size = alias.memory_size ? 0 : kAliasSize;
          EXPECT_EQ(m.vm->set_memory_region(alias), 0);
        }
        usleep(n % 16 * 10);  // without a pause the vCPUs would hardly come to run
      }
    });
    m.run_both(patches(), calls_patched());
    over = true;
    slots.join();
    EXPECT_EQ(m.other->gpr[12], 0u);
  }
}

}  // namespace
}  // namespace vireo::softkvm
