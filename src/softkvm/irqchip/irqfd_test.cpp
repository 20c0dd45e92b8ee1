// SPDX-License-Identifier: Apache-2.0
// Real eventfds and the real event thread. Expected values: api.rst 4.75 and the kernel's answers to the same requests.
#include "softkvm/irqchip/irqfd.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <thread>

#include "base/owned_fd.h"
#include "softkvm/irqchip/irqchip_fake.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kLevel = 1 << 15;

struct Event : OwnedFd {
  explicit Event(uint64_t count = 0, int flags = 0) : OwnedFd(eventfd(static_cast<unsigned>(count), flags)) {}
  void signal() { eventfd_write(get(), 1); }
  void wait() {  // consumes
    uint64_t value;
    EXPECT_EQ(::read(get(), &value, sizeof value), 8);
  }
  bool readable() {
    pollfd p{get(), POLLIN, 0};
    return poll(&p, 1, 0) == 1;
  }
};

kvm_irqfd request(int fd, uint32_t gsi, uint32_t flags = 0, int resample = 0) {
  kvm_irqfd r{};
  r.fd = static_cast<uint32_t>(fd), r.gsi = gsi, r.flags = flags, r.resamplefd = static_cast<uint32_t>(resample);
  return r;
}

TEST(Irqfd, EdgeInterruptsAndIsConsumed) {
  FakeVm vm;
  vm.redirect(20, 0x40);
  Event event;
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 20)), 0);
  for (int i = 0; i < 3; ++i) {
    event.signal();
    vm.vcpu().wait();
    EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
    vm.lapic().eoi();
    EXPECT_FALSE(event.readable());
  }
}

TEST(Irqfd, WhatWasSignalledBeforeComes) {
  FakeVm vm;
  vm.redirect(20, 0x40);
  Event event(1);
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 20)), 0);
  vm.vcpu().wait();
}

TEST(Irqfd, RoutedToAnMsi) {
  FakeVm vm;
  kvm_irq_routing_entry entry{};
  entry.gsi = 100;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = 0xfee00000;
  entry.u.msi.data = 0x61;
  EXPECT_EQ(vm.chip->set_gsi_routing({1, 0}, &entry), 0);
  Event event;
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 100)), 0);
  event.signal();
  vm.vcpu().wait();
  EXPECT_EQ(vm.lapic().acknowledge(), 0x61);
}

TEST(Irqfd, ResampleLowersTheLineAtEoiAndTells) {
  FakeVm vm;
  vm.redirect(20, kLevel | 0x40);
  Event event, resample;
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 20, KVM_IRQFD_FLAG_RESAMPLE, resample.get())), 0);
  for (int i = 0; i < 2; ++i) {
    event.signal();
    vm.vcpu().wait();
    EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
    EXPECT_FALSE(resample.readable());
    vm.lapic().eoi();
    resample.wait();
    EXPECT_FALSE(vm.lapic().has_interrupt());  // the line is down
  }
}

TEST(Irqfd, ResampleOnUnmaskAsksInsteadOfInterrupting) {
  FakeVm vm;
  vm.redirect(20, kLevel | 1 << 16 | 0x40);
  Event event, resample;
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 20, KVM_IRQFD_FLAG_RESAMPLE, resample.get())), 0);
  vm.chip->router().set_irq(IrqSource::kResample, 20, true);
  vm.redirect(20, kLevel | 0x40);
  resample.wait();
  EXPECT_FALSE(vm.lapic().has_interrupt());
  event.signal();  // the device still wants it
  vm.vcpu().wait();
}

TEST(Irqfd, ResampleThroughThePic) {
  FakeVm vm;
  vm.pic_init();
  vm.out(0x4d0, 0x20);
  Event event, resample;
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 5, KVM_IRQFD_FLAG_RESAMPLE, resample.get())), 0);
  event.signal();
  vm.vcpu().wait();
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 5);
  vm.out(0x20, 0x20);
  resample.wait();
  EXPECT_FALSE(vm.lapic().has_interrupt());
}

TEST(Irqfd, ErrorsAreTheKernels) {
  FakeVm vm, split(1, {.split = true});
  Event event, other, resample;
  OwnedFd file(dup(0)), copy(dup(event.get()));
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 5)), 0);
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 6)), -EBUSY);
  EXPECT_EQ(vm.chip->irqfd(request(copy.get(), 6)), -EBUSY);
  EXPECT_EQ(vm.chip->irqfd(request(other.get(), 5000)), 0);
  EXPECT_EQ(vm.chip->irqfd(request(other.get(), 5000, 1)), 0);
  EXPECT_EQ(vm.chip->irqfd(request(other.get(), 5, 4)), -EINVAL);
  EXPECT_EQ(vm.chip->irqfd(request(999, 5)), -EBADF);
  EXPECT_EQ(vm.chip->irqfd(request(file.get(), 5)), -EINVAL);
  EXPECT_EQ(vm.chip->irqfd(request(other.get(), 5, 2, 999)), -EBADF);
  EXPECT_EQ(vm.chip->irqfd(request(other.get(), 5, 2, file.get())), -EINVAL);
  EXPECT_EQ(vm.chip->irqfd(request(other.get(), 5, 1)), 0);  // nothing to remove is no error
  EXPECT_EQ(vm.chip->irqfd(request(999, 5, 1)), -EBADF);
  EXPECT_EQ(vm.chip->irqfd(request(copy.get(), 5, 1)), 0);
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 5)), 0);
  EXPECT_EQ(split.chip->irqfd(request(other.get(), 5, 2, resample.get())), -EINVAL);
}

TEST(Irqfd, DeassignedOneIsLeftAlone) {
  FakeVm vm;
  vm.redirect(20, 0x40);
  Event event, last;
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 20)), 0);
  EXPECT_EQ(vm.chip->irqfd(request(event.get(), 20, 1)), 0);
  event.signal();
  // The thread has served a later one and not touched this.
  EXPECT_EQ(vm.chip->irqfd(request(last.get(), 20)), 0);
  last.signal();
  vm.vcpu().wait();
  EXPECT_TRUE(event.readable());
}

// The real timerfd and clock: a deadline some time ahead comes.
TEST(EventThread, RunsTimers) {
  FakeClock clock;
  FakeVcpu vcpu(clock);
  auto chip = std::move(*Irqchip::create({}));
  vcpu.lapic = chip->create_lapic(0, true, vcpu);
  vcpu.lapic->mmio_write(apic::kSvr, 4, 0x1ff);
  vcpu.lapic->mmio_write(apic::kTdcr, 4, 0xb);
  vcpu.lapic->mmio_write(apic::kLvtTimer, 4, 0x20040);
  for (uint32_t count : {3'000'000u, 1'000'000u}) {
    vcpu.lapic->mmio_write(apic::kTmict, 4, count);
    for (int i = 0; i < 3; ++i) {
      vcpu.wait();
      EXPECT_EQ(vcpu.lapic->acknowledge(), 0x40);
      vcpu.lapic->eoi();
    }
  }
  chip->destroy_lapic(std::move(vcpu.lapic));
}

// Interrupts from several threads at once, none lost: each vector is sent again only after it was taken.
TEST(Concurrency, EveryInterruptArrives) {
  FakeVm vm(2);
  constexpr int kRounds = 2000;
  std::atomic<int> taken[3] = {0, 0, 0};
  auto sender = [&](int which) {
    for (int i = 0; i < kRounds; ++i) {
      if (which == 0) {
        kvm_msi message{};
        message.address_lo = 0xfee01000;
        message.data = 0x40;
        vm.chip->signal_msi(message);
      } else if (which == 1) {
        vm.lapic(0).mmio_write(apic::kIcr2, 4, 1 << 24);
        vm.lapic(0).mmio_write(apic::kIcr, 4, 0x4041);
      } else {
        vm.chip->set_irq(20, true);
        vm.chip->set_irq(20, false);
      }
      while (taken[which].load() <= i) std::this_thread::yield();
    }
  };
  vm.redirect(20, 1ull << 56 | 0x42);
  std::thread senders[3];
  for (int i = 0; i < 3; ++i) senders[i] = std::thread(sender, i);
  for (int left = 3 * kRounds; left > 0; --left) {
    vm.vcpu(1).wait();
    const int vector = vm.lapic(1).acknowledge();
    vm.lapic(1).eoi();
    ++taken[vector - 0x40];
  }
  for (auto& thread : senders) thread.join();
  EXPECT_FALSE(vm.lapic(1).has_interrupt());
}

}  // namespace
}  // namespace vireo::softkvm
