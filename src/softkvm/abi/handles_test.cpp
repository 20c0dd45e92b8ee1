// SPDX-License-Identifier: Apache-2.0
// Descriptors of softkvm behave as those of the kernel's module do.
#include <poll.h>
#include <sys/wait.h>

#include <thread>

#include "softkvm/abi/backend_test.h"

namespace vireo::softkvm::test {
namespace {

TEST(Handles, NotAHandleIsNotATypewriter) {
  int fd = ::open("/dev/null", O_RDONLY);
  EXPECT_EQ(softkvm::ioctl(fd, KVM_GET_API_VERSION, 0), -ENOTTY);
  EXPECT_EQ(softkvm::close(fd), -ENOTTY);
  EXPECT_EQ(::close(fd), 0);
  EXPECT_EQ(softkvm::ioctl(-1, KVM_GET_API_VERSION, 0), -ENOTTY);
  EXPECT_EQ(softkvm::ioctl(1 << 20, KVM_RUN, 0), -ENOTTY);
}

TEST(Handles, AreClosedOnExec) {
  int fd = open_system();
  EXPECT_EQ(::fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  softkvm::close(fd);
}

TEST(Handles, ADuplicateIsTheSameFile) {
  Machine m(kSoftkvm);
  Handle copy(kSoftkvm, ::dup(m.vcpu.fd()));
  kvm_regs regs{};
  regs.rax = 77, regs.rflags = 2;
  EXPECT_EQ(copy(KVM_SET_REGS, &regs), 0);
  regs = {};
  EXPECT_EQ(m.vcpu(KVM_GET_REGS, &regs), 0);
  EXPECT_EQ(regs.rax, 77u);
}

TEST(Handles, AVmLivesOnInADuplicateThatWasNeverUsed) {
  Handle system(kSoftkvm, open_system());
  int vm = system(KVM_CREATE_VM);
  int copy = ::dup(vm);
  EXPECT_EQ(softkvm::close(vm), 0);
  EXPECT_EQ(softkvm::ioctl(copy, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
  EXPECT_EQ(softkvm::close(copy), 0);
  EXPECT_EQ(softkvm::ioctl(copy, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), -ENOTTY);
}

TEST(Handles, AVmLivesAsLongAsAVcpusDescriptor) {
  Handle system(kSoftkvm, open_system());
  Handle vm(kSoftkvm, system(KVM_CREATE_VM));
  Handle vcpu(kSoftkvm, vm(KVM_CREATE_VCPU, uintptr_t{3}));
  vm = Handle();
  kvm_regs regs;
  EXPECT_EQ(vcpu(KVM_GET_REGS, &regs), 0);
}

TEST(Handles, AVcpuOutlivesItsDescriptor) {
  Handle system(kSoftkvm, open_system());
  Handle vm(kSoftkvm, system(KVM_CREATE_VM));
  softkvm::close(vm(KVM_CREATE_VCPU, uintptr_t{0}));
  EXPECT_EQ(vm(KVM_CREATE_VCPU, uintptr_t{0}), -EEXIST);
}

TEST(Handles, ANumberClosedByOthersAndReusedIsNotConfused) {
  Handle system(kSoftkvm, open_system());
  int vm = system(KVM_CREATE_VM);
  ::close(vm);
  int null = ::open("/dev/null", O_RDONLY);
  ASSERT_EQ(null, vm);
  EXPECT_EQ(softkvm::ioctl(null, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), -ENOTTY);
  ::close(null);
  EXPECT_EQ(softkvm::ioctl(null, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), -ENOTTY);
}

TEST(Handles, TheChildOfAForkMayNotUseThem) {
  Machine m(kSoftkvm, Machine::Irqchip::kKernel);
  pid_t child = ::fork();
  if (child == 0) {
    kvm_regs regs;
    bool good = m.vcpu(KVM_GET_REGS, &regs) == -EIO && m.vcpu(KVM_RUN) == -EIO && m.vm(KVM_CHECK_EXTENSION, 3ul) == -EIO &&
                m.system(KVM_GET_API_VERSION) == 12;
    int own = m.system(KVM_CREATE_VM);
    good = good && own >= 0 && softkvm::ioctl(own, KVM_CHECK_EXTENSION, 3) == 1;
    good = good && softkvm::close(m.vcpu.release()) == 0 && softkvm::close(m.vm.release()) == 0;
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  kvm_regs regs;
  EXPECT_EQ(m.vcpu(KVM_GET_REGS, &regs), 0);
}

TEST(Handles, VmsMayBeMadeAndDroppedFromManyThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([] {
      for (int round = 0; round < 8; round++) {
        Machine m(kSoftkvm, Machine::Irqchip::kKernel);
        kvm_regs regs;
        EXPECT_EQ(m.vcpu(KVM_GET_REGS, &regs), 0);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(Handles, PollIsAlwaysReady) {
  Machine m(kSoftkvm);
  pollfd entry{m.vm.fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 0), 1);
}

}  // namespace
}  // namespace vireo::softkvm::test
