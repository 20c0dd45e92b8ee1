// SPDX-License-Identifier: Apache-2.0
// A program that knows nothing of this library: run with it preloaded (ctest sets LD_PRELOAD), it finds softkvm behind /dev/kvm by libc's
// names. What is expected is what the kernel's module does. Spec: Documentation/virt/kvm/api.rst; sigaction(2).
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

extern "C" int __open64_2(const char* path, int flags);
extern "C" int __openat_2(int directory, const char* path, int flags);
extern "C" int __lxstat(int version, const char* path, struct stat* out);
extern "C" int __fxstatat(int version, int directory, const char* path, struct stat* out, int flags);
extern "C" ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t room, int flags);

// An allocator that gives memory back when it is asked for some, as jemalloc does.
extern "C" void* __libc_malloc(size_t size);
static std::atomic<uint8_t*> given_back{nullptr};
extern "C" void* malloc(size_t size) {
  if (uint8_t* page = given_back) ::madvise(page, 4096, MADV_DONTNEED);
  return __libc_malloc(size);
}

namespace {

constexpr size_t kMemory = 1 << 16;

// One vCPU in real mode at 0:0x1000, on 64 KiB.
struct Machine {
  int system = ::open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1, vcpu = -1;
  uint8_t* memory = static_cast<uint8_t*>(::mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  kvm_run* run = nullptr;

  Machine() {
    vm = ::ioctl(system, KVM_CREATE_VM, 0);
    kvm_userspace_memory_region region{0, 0, 0, kMemory, reinterpret_cast<uintptr_t>(memory)};
    EXPECT_EQ(::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
    vcpu = ::ioctl(vm, KVM_CREATE_VCPU, 0);
    run = static_cast<kvm_run*>(::mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
    EXPECT_NE(run, MAP_FAILED);
    kvm_sregs sregs;
    EXPECT_EQ(::ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = 0, sregs.cs.selector = 0;
    EXPECT_EQ(::ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
    at(0x1000);
  }
  ~Machine() {
    ::munmap(run, 3 * 4096);
    for (int fd : {vcpu, vm, system}) ::close(fd);
    ::munmap(memory, kMemory);
  }
  void at(uint64_t rip) {
    kvm_regs regs{};
    regs.rip = rip, regs.rflags = 2, regs.rsp = 0x8000;
    EXPECT_EQ(::ioctl(vcpu, KVM_SET_REGS, &regs), 0);
  }
  void code(std::initializer_list<uint8_t> bytes) { std::copy(bytes.begin(), bytes.end(), memory + 0x1000); }
  // The value of the next OUT to port 0x10.
  int next_out() {
    if (::ioctl(vcpu, KVM_RUN, 0) != 0 || run->exit_reason != KVM_EXIT_IO) return -1;
    return reinterpret_cast<uint8_t*>(run)[run->io.data_offset];
  }
};

// mov al, VALUE; out 0x10, al; jmp to the start
#define SAYS(value) {0xb0, value, 0xe6, 0x10, 0xeb, 0xfa}
#define SPINS {0xeb, 0xfe}

TEST(Preload, EveryNameOfOpenGivesSoftkvm) {
  for (int fd : {::open("/dev/kvm", O_RDWR), ::open64("/dev/kvm", O_RDWR), ::openat(AT_FDCWD, "/dev/kvm", O_RDWR),
                 ::openat64(AT_FDCWD, "/dev/kvm", O_RDWR), __open64_2("/dev/kvm", O_RDWR), __openat_2(AT_FDCWD, "/dev/kvm", O_RDWR)}) {
    ASSERT_GE(fd, 0);
    EXPECT_EQ(::ioctl(fd, KVM_GET_API_VERSION, 0), 12);
    EXPECT_EQ(::fcntl(fd, F_GETFD), 0);
    EXPECT_EQ(::close(fd), 0);
    EXPECT_EQ(::close(fd), -1);
    EXPECT_EQ(errno, EBADF);
  }
  struct stat status;
  EXPECT_EQ(::stat("/dev/kvm", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
  status = {};
  EXPECT_EQ(__lxstat(1, "/dev/kvm", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
  status = {};
  EXPECT_EQ(__fxstatat(1, AT_FDCWD, "/dev/kvm", &status, 0), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
  EXPECT_EQ(::access("/dev/kvm", R_OK | W_OK), 0);
}

TEST(Preload, OpenRefusesWhatADeviceIsNot) {
  ASSERT_NE(::getenv("LD_PRELOAD"), nullptr) << "without the library this would make a file of that name";
  EXPECT_EQ(::open("/dev/kvm", O_RDWR | O_CREAT | O_EXCL, 0600), -1);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_EQ(::open("/dev/kvm", O_RDONLY | O_DIRECTORY), -1);
  EXPECT_EQ(errno, ENOTDIR);
  const int fd = ::open("/dev/kvm", O_RDWR | O_CREAT, 0600);
  EXPECT_GE(fd, 0);
  ::close(fd);
}

// QEMU 7.2 makes leaf 0xD of its guests from the CPU's own CPUID (kvm_cpu_xsave_init()): a component that the CPU lacks would lie at offset 0.
TEST(Preload, NoStateComponentIsOfferedThatTheCpuLacks) {
  int system = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  ASSERT_GE(system, 0);
  std::vector<uint64_t> bytes((sizeof(kvm_cpuid2) + 256 * sizeof(kvm_cpuid_entry2)) / 8 + 1);
  auto* list = reinterpret_cast<kvm_cpuid2*>(bytes.data());
  list->nent = 256;
  ASSERT_EQ(ioctl(system, KVM_GET_SUPPORTED_CPUID, list), 0);
  unsigned seen = 0;
  for (unsigned i = 0; i < list->nent; i++) {
    const kvm_cpuid_entry2& e = list->entries[i];
    if (e.function != 0xd || e.index < 2 || !e.eax) continue;
    unsigned a, b, c, d;
    __cpuid_count(0xd, e.index, a, b, c, d);
    EXPECT_EQ(e.eax, a) << e.index;
    EXPECT_EQ(e.ebx, b) << e.index;
    seen++;
  }
  EXPECT_GT(seen, 0u);
  close(system);
}

TEST(Preload, HandlesAreDescriptors) {
  Machine m;
  m.code(SAYS(7));
  int copy = ::dup(m.vcpu), other = ::fcntl(m.vcpu, F_DUPFD_CLOEXEC, 100), onto = ::dup2(m.vm, ::dup(m.system));
  ASSERT_GE(other, 100);
  EXPECT_EQ(::ioctl(onto, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
  ::close(m.vcpu);
  m.vcpu = copy;
  EXPECT_EQ(m.next_out(), 7);
  ::close(m.vcpu);
  m.vcpu = other;
  EXPECT_EQ(m.next_out(), 7);
  pollfd poll{m.vm, POLLIN, 0};
  EXPECT_EQ(::poll(&poll, 1, 0), 1);  // as of any file without a poll of its own
  EXPECT_EQ(::ioctl(m.vm, KVM_RUN, 0), -1);
  EXPECT_EQ(errno, ENOTTY);
  EXPECT_EQ(::ioctl(m.vm, FIONREAD + 0x7000, 0), -1);
  ::close(onto);
}

TEST(Preload, WhatFailsLeavesTheHandle) {
  Machine m;
  m.code(SAYS(5));
  EXPECT_EQ(::dup3(m.system, m.vcpu, 1), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(::dup2(-1, m.vcpu), -1);
  EXPECT_EQ(::close_range(static_cast<unsigned>(m.vcpu), static_cast<unsigned>(m.vcpu), 1 << 20), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(m.next_out(), 5);
}

TEST(Preload, ANumberThatIsSomethingElseIsNoHandle) {
  Machine m;
  m.code(SAYS(5));
  const int nothing = ::open("/dev/null", O_RDWR);
  int high = ::fcntl(m.vcpu, F_DUPFD, 900);
  for (unsigned way = 0; way < 4; way++) {
    EXPECT_EQ(::dup2(m.vcpu, high), high);
    std::swap(m.vcpu, high);
    EXPECT_EQ(m.next_out(), 5) << way;
    std::swap(m.vcpu, high);
    switch (way) {
      case 0: EXPECT_EQ(::dup2(nothing, high), high); break;
      case 1: EXPECT_EQ(::dup3(nothing, high, O_CLOEXEC), high); break;
      case 2: EXPECT_EQ(::close_range(static_cast<unsigned>(high), ~0u, 0), 0); break;
      case 3: ::closefrom(high); break;
    }
    EXPECT_EQ(::ioctl(high, KVM_RUN, 0), -1);
    EXPECT_EQ(errno, way < 2 ? ENOTTY : EBADF) << way;
  }
  ::close(nothing);
  EXPECT_EQ(m.next_out(), 5);
}

TEST(Preload, AForksChildMayNotUseTheParentsVm) {
  Machine m;
  m.code(SAYS(1));
  pid_t child = ::fork();
  if (child == 0) {
    errno = 0;
    bool refused = ::ioctl(m.vcpu, KVM_RUN, 0) == -1 && errno == EIO;
    ::_exit(refused ? 0 : 1);
  }
  int status;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(m.next_out(), 1);
}

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

TEST(Preload, TheProgramsDlerrorIsItsOwn) {
  EXPECT_EQ(::dlopen("/nowhere/at/all.so", RTLD_LAZY), nullptr);
  // None of them has been called before.
  iovec nothing{nullptr, 0};
  struct stat status;
  ::preadv2(-1, &nothing, 1, 0, 0);
  ::recv(-1, nullptr, 0, 0);
  ::lstat("/", &status);
  ::faccessat(AT_FDCWD, "/", F_OK, 0);
  EXPECT_NE(::dlerror(), nullptr);
}

// A plugin's call of io_submit comes here by its name, and libaio is not in RTLD_NEXT's reach.
TEST(Preload, APluginsLibraryIsFoundThatNobodyElseHas) {
  void* plugin = ::dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(plugin, nullptr) << ::dlerror();
  for (const char* name : {"submit_aio", "submit_ring"}) {
    auto* submit = reinterpret_cast<int (*)()>(::dlsym(plugin, name));
    ASSERT_NE(submit, nullptr);
    EXPECT_EQ(submit(), 4711) << name;
  }
  EXPECT_EQ(reinterpret_cast<int (*)()>(::dlsym(plugin, "submit_to_nobody"))(), -ENOSYS);
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

TEST(Preload, NewCodeRunsAfterTheProgramHasWrittenIt) {
  Machine m;
  for (uint8_t value = 1; value < 50; value++) {
    m.code(SAYS(value));
    m.at(0x1000);
    EXPECT_EQ(m.next_out(), value);
  }
}

TEST(Preload, NewCodeRunsAfterTheProgramHasMappedIt) {
  Machine m;
  for (uint8_t value = 1; value < 10; value++) {
    void* page = ::mmap(m.memory + 0x1000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ASSERT_EQ(page, m.memory + 0x1000);
    m.code(SAYS(value));
    m.at(0x1000);
    EXPECT_EQ(m.next_out(), value);
  }
}

// A polling driver: the vCPU never leaves guest code. The device reads the new code in, then says so in memory.
TEST(Preload, APollingGuestRunsWhatWasReadIn) {
  Machine m;
  // again: cmp byte [0x4000], 0; je again; call 0x2000; jmp again
  m.code({0x80, 0x3e, 0x00, 0x40, 0x00, 0x74, 0xf9, 0xe8, 0xf6, 0x0f, 0xeb, 0xf4});
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
  auto take = [&](unsigned way, void* to, size_t size) -> ssize_t {
    iovec vector{to, size};
    mmsghdr message{};
    message.msg_hdr.msg_iov = &vector, message.msg_hdr.msg_iovlen = 1;
    switch (way % 4) {
      case 0: return ::read(ends[0], to, size);
      case 1: return __recv_chk(ends[0], to, size, size, 0);
      case 2: return ::recvmsg(ends[0], &message.msg_hdr, 0);
      default: return ::recvmmsg(ends[0], &message, 1, 0, nullptr) == 1 ? message.msg_len : -1;
    }
  };
  std::atomic<bool> stop{false};
  // 0x2000: mov byte [0x4000], 0; mov byte [0x4001], VALUE; ret
  auto body = [](uint8_t value) { return std::array<uint8_t, 11>{0xc6, 0x06, 0x01, 0x40, value, 0xc6, 0x06, 0x00, 0x40, 0x00, 0xc3}; };
  auto* flags = reinterpret_cast<volatile uint8_t*>(m.memory + 0x4000);
  unsigned wrong = 0, done = 0;
  pthread_t runner = ::pthread_self();
  ::signal(SIGUSR1, [](int) {});
  std::thread device([&] {
    for (unsigned n = 1; n <= 200; n++) {
      const uint8_t value = static_cast<uint8_t>(n % 250 + 1);
      auto bytes = body(value);
      ASSERT_EQ(::write(ends[1], bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
      ASSERT_EQ(take(n, m.memory + 0x2000, bytes.size()), static_cast<ssize_t>(bytes.size()));
      std::atomic_thread_fence(std::memory_order_seq_cst);
      flags[0] = 1;
      for (unsigned waited = 0; flags[0] != 0 && waited < 5000; waited++) ::usleep(waited < 50 ? 10 : 1000);
      if (flags[0] != 0) break;
      done++;
      if (flags[1] != value) wrong++;
    }
    stop = true;
    ::pthread_kill(runner, SIGUSR1);
  });
  while (!stop) {
    if (::ioctl(m.vcpu, KVM_RUN, 0) == -1 && errno == EINTR) continue;
    ADD_FAILURE() << "exit " << m.run->exit_reason;
    break;
  }
  device.join();
  EXPECT_EQ(done, 200u);
  EXPECT_EQ(wrong, 0u);
  ::close(ends[0]), ::close(ends[1]);
}

// The same, but the device is another process that has been given the memory's file, as with vhost-user: nobody sees what it writes.
TEST(Preload, APollingGuestRunsWhatAnotherProcessHasWritten) {
  Machine m;
  int memory = ::memfd_create("memory", 0);
  ASSERT_EQ(::ftruncate(memory, kMemory), 0);
  m.memory = static_cast<uint8_t*>(::mmap(m.memory, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, 0));
  ASSERT_NE(m.memory, MAP_FAILED);
  // xor cx, cx; again: out 0x20, al; wait: cmp byte [0x4000], 0; je wait; mov byte [0x4000], 0; mov bx, 0x3000; call bx; cmp al, [0x4001];
  // jne bad; inc cx; cmp cx, 500; jne again; mov al, 1; out 0x10, al; bad: mov al, 0; out 0x10, al
  m.code({0x31, 0xc9, 0xe6, 0x20, 0x80, 0x3e, 0x00, 0x40, 0x00, 0x74, 0xf9, 0xc6, 0x06, 0x00, 0x40, 0x00, 0xbb, 0x00, 0x30, 0xff, 0xd3,
          0x3a, 0x06, 0x01, 0x40, 0x75, 0x0b, 0x41, 0x81, 0xf9, 0xf4, 0x01, 0x75, 0xe0, 0xb0, 0x01, 0xe6, 0x10, 0xb0, 0x00, 0xe6, 0x10});
  const int bell = ::eventfd(0, 0);
  kvm_ioeventfd rung{};
  rung.addr = 0x20, rung.len = 1, rung.fd = bell, rung.flags = KVM_IOEVENTFD_FLAG_PIO;
  ASSERT_EQ(::ioctl(m.vm, KVM_IOEVENTFD, &rung), 0);
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const pid_t device = ::fork();
  ASSERT_GE(device, 0);
  if (device == 0) {
    char byte;
    iovec data{&byte, 1};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &data, message.msg_iovlen = 1, message.msg_control = space, message.msg_controllen = sizeof space;
    if (::recvmsg(ends[1], &message, 0) != 1) ::_exit(1);
    int fd;
    std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    auto* at = static_cast<volatile uint8_t*>(::mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    for (unsigned n = 1;; n++) {
      uint64_t count;
      if (::read(bell, &count, sizeof count) != sizeof count) ::_exit(1);
      const auto value = static_cast<uint8_t>(n % 251);
      at[0x3000] = 0xb0;  // mov al, VALUE; ret
      at[0x3001] = value;
      at[0x3002] = 0xc3;
      at[0x4001] = value;
      std::atomic_thread_fence(std::memory_order_seq_cst);
      at[0x4000] = 1;
    }
  }
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1, message.msg_control = space, message.msg_controllen = sizeof space;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &memory, sizeof memory);
  ASSERT_EQ(::sendmsg(ends[0], &message, 0), 1);
  EXPECT_EQ(m.next_out(), 1);
  ::kill(device, SIGKILL);
  ::waitpid(device, nullptr, 0);
  for (int fd : {bell, memory, ends[0], ends[1]}) ::close(fd);
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

TEST(Preload, TheStatisticsCountExits) {
  Machine m;
  m.code(SAYS(1));
  int fd = ::ioctl(m.vcpu, KVM_GET_STATS_FD, 0);
  ASSERT_GE(fd, 0);
  kvm_stats_header header;
  ASSERT_EQ(::pread(fd, &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  auto value_of = [&](const char* wanted) -> uint64_t {
    const size_t size = sizeof(kvm_stats_desc) + header.name_size;
    for (unsigned i = 0; i < header.num_desc; i++) {
      char buffer[512];
      EXPECT_EQ(::pread(fd, buffer, size, static_cast<off_t>(header.desc_offset + i * size)), static_cast<ssize_t>(size));
      kvm_stats_desc desc;
      std::memcpy(&desc, buffer, sizeof desc);
      if (std::strcmp(buffer + sizeof desc, wanted) != 0) continue;
      uint64_t value = 0;
      EXPECT_EQ(::pread(fd, &value, 8, static_cast<off_t>(header.data_offset + desc.offset)), 8);
      return value;
    }
    ADD_FAILURE() << wanted;
    return 0;
  };
  const uint64_t before = value_of("io_exits");
  for (int i = 0; i < 5; i++) EXPECT_EQ(m.next_out(), 1);
  EXPECT_EQ(value_of("io_exits"), before + 5);
  EXPECT_EQ(::write(fd, "x", 1), -1);
  ::close(fd);
}

// Guest memory is put into a file for guest user code on the bare CPU (lending.cpp). What the program sees of it must not change.
struct SharedMemory {
  static constexpr size_t kSize = 8 << 20;
  uint8_t* at = static_cast<uint8_t*>(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ~SharedMemory() { ::munmap(at, kSize); }
};

// Rights and VmFlags of the mapping at an address, from /proc/self/smaps; "" where nothing is mapped.
std::string mapping_of(const void* address) {
  std::ifstream file("/proc/self/smaps");
  std::string line, found;
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  while (std::getline(file, line)) {
    uintptr_t from, to;
    char rights[5];
    if (std::sscanf(line.c_str(), "%zx-%zx %4s", &from, &to, rights) == 3) {
      if (!found.empty()) return found;
      if (wanted >= from && wanted < to) found = rights;
    } else if (!found.empty() && line.starts_with("VmFlags:")) {
      return found + line.substr(8) + " ";
    }
  }
  return found;
}
bool shared(const void* address) { return mapping_of(address).starts_with("rw-s"); }

int set_slot(int vm, uint32_t slot, uint64_t guest, size_t size, const void* host, uint32_t flags = 0) {
  kvm_userspace_memory_region region{slot, flags, guest, size, reinterpret_cast<uintptr_t>(host)};
  return ::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

TEST(Lending, MemoryIsAFilesAndHoldsWhatItHeld) {
  Machine m;
  SharedMemory memory;
  for (size_t i = 0; i < memory.kSize; i += 3 * 4096 + 8) std::memcpy(memory.at + i, &i, sizeof i);
  ASSERT_EQ(::madvise(memory.at, memory.kSize, MADV_DONTFORK), 0);
  ASSERT_EQ(::madvise(memory.at, memory.kSize, MADV_DONTDUMP), 0);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  const std::string now = mapping_of(memory.at);
  EXPECT_TRUE(now.starts_with("rw-s")) << now;
  EXPECT_NE(now.find(" dc "), std::string::npos) << now;
  EXPECT_NE(now.find(" dd "), std::string::npos) << now;
  for (size_t i = 0; i < memory.kSize; i += 3 * 4096 + 8) {
    size_t held;
    std::memcpy(&held, memory.at + i, sizeof held);
    ASSERT_EQ(held, i);
  }
  // Again, as another slot and in another VM: it stays where it is.
  memory.at[5] = 77;
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, 0, memory.at), 0);
  ASSERT_EQ(set_slot(m.vm, 1, 2 << 20, memory.kSize, memory.at), 0);
  Machine other;
  ASSERT_EQ(set_slot(other.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  EXPECT_EQ(memory.at[5], 77);
  EXPECT_TRUE(shared(memory.at));
}

TEST(Lending, TheGuestSeesTheProgramsMemory) {
  Machine m;
  SharedMemory memory;
  std::memset(memory.at, 0xf4, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 64 << 10, memory.kSize, memory.at), 0);
  memory.at[0x10] = 42;
  // mov ax, 0x1000; mov ds, ax; mov al, [0x10]; inc byte [0x10]; out 0x10, al; hlt
  m.code({0xb8, 0x00, 0x10, 0x8e, 0xd8, 0xa0, 0x10, 0x00, 0xfe, 0x06, 0x10, 0x00, 0xe6, 0x10, 0xf4});
  m.at(0x1000);
  EXPECT_EQ(m.next_out(), 42);
  EXPECT_EQ(memory.at[0x10], 43);
}

TEST(Lending, WhatDropsPrivatePagesDropsThem) {
  Machine m;
  SharedMemory memory;
  std::memset(memory.at, 1, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  ASSERT_TRUE(shared(memory.at));
  ASSERT_EQ(::madvise(memory.at + 4096, 8192, MADV_DONTNEED), 0);
  EXPECT_EQ(memory.at[4095], 1);
  EXPECT_EQ(memory.at[4096], 0);
  EXPECT_EQ(memory.at[4096 + 8191], 0);
  EXPECT_EQ(memory.at[4096 + 8192], 1);
  ASSERT_EQ(::madvise(memory.at + (1 << 20), 4096, MADV_FREE), 0);
  EXPECT_EQ(memory.at[(1 << 20) - 1], 1);
  // With what lies behind it, which is private still.
  auto* more = static_cast<uint8_t*>(::mmap(nullptr, 3 * memory.kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(more, MAP_FAILED);
  std::memset(more, 2, 3 * memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 2, 64 << 20, memory.kSize, more + memory.kSize), 0);
  ASSERT_TRUE(shared(more + memory.kSize));
  ASSERT_FALSE(shared(more + 2 * memory.kSize));
  ASSERT_EQ(::madvise(more, 3 * memory.kSize, MADV_DONTNEED), 0);
  for (size_t i = 0; i < 3 * memory.kSize; i += 4096) ASSERT_EQ(more[i], 0) << i;
  ::munmap(more, 3 * memory.kSize);
}

TEST(Lending, MappingsOfTheProgramsOwnEndIt) {
  Machine m;
  SharedMemory memory;
  std::memset(memory.at, 1, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  // A page in its middle becomes private again; what is beside it stays, and is dropped as before.
  ASSERT_EQ(::mmap(memory.at + (4 << 20), 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), memory.at + (4 << 20));
  EXPECT_FALSE(shared(memory.at + (4 << 20)));
  memory.at[4 << 20] = 3;
  ASSERT_EQ(::madvise(memory.at, memory.kSize, MADV_DONTNEED), 0);
  for (size_t i = 0; i < memory.kSize; i += 4096) ASSERT_EQ(memory.at[i], 0) << i;
  // All of it anew, in the same place, without libc: found at the next slot.
  ASSERT_EQ(::syscall(SYS_mmap, memory.at, memory.kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), reinterpret_cast<long>(memory.at));
  std::memset(memory.at, 9, 4096);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, 0, memory.at), 0);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  EXPECT_TRUE(shared(memory.at));
  EXPECT_EQ(memory.at[4095], 9);
  EXPECT_EQ(memory.at[4096], 0);
}

TEST(Lending, WhatWouldNotBeTheSameStays) {
  Machine m;
  SharedMemory wiped, locked, small, named;
  ASSERT_EQ(::madvise(wiped.at, wiped.kSize, MADV_WIPEONFORK), 0);
  ASSERT_EQ(::mlock(locked.at, 4096), 0);
  int file = ::memfd_create("image", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(file, named.kSize), 0);
  ASSERT_EQ(::mmap(named.at, named.kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0), named.at);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, wiped.kSize, wiped.at), 0);
  ASSERT_EQ(set_slot(m.vm, 2, 16 << 20, locked.kSize, locked.at), 0);
  ASSERT_EQ(set_slot(m.vm, 3, 32 << 20, 1 << 20, small.at), 0);
  ASSERT_EQ(set_slot(m.vm, 4, 48 << 20, named.kSize, named.at), 0);
  for (const SharedMemory* each : {&wiped, &locked, &small, &named}) EXPECT_FALSE(shared(each->at));
  ::close(file);
  EXPECT_EQ(set_slot(m.vm, 5, 64 << 20, 4096, reinterpret_cast<void*>(1)), -1);
  EXPECT_EQ(::ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, 1), -1);
  EXPECT_EQ(errno, EFAULT);
}

// Its copy it is no more, but what a child drops stays the program's.
TEST(Lending, AForksChildDropsNothing) {
  Machine m;
  SharedMemory memory;
  std::memset(memory.at, 7, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(::madvise(memory.at, memory.kSize, MADV_DONTNEED) == 0 && ::munmap(memory.at, memory.kSize) == 0 ? 0 : 1);
  int status;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  for (size_t i = 0; i < memory.kSize; i += 4096) ASSERT_EQ(memory.at[i], 7) << i;
  ASSERT_EQ(::madvise(memory.at, memory.kSize, MADV_DONTNEED), 0);
  EXPECT_EQ(memory.at[0], 0);
}

// The slots of a board's memory: a small one at 0, and the rest behind a hole for the VGA's. The first comes along.
TEST(Lending, TheFirstMegabyteComesWithTheRest) {
  Machine m;
  SharedMemory memory;
  ASSERT_EQ(set_slot(m.vm, 0, 0, 0, m.memory), 0);
  ASSERT_EQ(set_slot(m.vm, 0, 0, 640 << 10, memory.at), 0);
  EXPECT_FALSE(shared(memory.at));
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize - (1 << 20), memory.at + (1 << 20)), 0);
  EXPECT_TRUE(shared(memory.at));
  EXPECT_TRUE(shared(memory.at + (1 << 20)));
}

// Descriptors of this process that are of the file mapped at an address: each that a range of it, or a VM that it is lent to, has is one.
unsigned descriptors_of(const void* address) {
  struct stat wanted = {}, info;
  std::ifstream file("/proc/self/maps");
  for (std::string line; std::getline(file, line);) {
    uintptr_t from, to;
    unsigned long inode;
    if (std::sscanf(line.c_str(), "%zx-%zx %*s %*s %*s %lu", &from, &to, &inode) != 3) continue;
    if (reinterpret_cast<uintptr_t>(address) >= from && reinterpret_cast<uintptr_t>(address) < to) wanted.st_ino = inode;
  }
  unsigned found = 0;
  for (int fd = 0; fd < 1024; fd++) found += ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_ino == wanted.st_ino;
  return found;
}

// What a child of fork answers: the exit code, or 1000 and more for a signal.
template <class Body>
int in_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  unsigned waited = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    ::usleep(10000);
    if (++waited == 3000) ::kill(child, SIGKILL);  // it may wait for itself, with signals held
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// Gone and mapped anew behind libc's names, as by free(): pages are dropped of what is there, and never of a file of the program's own.
TEST(Lending, AFileInTheMemorysPlaceKeepsItsPages) {
  Machine m;
  SharedMemory memory;
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  ASSERT_TRUE(shared(memory.at));
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, 0, memory.at), 0);
  const int file = ::memfd_create("data", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(file, memory.kSize), 0);
  ASSERT_EQ(::syscall(SYS_mmap, memory.at, memory.kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0), reinterpret_cast<long>(memory.at));
  std::memset(memory.at, 5, memory.kSize);
  ASSERT_EQ(::madvise(memory.at, memory.kSize, MADV_DONTNEED), 0);
  for (size_t i = 0; i < memory.kSize; i += 4096) ASSERT_EQ(memory.at[i], 5) << i;
  ::close(file);
  ASSERT_EQ(::syscall(SYS_mmap, memory.at, memory.kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), reinterpret_cast<long>(memory.at));
  std::memset(memory.at, 6, memory.kSize);
  EXPECT_EQ(::madvise(memory.at, memory.kSize, MADV_DONTNEED), 0);
  EXPECT_EQ(memory.at[4096], 0);
}

// Not even if it has a VM of its own.
TEST(Lending, AForksChildWithAVmDropsNothing) {
  Machine m;
  SharedMemory memory;
  std::memset(memory.at, 7, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  EXPECT_EQ(in_child([&] {
    Machine own;
    SharedMemory its;
    if (set_slot(own.vm, 1, 1 << 20, its.kSize, its.at) != 0 || !shared(its.at)) return 1;
    return ::madvise(memory.at, memory.kSize, MADV_DONTNEED) == 0 ? 0 : 2;
  }), 0);
  for (size_t i = 0; i < memory.kSize; i += 4096) ASSERT_EQ(memory.at[i], 7) << i;
}

// Or what the program prints would go to the guest's memory.
TEST(Lending, TheStandardStreamsNumbersStayFree) {
  SharedMemory memory;
  EXPECT_EQ(in_child([&] {
    Machine m;
    ::close(0), ::close(1);
    if (set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at) != 0 || !shared(memory.at)) return 1;
    return ::fcntl(0, F_GETFD) == -1 && ::fcntl(1, F_GETFD) == -1 ? 0 : 2;
  }), 0);
}

// None of these is a point where a thread may be cancelled (pthreads(7)).
TEST(Preload, CancellingWaits) {
  EXPECT_EQ(in_child([] {
    static int reached = 0;
    std::thread([] {
      auto body = [](void*) -> void* {
        SharedMemory memory;
        Machine m;
        set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at);
        reached = 1;
        ::pthread_cancel(::pthread_self());
        const int more = ::ioctl(m.system, KVM_CREATE_VM, 0), copy = ::dup(more);
        reached = 2;
        set_slot(more, 1, 1 << 20, memory.kSize, memory.at);
        reached = 3;
        ::munmap(memory.at, memory.kSize);
        reached = 4;
        ::dup2(m.system, more);
        ::dup2(m.system, copy);
        reached = 5;
        ::pthread_testcancel();
        reached = 6;
        return nullptr;
      };
      pthread_t thread;
      void* result = nullptr;
      ::pthread_create(&thread, nullptr, body, nullptr);
      ::pthread_join(thread, &result);
      if (result != PTHREAD_CANCELED) reached += 10;
    }).join();
    return reached;
  }), 5);
}

// The number that a slot was made by is closed, but the VM has another.
TEST(Lending, AnyNumberOfTheVmWillDo) {
  Machine m;
  SharedMemory memory;
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  const unsigned before = descriptors_of(memory.at);
  const int other = ::dup(m.vm);
  ::close(m.vm);
  m.vm = other;
  // The rest is lent again.
  ASSERT_EQ(::munmap(memory.at + (4 << 20), 4 << 20), 0);
  EXPECT_EQ(descriptors_of(memory.at), before + 1);
}

// map_files takes a right; and a memory's file may be younger than all handles.
TEST(Lending, AFileIsFoundByItsDescriptor) {
  EXPECT_EQ(in_child([] {
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0) return 77;
    Machine m;
    const int file = ::memfd_create("memory", MFD_CLOEXEC), high = ::fcntl(file, F_DUPFD_CLOEXEC, 500);
    ::close(file);
    SharedMemory memory;
    if (::ftruncate(high, memory.kSize) != 0 || ::mmap(memory.at, memory.kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, high, 0) != memory.at) return 1;
    if (set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at) != 0) return 2;
    return descriptors_of(memory.at) == 3 ? 0 : 3;
  }) % 77, 0);
}

// Nothing of it may be written but by the program's own mapping, which cannot be written now.
TEST(Lending, WriteProtectedMemoryIsNotLent) {
  Machine m, other;
  SharedMemory memory;
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  const unsigned before = descriptors_of(memory.at);
  ASSERT_EQ(::mprotect(memory.at + 4096, 4096, PROT_READ), 0);
  ASSERT_EQ(set_slot(other.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  EXPECT_EQ(descriptors_of(memory.at), before);
}

// What a running guest writes while memory is copied would be lost.
TEST(Lending, MemoryOfARunningGuestStaysWhereItIs) {
  Machine m;
  m.code(SAYS(1));
  constexpr size_t kMuch = 66 << 20;
  auto* memory = static_cast<uint8_t*>(::mmap(nullptr, kMuch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memset(memory, 1, kMuch);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, kMuch, memory), 0);
  ASSERT_FALSE(shared(memory));  // too much is in use
  EXPECT_EQ(m.next_out(), 1);
  ASSERT_EQ(::madvise(memory, kMuch / 2, MADV_DONTNEED), 0);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, kMuch, memory, KVM_MEM_LOG_DIRTY_PAGES), 0);
  EXPECT_FALSE(shared(memory));
  ::munmap(memory, kMuch);
}

TEST(Lending, MemoryThatIsMovedOrGrowsIsPrivateAsBefore) {
  Machine m;
  constexpr size_t kSize = 8 << 20;
  auto* memory = static_cast<uint8_t*>(::mmap(nullptr, 2 * kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memset(memory, 1, kSize);
  ::munmap(memory + kSize, kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, kSize, memory), 0);
  ASSERT_TRUE(shared(memory));
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, 0, memory), 0);
  auto* grown = static_cast<uint8_t*>(::mremap(memory, kSize, 3 * kSize, MREMAP_MAYMOVE));
  ASSERT_NE(grown, MAP_FAILED);
  EXPECT_EQ(grown[kSize - 1], 1);
  EXPECT_EQ(in_child([&] { return grown[2 * kSize]; }), 0);
  ASSERT_EQ(::madvise(grown, kSize, MADV_DONTNEED), 0);
  EXPECT_EQ(grown[4096], 0);
  ::munmap(grown, 3 * kSize);
}

// The VM still has the file.
TEST(Lending, UnmappedMemoryIsFreed) {
  Machine m;
  SharedMemory memory;
  std::memset(memory.at, 1, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  const int file = [&] {
    struct stat info;
    int newest = -1;
    for (int fd = 0; fd < 1024; fd++) {
      char name[64] = {};
      if (::fstat(fd, &info) == 0 && ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), name, 63) > 0 && std::strstr(name, "vireo-guest-memory")) newest = fd;
    }
    return ::dup(newest);
  }();
  struct stat info;
  ASSERT_EQ(::fstat(file, &info), 0);
  EXPECT_EQ(static_cast<size_t>(info.st_blocks) * 512, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, 0, memory.at), 0);
  ASSERT_EQ(::munmap(memory.at + memory.kSize / 2, memory.kSize / 2), 0);
  ASSERT_EQ(::fstat(file, &info), 0);
  EXPECT_EQ(static_cast<size_t>(info.st_blocks) * 512, memory.kSize / 2);
  EXPECT_EQ(memory.at[4096], 1);
  ASSERT_EQ(::munmap(memory.at, memory.kSize / 2), 0);
  ASSERT_EQ(::fstat(file, &info), 0);
  EXPECT_EQ(info.st_blocks, 0);
  ::close(file);
}

// Registered before any of the library's, so that it comes last before a fork.
const int allocates_over_fork = ::pthread_atfork([] {
  void* volatile some = ::malloc(1);
  ::free(some);
}, nullptr, nullptr);

// An allocator's calls come in the midst of ours, when memory is looked for.
TEST(Lending, AnAllocatorMayGiveMemoryBackAnywhere) {
  EXPECT_EQ(in_child([] {
    Machine m;
    SharedMemory first, between, last;
    if (set_slot(m.vm, 1, 16 << 20, first.kSize, first.at) != 0 || set_slot(m.vm, 2, 32 << 20, last.kSize, last.at) != 0) return 1;
    given_back = between.at;
    const int result = set_slot(m.vm, 3, 64 << 20, between.kSize / 2, between.at + between.kSize / 2);
    // Handlers of a fork that come behind ours.
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    int status = 1;
    ::waitpid(child, &status, 0);
    given_back = nullptr;
    return result == 0 && status == 0 ? 0 : 2;
  }), 0);
}

}  // namespace
