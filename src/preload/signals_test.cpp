// SPDX-License-Identifier: Apache-2.0
// The program's signals, faults and cancelling while softkvm is at work. Spec: sigaction(2); pthreads(7).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <thread>

#include "preload/test_machine.h"

namespace {

std::atomic<int> handled;
sigjmp_buf jump;

TEST(Preload, ASignalEndsKvmRun) {
  Machine m;
  m.code(SPINS);
  struct sigaction action = {}, old;
  action.sa_sigaction = [](int number, siginfo_t* info, void*) { handled = number == SIGUSR1 && info->si_pid == ::getpid() ? 1 : -1; };
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  ASSERT_EQ(::sigaction(SIGUSR1, &action, nullptr), 0);
  ASSERT_EQ(::sigaction(SIGUSR1, nullptr, &old), 0);
  EXPECT_EQ(old.sa_sigaction, action.sa_sigaction);  // the program sees its own
  pthread_t runner = ::pthread_self();
  std::thread kicker([runner] {
    ::usleep(50000);
    ::pthread_kill(runner, SIGUSR1);
  });
  handled = 0;
  EXPECT_EQ(::ioctl(m.vcpu, KVM_RUN, 0), -1);
  EXPECT_EQ(errno, EINTR);
  EXPECT_EQ(handled, 1);
  EXPECT_EQ(m.run->exit_reason, static_cast<unsigned>(KVM_EXIT_INTR));
  kicker.join();
}

// The handler runs when KVM_RUN is over, so it may leave by longjmp, and the vCPU goes on afterwards.
TEST(Preload, AHandlerMayJumpOutOfKvmRun) {
  Machine m;
  m.code(SPINS);
  ::signal(SIGUSR2, [](int) { ::siglongjmp(jump, 1); });
  pthread_t runner = ::pthread_self();
  std::thread kicker([runner] {
    ::usleep(50000);
    ::pthread_kill(runner, SIGUSR2);
  });
  if (::sigsetjmp(jump, 1) == 0) {
    ::ioctl(m.vcpu, KVM_RUN, 0);
    ADD_FAILURE() << "KVM_RUN returned before the handler ran";
  }
  kicker.join();
  m.code(SAYS(3));
  m.at(0x1000);
  EXPECT_EQ(m.next_out(), 3);
}

// Signals for one thread, as fast as they are taken.
class Kicked {
 public:
  explicit Kicked(int number) : thread_([this, number, whom = ::pthread_self()] {
    while (!stop_) {
      ::pthread_kill(whom, number);
      for (int i = 0; i < 500; i++) __builtin_ia32_pause();
    }
  }) {}
  ~Kicked() { stop_ = true, thread_.join(); }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

volatile uint8_t* guest_memory;
int zeros;

// Before, the thread waited for itself: alarm() ends the test then.
TEST(Preload, AHandlerMayCloseAndReadWhereverItComes) {
  Machine m;
  m.code(SAYS(4));
  zeros = ::open("/dev/zero", O_RDONLY);
  guest_memory = m.memory + 0x4000;
  struct sigaction action = {}, before;
  action.sa_handler = [](int) {
    int saved = errno;
    const int fd = ::dup(zeros);
    ::dup2(zeros, fd);
    if (::read(fd, const_cast<uint8_t*>(guest_memory), 64) == 64) handled = handled + 1;
    ::close(fd);
    errno = saved;
  };
  action.sa_flags = SA_RESTART;
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  ::alarm(60);
  handled = 0;
  {
    Kicked kicked(SIGUSR1);
    for (unsigned i = 0; handled < 2000; i++) {
      kvm_regs regs;
      ASSERT_EQ(::ioctl(m.vcpu, KVM_GET_REGS, &regs), 0);
      ASSERT_EQ(::pread(zeros, m.memory + 0x5000, 64, 0), 64);
      if (i % 50 == 0) {
        ASSERT_EQ(::close(::dup(m.vm)), 0);
      } else if (i % 50 == 1) {
        const int copy = ::dup(m.vm);
        EXPECT_EQ(::ioctl(copy, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
        EXPECT_EQ(::close(copy), 0);
      }
    }
  }
  ::alarm(0);
  ::sigaction(SIGUSR1, &before, nullptr);
  m.at(0x1000);
  EXPECT_EQ(m.next_out(), 4);
  ::close(zeros);
}

TEST(Preload, AHandlerMayJumpOutOfAnyIoctl) {
  Machine m;
  m.code(SAYS(6));
  static volatile sig_atomic_t ready;
  static volatile int jumps;
  struct sigaction action = {}, before;
  action.sa_handler = [](int) {
    if (!ready) return;
    ready = 0;
    ::siglongjmp(jump, 1);
  };
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  ::alarm(60);
  ready = 0;
  jumps = 0;
  {
    Kicked kicked(SIGUSR1);
    if (::sigsetjmp(jump, 1) != 0) jumps = jumps + 1;
    if (jumps < 2000) {
      ready = 1;
      for (;;) {
        kvm_regs regs;
        ::ioctl(m.vcpu, KVM_GET_REGS, &regs);
        ::ioctl(m.vcpu, KVM_RUN, 0);
      }
    }
  }
  ready = 0;
  m.at(0x1000);
  int said;
  while ((said = m.next_out()) == -1 && errno == EINTR) {}
  EXPECT_EQ(said, 6);
  ::alarm(0);
  ::sigaction(SIGUSR1, &before, nullptr);
}

TEST(Preload, SiginterruptHoldsForSignal) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  _Pragma("GCC diagnostic ignored \"-Wdeprecated-declarations\"")
  ASSERT_EQ(::siginterrupt(SIGALRM, 1), 0);
  ::signal(SIGALRM, [](int) { handled = handled + 1; });
  struct sigaction now;
  ::sigaction(SIGALRM, nullptr, &now);
  EXPECT_EQ(now.sa_flags & SA_RESTART, 0);
  ASSERT_EQ(::siginterrupt(SIGALRM, 0), 0);
  ::sigaction(SIGALRM, nullptr, &now);
  EXPECT_EQ(now.sa_flags & SA_RESTART, SA_RESTART);
  ASSERT_EQ(::siginterrupt(SIGALRM, 1), 0);
  ::signal(SIGALRM, [](int) { handled = handled + 2; });
  handled = 0;
  ::alarm(1);
  char byte;
  EXPECT_EQ(::read(ends[0], &byte, 1), -1);
  EXPECT_EQ(errno, EINTR);
  EXPECT_EQ(handled, 2);
  ASSERT_EQ(::siginterrupt(SIGALRM, 0), 0);
  ::signal(SIGALRM, SIG_DFL);
  ::close(ends[0]), ::close(ends[1]);
}

// System V's functions ask for libc's sigaction inside of libc.
TEST(Preload, FaultsComeThoughSystemVsFunctionsIgnoreThem) {
  Machine m;
  m.code({0xa1, 0x00, 0x80});  // mov ax, [0x8000]
  ::munmap(m.memory + 0x8000, 4096);
  struct sigaction before, now;
  ::sigaction(SIGSEGV, nullptr, &before);
  _Pragma("GCC diagnostic ignored \"-Wdeprecated-declarations\"")
  EXPECT_EQ(::sigignore(SIGSEGV), 0);
  EXPECT_EQ(::sighold(SIGSEGV), 0);
  ::sigaction(SIGSEGV, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_IGN);
  m.at(0x1000);
  EXPECT_EQ(::ioctl(m.vcpu, KVM_RUN, 0), -1);
  EXPECT_EQ(errno, EFAULT);
  ::sigaction(SIGSEGV, &before, nullptr);
  EXPECT_EQ(::sighold(SIGUSR2), 0);
  EXPECT_EQ(::sigset(SIGUSR2, SIG_IGN), SIG_HOLD);
  EXPECT_EQ(::sigset(SIGUSR2, SIG_DFL), SIG_IGN);
}

TEST(Preload, TheProgramsFaultsAreItsOwn) {
  Machine m;
  m.code(SAYS(1));
  struct sigaction action = {}, before;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    handled = info->si_addr == reinterpret_cast<void*>(16) ? 1 : -1;
    ::siglongjmp(jump, 1);
  };
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(::sigaction(SIGSEGV, &action, &before), 0);
  handled = 0;
  volatile uintptr_t nowhere = 16;
  if (::sigsetjmp(jump, 1) == 0) *reinterpret_cast<volatile int*>(nowhere) = 0;
  EXPECT_EQ(handled, 1);
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);  // faults of guest code come all the same
  EXPECT_EQ(m.next_out(), 1);
  ::munmap(m.memory + 0x8000, 4096);
  m.code({0xa1, 0x00, 0x80});  // mov ax, [0x8000]
  m.at(0x1000);
  EXPECT_EQ(::ioctl(m.vcpu, KVM_RUN, 0), -1);
  EXPECT_EQ(errno, EFAULT);
  ::sigemptyset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
  ::sigaction(SIGSEGV, &before, nullptr);
}

TEST(Preload, ACancelledThreadLeavesKvmRun) {
  Machine m;
  m.code(SPINS);
  pthread_t thread;
  auto body = [](void* machine) -> void* {
    ::pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
    ::ioctl(static_cast<Machine*>(machine)->vcpu, KVM_RUN, 0);
    return nullptr;
  };
  ASSERT_EQ(::pthread_create(&thread, nullptr, body, &m), 0);
  ::usleep(50000);
  ASSERT_EQ(::pthread_cancel(thread), 0);
  void* result;
  ASSERT_EQ(::pthread_join(thread, &result), 0);
  EXPECT_EQ(result, PTHREAD_CANCELED);
  m.code(SAYS(9));
  m.at(0x1000);
  EXPECT_EQ(m.next_out(), 9);
}

}  // namespace
