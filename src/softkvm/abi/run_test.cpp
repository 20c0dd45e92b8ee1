// SPDX-License-Identifier: Apache-2.0
// KVM_RUN as its callers see it. Guest code is real mode and trivial: what runs where is the engine's tests' matter.
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <ctime>
#include <thread>

#include "softkvm/abi/backend_test.h"

namespace vireo::softkvm::test {
namespace {

class Run : public ::testing::TestWithParam<const Backend*> {
 protected:
  void SetUp() override {
    if (GetParam() == &kKernel && !kernel_present()) GTEST_SKIP() << "no /dev/kvm";
  }
  const Backend& backend() { return *GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(On, Run, ::testing::Values(&kSoftkvm, &kKernel), [](const auto& info) { return info.param->name; });

TEST_P(Run, AnArgumentIsInvalid) {
  Machine m(backend());
  EXPECT_EQ(m.vcpu(KVM_RUN, uintptr_t{1}), -EINVAL);
}

TEST_P(Run, HltWithoutAnIrqchipExits) {
  Machine m(backend());
  m.real_mode(0x1000, {0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  EXPECT_EQ(m.run->if_flag, 0);
  EXPECT_EQ(m.run->ready_for_interrupt_injection, 0);
  kvm_regs regs;
  m.vcpu(KVM_GET_REGS, &regs);
  EXPECT_EQ(regs.rip, 0x1001u);
}

TEST_P(Run, APortWriteExitsWithItsData) {
  Machine m(backend());
  m.real_mode(0x1000, {0xb0, 0x5a, 0xe6, 0x80, 0xf4});  // mov al,5a; out 80,al; hlt
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(m.run->io.direction, KVM_EXIT_IO_OUT);
  EXPECT_EQ(m.run->io.size, 1);
  EXPECT_EQ(m.run->io.port, 0x80);
  EXPECT_EQ(m.run->io.count, 1u);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(m.run)[m.run->io.data_offset], 0x5a);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
}

TEST_P(Run, APortReadTakesTheAnswer) {
  Machine m(backend());
  m.real_mode(0x1000, {0xe4, 0x81, 0xf4});  // in al,81; hlt
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  reinterpret_cast<uint8_t*>(m.run)[m.run->io.data_offset] = 0x77;
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  kvm_regs regs;
  m.vcpu(KVM_GET_REGS, &regs);
  EXPECT_EQ(regs.rax & 0xff, 0x77u);
}

// A caller may look at, and write back, the registers of a vCPU whose port read is open; vmport does so.
TEST_P(Run, SettingTheSameRegistersKeepsAnOpenPortRead) {
  Machine m(backend());
  m.real_mode(0x1000, {0xe4, 0x81, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  kvm_regs regs;
  m.vcpu(KVM_GET_REGS, &regs);
  m.vcpu(KVM_SET_REGS, &regs);
  reinterpret_cast<uint8_t*>(m.run)[m.run->io.data_offset] = 0x77;
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
}

TEST_P(Run, ADeviceReadStaysOpenOverKvmInterrupt) {
  Machine m(backend());
  m.memory[0x40 * 4 + 1] = 0x20;  // IVT entry 0x40: 0000:2000
  m.memory[0x2000] = 0xf4;
  m.real_mode(0x1000, {0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa0, 0x10, 0x00, 0xeb, 0xfe});  // mov ax,ffff; mov ds,ax; mov al,[10]; jmp $
  kvm_regs regs;
  m.vcpu(KVM_GET_REGS, &regs);
  regs.rflags |= 0x200;
  m.vcpu(KVM_SET_REGS, &regs);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_MMIO));
  EXPECT_EQ(m.run->mmio.phys_addr, 0x100000u);
  EXPECT_EQ(m.run->mmio.len, 1u);
  EXPECT_EQ(m.run->mmio.is_write, 0);
  m.run->mmio.data[0] = 0x77;
  kvm_interrupt irq{0x40};
  ASSERT_EQ(m.vcpu(KVM_INTERRUPT, &irq), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  m.vcpu(KVM_GET_REGS, &regs);
  EXPECT_EQ(regs.rax & 0xff, 0x77u);
  EXPECT_EQ(regs.rip, 0x2001u);
}

TEST_P(Run, ImmediateExitReturnsAtOnce) {
  Machine m(backend());
  m.real_mode(0x1000, {0xeb, 0xfe});
  m.run->immediate_exit = 1;
  EXPECT_EQ(m.vcpu(KVM_RUN), -EINTR);
}

TEST_P(Run, SyncedRegistersComeAndGoWithKvmRun) {
  Machine m(backend());
  m.real_mode(0x1000, {0x40, 0xf4});  // inc ax; hlt
  m.vcpu(KVM_GET_REGS, &m.run->s.regs.regs);
  m.run->s.regs.regs.rax = 0x41;
  m.run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
  m.run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  EXPECT_EQ(m.run->s.regs.regs.rax, 0x42u);
  EXPECT_EQ(m.run->s.regs.regs.rip, 0x1002u);
  EXPECT_EQ(m.run->kvm_dirty_regs, 0u);
  kvm_sregs sregs;
  m.vcpu(KVM_GET_SREGS, &sregs);
  EXPECT_EQ(std::memcmp(&sregs, &m.run->s.regs.sregs, sizeof sregs), 0);
}

TEST_P(Run, UnknownSyncedRegistersAreInvalid) {
  Machine m(backend());
  m.run->kvm_valid_regs = 8;
  EXPECT_EQ(m.vcpu(KVM_RUN), -EINVAL);
  m.run->kvm_valid_regs = 0;
  m.run->kvm_dirty_regs = 8;
  EXPECT_EQ(m.vcpu(KVM_RUN), -EINVAL);
}

TEST_P(Run, AWriteInACoalescedZoneDoesNotExit) {
  Machine m(backend());
  kvm_coalesced_mmio_zone zone{};
  zone.addr = 0x70, zone.size = 1, zone.pio = 1;
  ASSERT_EQ(m.vm(KVM_REGISTER_COALESCED_MMIO, &zone), 0);
  m.real_mode(0x1000, {0xb0, 0x5a, 0xe6, 0x70, 0xb0, 0x5b, 0xe6, 0x70, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  auto* ring = reinterpret_cast<kvm_coalesced_mmio_ring*>(reinterpret_cast<char*>(m.run) + KVM_COALESCED_MMIO_PAGE_OFFSET * 4096);
  EXPECT_EQ(ring->first, 0u);
  ASSERT_EQ(ring->last, 2u);
  EXPECT_EQ(ring->coalesced_mmio[0].phys_addr, 0x70u);
  EXPECT_EQ(ring->coalesced_mmio[0].len, 1u);
  EXPECT_EQ(ring->coalesced_mmio[0].pio, 1u);
  EXPECT_EQ(ring->coalesced_mmio[0].data[0], 0x5a);
  EXPECT_EQ(ring->coalesced_mmio[1].data[0], 0x5b);
}

TEST_P(Run, AZoneThatIsGoneOrTooSmallLetsTheWriteOut) {
  Machine m(backend());
  kvm_coalesced_mmio_zone zone{};
  zone.addr = 0x70, zone.size = 1, zone.pio = 1;
  ASSERT_EQ(m.vm(KVM_REGISTER_COALESCED_MMIO, &zone), 0);
  m.real_mode(0x1000, {0xe7, 0x70, 0xe6, 0x70, 0xe6, 0x70, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));  // two bytes
  EXPECT_EQ(m.run->io.size, 2);
  ASSERT_EQ(m.vm(KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(m.run->io.size, 1);
  ASSERT_EQ(m.vm(KVM_REGISTER_COALESCED_MMIO, &zone), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
}

TEST_P(Run, AFullCoalescedRingLetsTheWriteOut) {
  Machine m(backend());
  kvm_coalesced_mmio_zone zone{};
  zone.addr = 0x70, zone.size = 1, zone.pio = 1;
  ASSERT_EQ(m.vm(KVM_REGISTER_COALESCED_MMIO, &zone), 0);
  auto* ring = reinterpret_cast<kvm_coalesced_mmio_ring*>(reinterpret_cast<char*>(m.run) + KVM_COALESCED_MMIO_PAGE_OFFSET * 4096);
  ring->first = 1, ring->last = 0;
  m.real_mode(0x1000, {0xe6, 0x70, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  ring->last = 0xffffffff;
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
}

TEST_P(Run, APendingTripleFaultShutsDown) {
  Machine m(backend());
  kvm_enable_cap cap{};
  cap.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, cap.args[0] = 1;
  ASSERT_EQ(m.vm(KVM_ENABLE_CAP, &cap), 0);
  kvm_vcpu_events events;
  ASSERT_EQ(m.vcpu(KVM_GET_VCPU_EVENTS, &events), 0);
  events.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  events.triple_fault.pending = 1;
  ASSERT_EQ(m.vcpu(KVM_SET_VCPU_EVENTS, &events), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_SHUTDOWN));
}

TEST_P(Run, KvmInterruptIsDeliveredWithInterruptsEnabled) {
  Machine m(backend());
  m.memory[0x40 * 4 + 1] = 0x20;  // IVT entry 0x40: 0000:2000
  m.memory[0x2000] = 0xf4;
  m.real_mode(0x1000, {0xfb, 0x90, 0xeb, 0xfe});  // sti; nop; jmp $
  kvm_regs regs;
  m.vcpu(KVM_GET_REGS, &regs);
  regs.rflags |= 0x200;
  m.vcpu(KVM_SET_REGS, &regs);
  kvm_interrupt irq{0x40};
  ASSERT_EQ(m.vcpu(KVM_INTERRUPT, &irq), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  m.vcpu(KVM_GET_REGS, &regs);
  EXPECT_EQ(regs.rip, 0x2001u);
}

TEST_P(Run, AFilteredMsrLeavesAndTakesTheAnswer) {
  Machine m(backend());
  kvm_enable_cap cap{};
  cap.cap = KVM_CAP_X86_USER_SPACE_MSR, cap.args[0] = KVM_MSR_EXIT_REASON_FILTER;
  ASSERT_EQ(m.vm(KVM_ENABLE_CAP, &cap), 0);
  uint8_t denied[8] = {};
  kvm_msr_filter filter{};
  filter.ranges[0] = {KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 8, 0x170, denied};
  ASSERT_EQ(m.vm(KVM_X86_SET_MSR_FILTER, &filter), 0);
  // mov ecx,174; rdmsr; wrmsr; hlt
  m.real_mode(0x1000, {0x66, 0xb9, 0x74, 0x01, 0x00, 0x00, 0x0f, 0x32, 0x0f, 0x30, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_X86_RDMSR));
  EXPECT_EQ(m.run->msr.index, 0x174u);
  EXPECT_EQ(m.run->msr.reason, static_cast<uint32_t>(KVM_MSR_EXIT_REASON_FILTER));
  m.run->msr.data = 0x1122334455667788;
  m.run->msr.error = 0;
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_X86_WRMSR));
  EXPECT_EQ(m.run->msr.index, 0x174u);
  EXPECT_EQ(m.run->msr.data, 0x1122334455667788u);
  m.run->msr.error = 0;
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
}

// What immediate_exit is for: the answer is taken, nothing more is run, and the registers can be saved.
TEST_P(Run, ImmediateExitCompletesAnOpenPortRead) {
  Machine m(backend());
  m.real_mode(0x1000, {0xe4, 0x81, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  reinterpret_cast<uint8_t*>(m.run)[m.run->io.data_offset] = 0x77;
  m.run->immediate_exit = 1;
  ASSERT_EQ(m.vcpu(KVM_RUN), -EINTR);
  kvm_regs regs;
  m.vcpu(KVM_GET_REGS, &regs);
  EXPECT_EQ(regs.rip, 0x1002u);
  EXPECT_EQ(regs.rax & 0xff, 0x77u);
}

TEST_P(Run, TheInterruptWindowOpensWithInterruptsEnabled) {
  Machine m(backend());
  m.real_mode(0x1000, {0xfb, 0x90, 0xeb, 0xfe});  // sti; nop; jmp $
  m.run->request_interrupt_window = 1;
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IRQ_WINDOW_OPEN));
  EXPECT_EQ(m.run->ready_for_interrupt_injection, 1);
  EXPECT_EQ(m.run->if_flag, 1);
}

TEST_P(Run, ANonMaskableInterruptIsDelivered) {
  Machine m(backend());
  m.memory[2 * 4 + 1] = 0x20;
  m.memory[0x2000] = 0xf4;
  m.real_mode(0x1000, {0xeb, 0xfe});
  ASSERT_EQ(m.vcpu(KVM_NMI), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  kvm_regs regs;
  m.vcpu(KVM_GET_REGS, &regs);
  EXPECT_EQ(regs.rip, 0x2001u);
  kvm_vcpu_events events;
  m.vcpu(KVM_GET_VCPU_EVENTS, &events);
  EXPECT_EQ(events.nmi.masked, 1);
}

// The same by way of the ABI: one that was on its way in when its vCPU was saved, so NMIs are masked already.
TEST_P(Run, AnInjectedNonMaskableInterruptIsDelivered) {
  Machine m(backend());
  m.memory[2 * 4 + 1] = 0x20;
  m.memory[0x2000] = 0xf4;
  m.real_mode(0x1000, {0xeb, 0xfe});
  kvm_vcpu_events events{};
  events.nmi.injected = 1, events.nmi.masked = 1;
  ASSERT_EQ(m.vcpu(KVM_SET_VCPU_EVENTS, &events), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  kvm_regs regs;
  m.vcpu(KVM_GET_REGS, &regs);
  EXPECT_EQ(regs.rip, 0x2001u);
}

// #DE by way of the ABI: an exception that was on its way into the guest when its state was saved.
TEST_P(Run, AnInjectedExceptionIsDelivered) {
  Machine m(backend());
  m.memory[1] = 0x20;
  m.memory[0x2000] = 0xf4;
  m.real_mode(0x1000, {0xeb, 0xfe});
  kvm_vcpu_events events{};
  events.exception.injected = 1;
  ASSERT_EQ(m.vcpu(KVM_SET_VCPU_EVENTS, &events), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  m.vcpu(KVM_GET_VCPU_EVENTS, &events);
  EXPECT_EQ(events.exception.injected, 0);
}

TEST_P(Run, AnUninitializedProcessorWaitsForItsStart) {
  Machine m(backend(), Machine::Irqchip::kKernel);
  m.add_vcpu(1);
  kvm_mp_state state{};
  ASSERT_EQ(m.vcpu(KVM_GET_MP_STATE, &state), 0);
  EXPECT_EQ(state.mp_state, static_cast<uint32_t>(KVM_MP_STATE_UNINITIALIZED));
  m.run->immediate_exit = 1;
  EXPECT_EQ(m.vcpu(KVM_RUN), -EINTR);
}

// The signal is blocked but for KVM_RUN: it ends KVM_RUN, its handler does not run, and it is still pending.
TEST_P(Run, ASignalThatOnlyTheRunMaskLetsThroughStaysPending) {
  static std::atomic<int> handled{0};
  handled = 0;
  struct sigaction action = {}, old;
  action.sa_handler = [](int) { handled++; };
  ::sigaction(SIGUSR1, &action, &old);
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &before);

  Machine m(backend());
  m.real_mode(0x1000, {0xeb, 0xfe});
  struct {
    uint32_t len;  // kvm_signal_mask
    uint64_t bits;
  } __attribute__((packed)) mask{};
  mask.len = 8;
  ASSERT_EQ(m.vcpu(KVM_SET_SIGNAL_MASK, &mask), 0);
  pthread_t self = ::pthread_self();
  std::thread sender([self] {
    ::usleep(20000);
    sigval value{.sival_int = 4711};
    ::pthread_sigqueue(self, SIGUSR1, value);
  });
  EXPECT_EQ(m.vcpu(KVM_RUN), -EINTR);
  sender.join();
  EXPECT_EQ(handled, 0);
  timespec none{};
  siginfo_t info{};
  EXPECT_EQ(::sigtimedwait(&blocked, &info, &none), SIGUSR1);
  EXPECT_EQ(info.si_value.sival_int, 4711);
  EXPECT_EQ(::sigtimedwait(&blocked, &info, &none), -1);

  // One that is pending already ends KVM_RUN at once.
  ::raise(SIGUSR1);
  EXPECT_EQ(m.vcpu(KVM_RUN), -EINTR);
  EXPECT_EQ(::sigtimedwait(&blocked, &info, &none), SIGUSR1);
  // Outside of KVM_RUN the handler is the caller's own.
  ::raise(SIGUSR1);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(handled, 1);
  ::sigaction(SIGUSR1, &old, nullptr);
}

TEST(SoftkvmRun, AHandlerMayInterruptItsThread) {
  struct sigaction action = {}, old;
  action.sa_handler = [](int) { interrupt_this_thread(); };
  ::sigaction(SIGUSR2, &action, &old);
  Machine m(kSoftkvm);
  m.real_mode(0x1000, {0xeb, 0xfe});
  pthread_t self = ::pthread_self();
  std::thread sender([self] {
    ::usleep(20000);
    ::pthread_kill(self, SIGUSR2);
  });
  EXPECT_EQ(m.vcpu(KVM_RUN), -EINTR);
  sender.join();
  interrupt_this_thread();  // outside of KVM_RUN: nothing
  ::sigaction(SIGUSR2, &old, nullptr);
}

// STI keeps interrupts off for one instruction more (SDM vol 2, STI), also where that jumps to itself.
TEST(SoftkvmRun, AWaitingInterruptComesOneInstructionAfterSti) {
  for (bool loop : {false, true}) {
    Machine m(kSoftkvm);
    m.memory[0x40 * 4 + 1] = 0x20;
    m.memory[0x2000] = 0xf4;
    if (loop) {
      m.real_mode(0x1000, {0xfb, 0xeb, 0xfe});  // sti; jmp $
    } else {
      m.real_mode(0x1000, {0xfb, 0x40, 0x40, 0x40, 0xeb, 0xfe});  // sti; inc ax; inc ax; inc ax; jmp $
    }
    kvm_interrupt irq{0x40};
    ASSERT_EQ(m.vcpu(KVM_INTERRUPT, &irq), 0);
    ASSERT_EQ(m.vcpu(KVM_RUN), 0);
    ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
    kvm_regs regs;
    m.vcpu(KVM_GET_REGS, &regs);
    EXPECT_EQ(regs.rip, 0x2001u);
    EXPECT_EQ(regs.rax & 0xffff, loop ? 0u : 1u);
  }
}

TEST(SoftkvmRun, ADoorbellIsCalledInsteadOfAnExit) {
  Machine m(kSoftkvm);
  int rings = 0;
  Doorbell bell{};
  bell.address = 0x90, bell.size = 1, bell.pio = true;
  bell.call = [](void* context) { ++*static_cast<int*>(context); };
  bell.context = &rings;
  ASSERT_EQ(add_doorbell(m.vm.fd(), bell), 0);
  m.real_mode(0x1000, {0xe6, 0x90, 0xe6, 0x90, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  EXPECT_EQ(rings, 2);
  ASSERT_EQ(remove_doorbell(m.vm.fd(), bell), 0);
  m.real_mode(0x1000, {0xe6, 0x90, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
}

// A bell is ordinary code: it uses SIMD registers as it likes, and the guest keeps its own.
TEST(SoftkvmRun, ADoorbellLeavesTheGuestsFpuAlone) {
  Machine m(kSoftkvm);
  Doorbell bell{};
  bell.address = 0x90, bell.size = 1, bell.pio = true;
  bell.call = [](void*) { asm volatile("fninit; pcmpeqd %%xmm1, %%xmm1; pcmpeqd %%xmm15, %%xmm15" : : : "xmm1", "xmm15"); };
  ASSERT_EQ(add_doorbell(m.vm.fd(), bell), 0);
  m.real_mode(0x1000, {0xd9, 0xe8, 0xe6, 0x90, 0xdf, 0x1e, 0x00, 0x30, 0xf4});  // fld1; out 0x90, al; fistp word [0x3000]; hlt
  kvm_fpu fpu{};
  ASSERT_EQ(m.vcpu(KVM_GET_FPU, &fpu), 0);
  for (unsigned i = 0; i < 16; i++) memset(fpu.xmm[i], 0x30 + static_cast<int>(i), 16);
  ASSERT_EQ(m.vcpu(KVM_SET_FPU, &fpu), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  kvm_fpu after{};
  ASSERT_EQ(m.vcpu(KVM_GET_FPU, &after), 0);
  EXPECT_EQ(memcmp(after.xmm, fpu.xmm, sizeof fpu.xmm), 0);
  EXPECT_EQ(m.memory[0x3000], 1);
  EXPECT_EQ(m.memory[0x3001], 0);
}

TEST_P(Run, AParavirtualAreaOverCodeIsSeen) {
  Machine m(backend());
  const uint8_t code[] = {0xb0, 0x11, 0xe6, 0x80, 0xc3};  // mov al,11; out 80,al; ret: the 11 is where `preempted` is cleared
  std::memcpy(m.memory + 0x400f, code, sizeof code);
  // call 400f; mov ecx,4b564d03; mov eax,4001; xor edx,edx; wrmsr; out 82,al; call 400f; hlt
  m.real_mode(0x1000, {0xe8, 0x0c, 0x30, 0x66, 0xb9, 0x03, 0x4d, 0x56, 0x4b, 0x66, 0xb8, 0x01, 0x40, 0, 0, 0x66, 0x31, 0xd2, 0x0f, 0x30, 0xe6, 0x82, 0xe8, 0xf6, 0x2f, 0xf4});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->io.port, 0x80);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(m.run)[m.run->io.data_offset], 0x11);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, 2u);
  ASSERT_EQ(m.run->io.port, 0x82);
  ::usleep(2000);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->io.port, 0x80);
  EXPECT_EQ(m.memory[0x4010], 0);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(m.run)[m.run->io.data_offset], m.memory[0x4010]);
}

// Tables are walked while another thread changes slots: those that are there at a walk's beginning stay until it is over.
TEST_P(Run, AddressesAreTranslatedWhileSlotsChange) {
  Machine m(backend());
  constexpr uint64_t kTables = 0x2000, kLinear = 0x5000, kFrame = 0x7000, kPresent = 7;
  for (unsigned level = 0; level < 4; level++) {  // PML4, PDPT, page directory, page table, a page after another
    const bool last = level == 3;
    const uint64_t entry = (last ? kFrame : kTables + (level + 1) * 4096) | kPresent;
    std::memcpy(m.memory + kTables + level * 4096 + (last ? kLinear / 4096 * 8 : 0), &entry, sizeof entry);
  }
  kvm_sregs sregs;
  ASSERT_EQ(m.vcpu(KVM_GET_SREGS, &sregs), 0);
  sregs.cr0 |= 0x80000001;  // PG, PE
  sregs.cr4 |= 1 << 5;      // PAE
  sregs.efer |= 0x500;      // LMA, LME: some hosts' KVM walks in long mode only and calls every other address physical
  sregs.cr3 = kTables;
  sregs.cs.l = 1;
  sregs.cs.db = 0;
  ASSERT_EQ(m.vcpu(KVM_SET_SREGS, &sregs), 0);
  std::atomic<bool> over{false};
  std::thread changes([&] {
    kvm_userspace_memory_region region{1, 0, 1 << 24, 0, reinterpret_cast<uintptr_t>(m.memory)};
    while (!over) {
      region.memory_size = region.memory_size ? 0 : 4096;
      if (m.vm(KVM_SET_USER_MEMORY_REGION, &region) != 0) std::abort();
    }
  });
  for (int i = 0; i < 60'000; i++) {
    kvm_translation asked{};
    asked.linear_address = kLinear + 0x123;
    EXPECT_EQ(m.vcpu(KVM_TRANSLATE, &asked), 0);
    EXPECT_EQ(asked.valid, 1);
    EXPECT_EQ(asked.physical_address, kFrame + 0x123u);
  }
  over = true;
  changes.join();
}

// A child of vfork closes what its parent has.
TEST_P(Run, VforkChildsCloseLeavesTheVm) {
  Machine m(backend(), Machine::Irqchip::kKernel, false);
  const int vm = m.vm.fd();
  pid_t child = ::vfork();
  if (child == 0) {
    backend().close(vm);
    ::_exit(0);
  }
  int status;
  ::waitpid(child, &status, 0);
  kvm_clock_data clock{};
  EXPECT_EQ(m.vm(KVM_GET_CLOCK, &clock), 0);
}

// Else what the guest has written could not be given back by KVM_SET_SREGS. Spec: Intel SDM vol 3, 11.12.5.
TEST_P(Run, AnApicBaseThatNoApicHasIsRefusedWithoutOne) {
  Machine m(backend());
  m.memory[13 * 4 + 1] = 0x20;  // #GP: 0000:2000
  m.memory[0x2000] = 0xe6, m.memory[0x2001] = 0x81;
  // mov ecx,1b; rdmsr; or ah,4 (EXTD); and ah,f7 (EN); wrmsr; out 80,al
  m.real_mode(0x1000, {0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x80, 0xcc, 0x04, 0x80, 0xe4, 0xf7, 0x0f, 0x30, 0xe6, 0x80});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(m.run->io.port, 0x81);
  kvm_sregs sregs;
  ASSERT_EQ(m.vcpu(KVM_GET_SREGS, &sregs), 0);
  EXPECT_EQ(m.vcpu(KVM_SET_SREGS, &sregs), 0);
}

constexpr uint32_t kSystemTimeMsr = 0x4b564d01;
constexpr uint64_t kTimePage = 0x5000;

void set_msr(const Machine& m, uint32_t index, uint64_t value) {
  MsrList one(1);
  one.header()->nmsrs = 1;
  *one.entries() = {index, 0, value};
  ASSERT_EQ(m.vcpu(KVM_SET_MSRS, one.header()), 1);
}
uint64_t get_msr(const Machine& m, uint32_t index) {
  MsrList one(1);
  one.header()->nmsrs = 1;
  one.entries()->index = index;
  EXPECT_EQ(m.vcpu(KVM_GET_MSRS, one.header()), 1);
  return one.entries()->data;
}
uint64_t clock_now(const Machine& m) {
  kvm_clock_data data{};
  EXPECT_EQ(m.vm(KVM_GET_CLOCK, &data), 0);
  return data.clock;
}
void set_clock(const Machine& m, uint64_t ns) {
  kvm_clock_data data{};
  data.clock = ns;
  EXPECT_EQ(m.vm(KVM_SET_CLOCK, &data), 0);
}

// Spec: api.rst, 4.70: the flag is "set exclusively by the host and read/cleared exclusively by the guest".
TEST_P(Run, ThatTheGuestWasStoppedIsSaidUntilItHasSeenIt) {
  Machine m(backend());
  const uint8_t& flags = m.memory[kTimePage + 29];
  m.real_mode(0x1000, {0xe6, 0x80, 0xeb, 0xfc});  // out 80,al; jmp
  set_msr(m, kSystemTimeMsr, kTimePage | 1);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(flags & 2, 0);
  ASSERT_EQ(m.vcpu(KVM_KVMCLOCK_CTRL), 0);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(flags & 2, 2);
  set_clock(m, clock_now(m));
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(flags & 2, 2);
  m.memory[kTimePage + 29] &= ~2;
  set_clock(m, clock_now(m));
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(flags & 2, 0);
}

// Spec: Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW.
TEST_P(Run, KvmclockGoesOnWhenTheTscJumps) {
  Machine m(backend());
  for (const uint8_t msr : {0x3b, 0x10}) {  // TSC_ADJUST, TSC
    SCOPED_TRACE(msr);
    const uint8_t jump = msr == 0x10 ? 8 : 4;
    // out 80,al; mov ecx,msr; xor eax,eax; mov edx,jump*100; wrmsr; out 81,al; out 82,al
    m.real_mode(static_cast<uint16_t>(0x1000 + 0x100 * msr),
                {0xe6, 0x80, 0x66, 0xb9, msr, 0, 0, 0, 0x66, 0x31, 0xc0, 0x66, 0xba, 0, jump, 0, 0, 0x0f, 0x30, 0xe6, 0x81, 0xe6, 0x82});
    set_msr(m, kSystemTimeMsr, kTimePage | 1);
    for (int i = 0; i < 3; i++) ASSERT_EQ(m.vcpu(KVM_RUN), 0);
    ASSERT_EQ(m.run->io.port, 0x82);
    uint64_t stamp, system;
    uint32_t mul;
    int8_t shift;
    std::memcpy(&stamp, m.memory + kTimePage + 8, 8);
    std::memcpy(&system, m.memory + kTimePage + 16, 8);
    std::memcpy(&mul, m.memory + kTimePage + 24, 4);
    std::memcpy(&shift, m.memory + kTimePage + 28, 1);
    const uint64_t before = clock_now(m), tsc = get_msr(m, 0x10), after = clock_now(m);
    uint64_t ticks = tsc - stamp;
    ticks = shift < 0 ? ticks >> -shift : ticks << shift;
    const uint64_t seen = system + static_cast<uint64_t>(static_cast<unsigned __int128>(ticks) * mul >> 32);
    EXPECT_GE(tsc, uint64_t{jump} << 40);
    constexpr uint64_t kSlack = 10'000'000;  // ns; the jump is of minutes
    EXPECT_GE(seen + kSlack, before);
    EXPECT_LE(seen, after + kSlack);
  }
}

}  // namespace
}  // namespace vireo::softkvm::test
