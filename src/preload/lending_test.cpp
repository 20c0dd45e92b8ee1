// SPDX-License-Identifier: Apache-2.0
// Guest memory is put into a file for guest user code on the bare CPU (lending.cpp). What the program sees of it must not change.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "preload/test_machine.h"

// An allocator that gives memory back when it is asked for some, as jemalloc does.
extern "C" void* __libc_malloc(size_t size);
static std::atomic<uint8_t*> given_back{nullptr};
static std::atomic<int> given_advice{MADV_DONTNEED};
extern "C" void* malloc(size_t size) {
  if (uint8_t* page = given_back) ::madvise(page, 4096, given_advice);
  return __libc_malloc(size);
}

namespace {

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

// Nor one that no handlers of a fork have run for.
TEST(Lending, AClonesChildDropsNothing) {
  Machine m;
  SharedMemory memory;
  std::memset(memory.at, 7, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  for (const bool raw : {true, false}) {
    const auto child = raw ? static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)) : ::_Fork();
    if (child == 0) ::_exit(::madvise(memory.at, memory.kSize / 2, MADV_DONTNEED) == 0 && ::munmap(memory.at, memory.kSize) == 0 ? 0 : 1);
    int status;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    for (size_t i = 0; i < memory.kSize; i += 4096) ASSERT_EQ(memory.at[i], 7) << i;
  }
  ASSERT_EQ(::madvise(memory.at, memory.kSize, MADV_DONTNEED), 0);
  EXPECT_EQ(memory.at[0], 0);
}

// More pieces than are lent, and more than there are descriptors for.
TEST(Lending, EveryPieceIsDroppedOfWhatIsLeft) {
  EXPECT_EQ(in_child([] {
    Machine m;
    SharedMemory memory;
    std::memset(memory.at, 1, memory.kSize);
    if (set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at) != 0 || !shared(memory.at)) return 1;
    for (size_t i = 0; i < memory.kSize / 2; i += 2 * 4096)
      if (::mmap(memory.at + i, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) return 2;
    const rlimit none{3, 3};
    if (::setrlimit(RLIMIT_NOFILE, &none) != 0 || ::munmap(memory.at + memory.kSize - 8 * 4096, 4096) != 0) return 3;
    if (::mmap(memory.at + memory.kSize - 4 * 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) return 4;
    SharedMemory other;
    if (set_slot(m.vm, 2, 64 << 20, other.kSize, other.at) != 0) return 5;
    if (::madvise(memory.at, memory.kSize - 8 * 4096, MADV_DONTNEED) != 0 || ::madvise(memory.at + memory.kSize - 7 * 4096, 7 * 4096, MADV_DONTNEED) != 0) return 6;
    for (size_t i = 0; i < memory.kSize; i += 4096)
      if (i != memory.kSize - 8 * 4096 && memory.at[i] != 0) return 7;
    return 0;
  }), 0);
}

// Writes a name behind memory in what this process reads as its smaps, for kernels that name none. Needs the right to mount.
bool name_in_smaps(const void* address, const char* smaps) {
  std::ifstream real("/proc/self/smaps");
  std::string path = testing::TempDir() + "smapsXXXXXX";
  const int file = ::mkstemp(path.data());
  std::string text;
  for (std::string line; std::getline(real, line); text += line + "\n") {
    uintptr_t from, to;
    if (std::sscanf(line.c_str(), "%zx-%zx %*s", &from, &to) == 2 && reinterpret_cast<uintptr_t>(address) >= from && reinterpret_cast<uintptr_t>(address) < to) line += "  [anon:guest]";
  }
  const bool done = ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && ::unshare(CLONE_NEWNS) == 0 &&
                    ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 && ::mount(path.c_str(), smaps, nullptr, MS_BIND, nullptr) == 0;
  ::unlink(path.c_str());
  return done;
}

TEST(Lending, MemoryWithANameIsPrivateMemory) {
  EXPECT_EQ(in_child([] {
    Machine m;
    SharedMemory memory;
    const std::string smaps = "/proc/" + std::to_string(::getpid()) + "/smaps";
    const bool named = ::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory.at, memory.kSize, "guest") == 0;
    if (!named && !name_in_smaps(memory.at, smaps.c_str())) return 77;
    if (set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at) != 0) return 1;
    if (!named && ::umount(smaps.c_str()) != 0) return 2;
    return shared(memory.at) ? 0 : 3;
  }) % 77, 0);
}

// A filter is a thread's, not a process's.
TEST(Lending, NothingIsLentBehindAFilterOfTheThread) {
  Machine m;
  SharedMemory memory;
  std::thread([&] {
    sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const sock_fprog filter{1, &allow};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
    ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  }).join();
  EXPECT_FALSE(shared(memory.at));
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, 0, memory.at), 0);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  EXPECT_TRUE(shared(memory.at));
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
  EXPECT_EQ(descriptors_of(memory.at), before);
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
  EXPECT_EQ(descriptors_of(memory.at), before - 1);
  ASSERT_EQ(set_slot(other.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  EXPECT_EQ(descriptors_of(memory.at), before - 1);
}

TEST(Lending, MemoryThatIsProtectedByAKeysCallIsNotLent) {
  Machine m;
  SharedMemory memory;
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  const unsigned before = descriptors_of(memory.at);
  ASSERT_EQ(::pkey_mprotect(memory.at + 4096, 4096, PROT_READ, -1), 0);
  EXPECT_EQ(descriptors_of(memory.at), before - 1);
}

// For itself a process may do so since Linux 6.13.
TEST(Lending, PagesAreDroppedByAPidfd) {
  Machine m;
  SharedMemory memory;
  std::memset(memory.at, 1, memory.kSize);
  ASSERT_EQ(set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at), 0);
  const int self = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
  const iovec parts[] = {{memory.at, 8192}, {memory.at + 16384, 4096}};
  const ssize_t done = ::process_madvise(self, parts, 2, MADV_DONTNEED, 0);
  ::close(self);
  if (done < 0) GTEST_SKIP() << "an older kernel";
  ASSERT_EQ(done, 12288);
  for (size_t i = 0; i < 32768; i += 4096) EXPECT_EQ(memory.at[i], i >= 8192 && i != 16384) << i;
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

// By text and by a word for each page, where the kernel answers no questions (PAGEMAP_SCAN, Linux 6.7; PROCMAP_QUERY, 6.11). The filter has to be there when
// the program starts: memory of one that has confined itself since is not lent.
TEST(Lending, AnOlderKernelWillDo) {
  EXPECT_EQ(in_child([] {
    constexpr auto kOffset = static_cast<unsigned>(offsetof(seccomp_data, args[1]));
    sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
                          BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kOffset),
                          BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xfffe),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'f' << 8 | 16, 1, 0),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY)};
    const sock_fprog filter{std::size(code), code};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) return 77;
    ::execl("/proc/self/exe", "preload_test", "--gtest_filter=Lending.M*:Lending.W*", "--gtest_brief=1", nullptr);
    return 78;
  }) % 77, 0);
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

// Or want large pages for what they have got anew.
TEST(Lending, AnAllocatorMayWantLargePagesAnywhere) {
  EXPECT_EQ(in_child([] {
    Machine m;
    SharedMemory memory;
    given_advice = MADV_HUGEPAGE;
    given_back = memory.at;
    int wrong = 0;
    for (size_t i = 0; i < memory.kSize; i += 1 << 20) wrong += ::madvise(memory.at + i, 4096, MADV_HUGEPAGE) != 0 && errno != EINVAL;
    const int result = set_slot(m.vm, 1, 1 << 20, memory.kSize, memory.at);
    given_back = nullptr;
    return result == 0 && wrong == 0 ? 0 : 1;
  }), 0);
}

// In the midst of a read() that is told: of many slots a list of pages with code is made.
TEST(Lending, AnAllocatorMayGiveMemoryBackWhileCodeIsDropped) {
  EXPECT_EQ(in_child([] {
    Machine m;
    m.code(SAYS(1));
    constexpr unsigned kSlots = 300, kLeftOut = 150;
    auto* memory = static_cast<uint8_t*>(::mmap(nullptr, kSlots * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (unsigned i = 0; i < kSlots; i++)
      if (i != kLeftOut && set_slot(m.vm, i + 1, (1 << 20) + i * 4096, 4096, memory + i * 4096) != 0) return 1;
    if (m.next_out() != 1) return 2;
    const int zeros = ::open("/dev/zero", O_RDONLY);
    given_back = memory + kLeftOut * 4096;
    const ssize_t got = ::read(zeros, m.memory + 0x1001, 1);
    given_back = nullptr;
    m.at(0x1000);
    return got == 1 && m.next_out() == 0 ? 0 : 3;
  }), 0);
}

}  // namespace
