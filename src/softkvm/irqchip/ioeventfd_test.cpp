// SPDX-License-Identifier: Apache-2.0
// Expected values: api.rst 4.59 and the kernel's answers to the same requests.
#include "softkvm/irqchip/ioeventfd.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <thread>

#include "base/owned_fd.h"

namespace vireo::softkvm {
namespace {

struct Event : OwnedFd {
  Event() : OwnedFd(eventfd(0, EFD_NONBLOCK)) {}
  uint64_t count() {
    uint64_t value;
    return ::read(get(), &value, sizeof value) == sizeof value ? value : 0;
  }
};

kvm_ioeventfd request(int fd, uint64_t address, uint32_t size, uint32_t flags = 0, uint64_t match = 0) {
  kvm_ioeventfd r{};
  r.fd = fd, r.addr = address, r.len = size, r.flags = flags, r.datamatch = match;
  return r;
}

constexpr uint32_t kMatch = KVM_IOEVENTFD_FLAG_DATAMATCH, kPio = KVM_IOEVENTFD_FLAG_PIO,
                   kDeassign = KVM_IOEVENTFD_FLAG_DEASSIGN;

TEST(Ioeventfd, RingsOnSizeBusAndValue) {
  Ioeventfds io;
  Event a, b, c;
  EXPECT_FALSE(io.try_signal(false, 0x1000, 4, 0));
  EXPECT_EQ(io.configure(request(a.get(), 0x1000, 4)), 0);
  EXPECT_EQ(io.configure(request(b.get(), 0x1000, 2, kPio | kMatch, 7)), 0);
  EXPECT_EQ(io.configure(request(c.get(), 0x2000, 0)), 0);
  EXPECT_TRUE(io.try_signal(false, 0x1000, 4, 99));
  EXPECT_FALSE(io.try_signal(false, 0x1000, 2, 7));
  EXPECT_FALSE(io.try_signal(true, 0x1000, 2, 8));
  EXPECT_TRUE(io.try_signal(true, 0x1000, 2, 0xab0007));
  EXPECT_TRUE(io.try_signal(false, 0x2000, 1, 0));
  EXPECT_TRUE(io.try_signal(false, 0x2000, 8, 0));
  EXPECT_FALSE(io.try_signal(false, 0x2001, 1, 0));
  EXPECT_EQ(a.count(), 1u);
  EXPECT_EQ(b.count(), 1u);
  EXPECT_EQ(c.count(), 2u);
}

TEST(Ioeventfd, ErrorsAreTheKernels) {
  Ioeventfds io;
  Event a, b;
  OwnedFd other(dup(0));
  EXPECT_EQ(io.configure(request(a.get(), 0x1000, 4)), 0);
  EXPECT_EQ(io.configure(request(b.get(), 0x1000, 4)), -EEXIST);
  EXPECT_EQ(io.configure(request(b.get(), 0x1000, 0)), -EEXIST);
  EXPECT_EQ(io.configure(request(b.get(), 0x1000, 4, kMatch, 1)), -EEXIST);
  EXPECT_EQ(io.configure(request(b.get(), 0x1000, 2)), 0);
  EXPECT_EQ(io.configure(request(a.get(), 0x2000, 4, kMatch, 1)), 0);
  EXPECT_EQ(io.configure(request(a.get(), 0x2000, 4, kMatch, 2)), 0);
  EXPECT_EQ(io.configure(request(a.get(), 0x3000, 3)), -EINVAL);
  EXPECT_EQ(io.configure(request(a.get(), 0x3000, 0, kMatch)), -EINVAL);
  EXPECT_EQ(io.configure(request(a.get(), ~0ull - 3, 8)), -EINVAL);
  EXPECT_EQ(io.configure(request(a.get(), 0x3000, 4, 1 << 5)), -EINVAL);
  EXPECT_EQ(io.configure(request(999, 0x3000, 4)), -EBADF);
  EXPECT_EQ(io.configure(request(other.get(), 0x3000, 4)), -EINVAL);
  EXPECT_EQ(io.configure(request(b.get(), 0x1000, 4, kDeassign)), -ENOENT);
  EXPECT_EQ(io.configure(request(a.get(), 0x2000, 4, kDeassign | kMatch, 3)), -ENOENT);
  EXPECT_EQ(io.configure(request(a.get(), 0x2000, 4, kDeassign)), -ENOENT);
}

TEST(Ioeventfd, DeassignByAnotherDescriptorOfTheSameEventfd) {
  Ioeventfds io;
  Event a;
  EXPECT_EQ(io.configure(request(a.get(), 0x1000, 4)), 0);
  OwnedFd copy(dup(a.get()));
  EXPECT_EQ(io.configure(request(copy.get(), 0x1000, 4, kDeassign)), 0);
  EXPECT_FALSE(io.try_signal(false, 0x1000, 4, 0));
  EXPECT_EQ(io.configure(request(a.get(), 0x1000, 4)), 0);
}

TEST(Ioeventfd, OutlivesTheCallersDescriptor) {
  Ioeventfds io;
  Event a;
  OwnedFd copy(dup(a.get()));
  EXPECT_EQ(io.configure(request(a.get(), 0x1000, 4)), 0);
  a.reset();
  EXPECT_TRUE(io.try_signal(false, 0x1000, 4, 0));
  uint64_t value = 0;
  EXPECT_EQ(read(copy.get(), &value, sizeof value), 8);
}

TEST(Ioeventfd, ManyAreFound) {
  Ioeventfds io;
  Event a;
  for (uint64_t i = 0; i < 200; ++i) ASSERT_EQ(io.configure(request(a.get(), 0xfe000000 + i * 4, 4)), 0);
  for (uint64_t i = 0; i < 200; ++i) EXPECT_TRUE(io.try_signal(false, 0xfe000000 + i * 4, 4, 0));
  EXPECT_FALSE(io.try_signal(false, 0xfe000000 + 200 * 4, 4, 0));
  EXPECT_EQ(a.count(), 200u);
}

TEST(Doorbell, CallsOnTheWritersThread) {
  Ioeventfds io;
  int rung = 0;
  Ring ring;
  ring.address = 0xfe001000;
  ring.size = 2;
  ring.call = [](void* context) { ++*static_cast<int*>(context); };
  ring.context = &rung;
  EXPECT_EQ(io.add_doorbell(ring), 0);
  EXPECT_EQ(io.add_doorbell(ring), -EEXIST);
  EXPECT_TRUE(io.try_signal(false, 0xfe001000, 2, 5));
  EXPECT_EQ(rung, 1);
  EXPECT_EQ(io.remove_doorbell(ring), 0);
  EXPECT_EQ(io.remove_doorbell(ring), -ENOENT);
  EXPECT_FALSE(io.try_signal(false, 0xfe001000, 2, 5));
}

TEST(Doorbell, NeverRingsAfterItsRemoval) {
  Ioeventfds io;
  std::atomic<bool> stop{false};
  struct Target {
    std::atomic<bool> live{false};
    std::atomic<int> late{0};
  } target;
  Ring ring;
  ring.address = 0x10;
  ring.call = [](void* context) {
    auto* t = static_cast<Target*>(context);
    if (!t->live.load()) ++t->late;
  };
  ring.context = &target;
  std::thread vcpu([&] {
    while (!stop.load()) io.try_signal(false, 0x10, 4, 0);
  });
  for (int i = 0; i < 300; ++i) {
    target.live = true;
    io.add_doorbell(ring);
    io.remove_doorbell(ring);
    target.live = false;
  }
  stop = true;
  vcpu.join();
  EXPECT_EQ(target.late, 0);
}

}  // namespace
}  // namespace vireo::softkvm
