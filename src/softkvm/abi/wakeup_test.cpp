// SPDX-License-Identifier: Apache-2.0
// What ends a vCPU's waiting, each where it was once forgotten; and what must not wait for a vCPU. A vCPU that waits for ever is ended by a watchdog after a second.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "softkvm/abi/backend_test.h"

namespace vireo::softkvm::test {
namespace {

class Wakeup : public ::testing::TestWithParam<const Backend*> {
 protected:
  void SetUp() override {
    if (GetParam() == &kKernel && !kernel_present()) GTEST_SKIP() << "no /dev/kvm";
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
  }
  const Backend& backend() { return *GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(On, Wakeup, ::testing::Values(&kSoftkvm, &kKernel), [](const auto& info) { return info.param->name; });

// Ends a KVM_RUN of `runner` after `ms`.
struct Watchdog {
  Watchdog(kvm_run* run, int ms) : target(::pthread_self()), thread([this, run, ms] {
    for (int i = 0; i < ms && !done; i++) ::usleep(1000);
    if (done) return;
    fired = true;
    run->immediate_exit = 1;
    for (int i = 0; i < 100 && !done; i++) { softkvm::interrupt_thread(target); ::pthread_kill(target, SIGUSR1); ::usleep(10000); }
  }) {}
  ~Watchdog() { done = true; thread.join(); }
  pthread_t target;
  std::atomic<bool> done{false}, fired{false};
  std::thread thread;
};

TEST_P(Wakeup, AnInterruptWindowBehindStiAndHltOpens) {
  Machine m(backend(), Machine::Irqchip::kNone, false);
  kvm_enable_cap cap{};
  cap.cap = KVM_CAP_SPLIT_IRQCHIP, cap.args[0] = 24;
  ASSERT_EQ(m.vm(KVM_ENABLE_CAP, &cap), 0);
  m.add_vcpu(0);
  m.real_mode(0x1000, {0xfb, 0xf4, 0xeb, 0xfe});  // sti; hlt; jmp $
  m.run->request_interrupt_window = 1;
  Watchdog dog(m.run, 1000);
  int result = m.vcpu(KVM_RUN);
  EXPECT_FALSE(dog.fired);
  EXPECT_EQ(result, 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IRQ_WINDOW_OPEN));
  EXPECT_EQ(m.run->ready_for_interrupt_injection, 1);
}

TEST_P(Wakeup, AHeldLineComesThroughAPicThatIsInitialized) {
  Machine m(backend(), Machine::Irqchip::kKernel);
  m.memory[0xd * 4 + 1] = 0x20;  // vector 13: 0000:2000
  m.memory[0x2000] = 0xe6, m.memory[0x2001] = 0x81;  // out 81,al
  m.real_mode(0x1000, {0xfa, 0xb0, 0x20, 0xba, 0xd0, 0x04, 0xee, 0xb0, 0xff, 0xe6, 0x21, 0xe6, 0x80,  // IRQ 5 by level, all masked
                       0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21,
                       0xb0, 0xdf, 0xe6, 0x21, 0xfb, 0xeb, 0xfe});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  kvm_irq_level line{};
  line.irq = 5, line.level = 1;
  ASSERT_EQ(m.vm(KVM_IRQ_LINE, &line), 0);
  Watchdog dog(m.run, 1000);
  EXPECT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(m.run->io.port, 0x81);
}

// The same by a local APIC that is switched off and on.
TEST_P(Wakeup, AVectorThatWaitsComesWhenTheApicIsOnAgain) {
  Machine m(backend(), Machine::Irqchip::kKernel);
  kvm_lapic_state apic;
  ASSERT_EQ(m.vcpu(KVM_GET_LAPIC, &apic), 0);
  const uint32_t svr = 0x1ff;
  std::memcpy(apic.regs + 0xf0, &svr, 4);
  ASSERT_EQ(m.vcpu(KVM_SET_LAPIC, &apic), 0);
  m.memory[0x40 * 4 + 1] = 0x20;
  m.memory[0x2000] = 0xe6, m.memory[0x2001] = 0x81;
  // out 80,al; mov ecx,1b; rdmsr; and ah,f7; wrmsr; out 82,al; or ah,8; wrmsr; sti; jmp $
  m.real_mode(0x1000, {0xfa, 0xe6, 0x80, 0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x80, 0xe4, 0xf7, 0x0f, 0x30, 0xe6, 0x82, 0x80, 0xcc, 0x08, 0x0f, 0x30, 0xfb, 0xeb, 0xfe});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->io.port, 0x80);
  kvm_msi msi{};
  msi.address_lo = 0xfee00000, msi.data = 0x40;
  EXPECT_EQ(m.vm(KVM_SIGNAL_MSI, &msi), 1);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->io.port, 0x82);
  Watchdog dog(m.run, 1000);
  EXPECT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_EQ(m.run->io.port, 0x81);
}

TEST_P(Wakeup, AnInjectedSoftwareInterruptComesWithoutIf) {
  Machine m(backend());
  m.memory[0x40 * 4 + 1] = 0x20;  // IVT entry 0x40: 0000:2000
  m.memory[0x2000] = 0xf4;
  m.real_mode(0x1000, {0xeb, 0xfe});
  kvm_vcpu_events events{};
  m.vcpu(KVM_GET_VCPU_EVENTS, &events);
  events.interrupt.injected = 1, events.interrupt.nr = 0x40, events.interrupt.soft = 1;
  ASSERT_EQ(m.vcpu(KVM_SET_VCPU_EVENTS, &events), 0);
  Watchdog dog(m.run, 500);
  EXPECT_EQ(m.vcpu(KVM_RUN), 0);
  kvm_regs regs{};
  m.vcpu(KVM_GET_REGS, &regs);
  EXPECT_EQ(regs.rip, 0x2001u);
}

// Post-copy: a page that is still to come is asked for while its sender's thread reads from a socket.
TEST_P(Wakeup, APageToComeKeepsNobodyFromReading) {
  if (GetParam() == &kKernel) return;  // it has no preload library that a read() goes by
  int uffd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (uffd < 0) GTEST_SKIP() << "no userfaultfd";
  uffdio_api api{};
  api.api = UFFD_API;
  ASSERT_EQ(::ioctl(uffd, UFFDIO_API, &api), 0);
  Machine m(backend());
  uffdio_register reg{};
  reg.range = {reinterpret_cast<uintptr_t>(m.memory + 0x40000), 4096};
  reg.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(::ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
  m.real_mode(0x1000, {0x66, 0xb9, 0x01, 0x4d, 0x56, 0x4b, 0x66, 0xb8, 0x01, 0x01, 0x04, 0x00, 0x66, 0xba, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x30, 0xf4});
  std::thread vcpu([&] { m.vcpu(KVM_RUN); });
  uffd_msg msg{};
  for (int i = 0; i < 2000 && ::read(uffd, &msg, sizeof msg) != sizeof msg; i++) ::usleep(1000);
  ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
  std::atomic<bool> done{false};
  std::thread reader([&] {
    softkvm::notice_change(m.memory + 0x80000, 64);  // what the preload library's read() does
    done = true;
  });
  for (int i = 0; i < 1000 && !done; i++) ::usleep(1000);
  EXPECT_TRUE(done) << "a read() waits for the page that only it can bring";
  uffdio_zeropage zero{};
  zero.range = {reinterpret_cast<uintptr_t>(m.memory + 0x40000), 4096};
  ::ioctl(uffd, UFFDIO_ZEROPAGE, &zero);
  vcpu.join();
  reader.join();
  ::close(uffd);
}

// The TSC that passes it may do so by a jump. Spec: Intel SDM vol 3, 11.5.4.1.
TEST_P(Wakeup, ADeadlineIsReachedByATscThatIsWritten) {
  if (GetParam() == &kKernel) return;  // its timer goes on waiting for the time that it had reckoned
  Machine m(backend(), Machine::Irqchip::kKernel);
  kvm_lapic_state apic;
  ASSERT_EQ(m.vcpu(KVM_GET_LAPIC, &apic), 0);
  const uint32_t svr = 0x1ff, timer = 0x40040;
  std::memcpy(apic.regs + 0xf0, &svr, 4);
  std::memcpy(apic.regs + 0x320, &timer, 4);
  ASSERT_EQ(m.vcpu(KVM_SET_LAPIC, &apic), 0);
  m.memory[0x40 * 4 + 1] = 0x20;
  m.memory[0x2000] = 0xe6, m.memory[0x2001] = 0x81;
  // out 80,al; mov ecx,10; xor eax,eax; mov edx,1000; wrmsr; sti; hlt; jmp $
  m.real_mode(0x1000, {0xe6, 0x80, 0x66, 0xb9, 0x10, 0, 0, 0, 0x66, 0x31, 0xc0, 0x66, 0xba, 0, 0x10, 0, 0, 0x0f, 0x30, 0xfb, 0xf4, 0xeb, 0xfe});
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->io.port, 0x80);
  MsrList deadline(1);
  deadline.header()->nmsrs = 1;
  *deadline.entries() = {0x6e0, 0, 0x800ull << 32};  // in an hour
  ASSERT_EQ(m.vcpu(KVM_SET_MSRS, deadline.header()), 1);
  Watchdog dog(m.run, 1000);
  EXPECT_EQ(m.vcpu(KVM_RUN), 0);
  EXPECT_FALSE(dog.fired);
  EXPECT_EQ(m.run->io.port, 0x81);
}

}  // namespace
}  // namespace vireo::softkvm::test
