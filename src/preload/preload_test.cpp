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
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "preload/test_machine.h"

extern "C" int __open64_2(const char* path, int flags);
extern "C" int __openat_2(int directory, const char* path, int flags);
extern "C" int __lxstat(int version, const char* path, struct stat* out);
extern "C" int __fxstatat(int version, int directory, const char* path, struct stat* out, int flags);
extern "C" ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t room, int flags);

namespace {

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
  EXPECT_EQ(::eaccess("/dev/kvm", R_OK | W_OK), 0);
  EXPECT_EQ(::euidaccess("/dev/kvm", R_OK | W_OK), 0);
  EXPECT_EQ(::euidaccess("/dev/kvm", X_OK), -1);
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

constexpr const char* kSeveral = "PRELOAD_TEST_SENDS_SEVERAL";

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
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
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
  mmsghdr messages[] = {{message, 0}};
  if (::getenv(kSeveral) != nullptr) ASSERT_EQ(::sendmmsg(ends[0], messages, 1, 0), 1);
  else ASSERT_EQ(::sendmsg(ends[0], &message, 0), 1);
  EXPECT_EQ(m.next_out(), 1);
  ::kill(device, SIGKILL);
  ::waitpid(device, nullptr, 0);
  for (int fd : {bell, memory, ends[0], ends[1]}) ::close(fd);
}

// In a process of its own, which has not learnt of others yet.
TEST(Preload, APollingGuestRunsWhatAReceiverOfSeveralMessagesHasWritten) {
  EXPECT_EQ(in_child([] {
    ::setenv(kSeveral, "1", 1);
    ::execl("/proc/self/exe", "preload_test", "--gtest_filter=Preload.APollingGuestRunsWhatAnotherProcessHasWritten", "--gtest_brief=1", nullptr);
    return 78;
  }), 0);
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

}  // namespace
