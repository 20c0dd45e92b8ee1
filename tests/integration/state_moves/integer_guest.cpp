// SPDX-License-Identifier: Apache-2.0
#include "integer_guest.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>

#include "linux_image.h"
#include "saved_state.h"

// The guest: position-independent, entered with RDI = a table of 512 words, RSI = rounds. A xorshift generator picks a word, which is mixed
// with the sum by add, rotate, multiply, and exchanged; the stack and the flags take part. At the end RAX leaves by port 0xf4, in two halves.
asm(R"(
  .pushsection .rodata
  .globl integer_guest_begin, integer_guest_end
integer_guest_begin:
  movabs $0x9e3779b97f4a7c15, %rbx
  xor %eax, %eax
1:
  mov %rbx, %rcx
  shl $13, %rcx
  xor %rcx, %rbx
  mov %rbx, %rcx
  shr $7, %rcx
  xor %rcx, %rbx
  mov %rbx, %rcx
  shl $17, %rcx
  xor %rcx, %rbx
  mov %ebx, %edx
  and $511, %edx
  add (%rdi,%rdx,8), %rax
  adc $0, %rax
  rol $9, %rax
  imul $0x2545f491, %rax, %r8
  push %r8
  xor %rbx, (%rsp)
  pop %r9
  xchg %r9, (%rdi,%rdx,8)
  call 2f
  dec %rsi
  jnz 1b
  mov $0xf4, %dx
  out %eax, %dx
  shr $32, %rax
  out %eax, %dx
3: hlt
  jmp 3b
2:
  sub %r9, %rax
  ret
integer_guest_end:
  .popsection
)");
extern "C" const uint8_t integer_guest_begin[], integer_guest_end[];

namespace vireo::moves {
namespace {

constexpr size_t kRamSize = 2 << 20;
constexpr uint64_t kTables = 0x1000, kCode = 0x10000, kTable = 0x20000, kStack = 0x40000;
constexpr unsigned kWords = 512;
constexpr uint64_t kRounds = 30'000'000;

uint64_t word(unsigned i) { return i * 0x100000001b3ull + 0xcbf29ce484222325ull; }

// The same computation on the host.
uint64_t expected() {
  uint64_t table[kWords], random = 0x9e3779b97f4a7c15, sum = 0;
  for (unsigned i = 0; i < kWords; i++) table[i] = word(i);
  for (uint64_t round = 0; round < kRounds; round++) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    uint64_t& entry = table[random & (kWords - 1)];
    const uint64_t before = sum;
    sum += entry;
    sum += sum < before;
    sum = sum << 9 | sum >> 55;
    const uint64_t mixed = sum * 0x2545f491 ^ random, old = entry;
    entry = mixed;
    sum -= old;
  }
  return sum;
}

thread_local kvm_run* t_page = nullptr;
thread_local void (*t_interrupt)() = nullptr;
void on_kick(int) {
  if (t_page) *const_cast<volatile uint8_t*>(&t_page->immediate_exit) = 1;
  if (t_interrupt) t_interrupt();
}

// One life of the guest on one hypervisor.
class IntegerVm {
 public:
  IntegerVm(const kvm::Api& api, uint8_t* ram) : api_(api) {
    system_ = api.open_system();
    if (system_ < 0) die("%s: %s", api.name, strerror(-system_));
    vm_ = call(api, system_, KVM_CREATE_VM, uintptr_t{0}, "KVM_CREATE_VM");
    api.ioctl(vm_, KVM_SET_TSS_ADDR, 0xfffbd000);
    kvm_userspace_memory_region region{.memory_size = kRamSize, .userspace_addr = reinterpret_cast<uintptr_t>(ram)};
    call(api, vm_, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
    vcpu_ = call(api, vm_, KVM_CREATE_VCPU, uintptr_t{0}, "KVM_CREATE_VCPU");
    size_ = static_cast<size_t>(call(api, system_, KVM_GET_VCPU_MMAP_SIZE, uintptr_t{0}, "KVM_GET_VCPU_MMAP_SIZE"));
    page_ = static_cast<kvm_run*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_, 0));
    if (page_ == MAP_FAILED) die("%s: mapping kvm_run: %s", api.name, strerror(errno));
  }
  ~IntegerVm() {
    munmap(page_, size_);
    for (int fd : {vcpu_, vm_, system_}) api_.close(fd);
  }

  void start(uint8_t* ram, const std::vector<kvm_cpuid_entry2>& cpuid) {
    set_cpuid(api_, vcpu_, cpuid);
    kvm_sregs sregs;
    call(api_, vcpu_, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
    enter_long_mode(ram, kTables, sregs);
    call(api_, vcpu_, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
    kvm_regs regs{};
    regs.rip = kCode, regs.rsp = kStack, regs.rdi = kTable, regs.rsi = kRounds, regs.rflags = 2;
    call(api_, vcpu_, KVM_SET_REGS, &regs, "KVM_SET_REGS");
  }
  SavedVcpu save(const std::vector<kvm_cpuid_entry2>& cpuid) { return save_vcpu(api_, system_, vm_, vcpu_, cpuid); }
  void restore(const SavedVcpu& saved) { restore_vcpu(api_, vcpu_, saved, true); }

  // Runs for some time; true when the guest has ended. `result` collects what it says.
  bool run(uint64_t microseconds, std::vector<uint32_t>& result) {
    std::atomic<bool> stop = false, done = false;
    std::thread thread([&] {
      t_page = page_, t_interrupt = api_.interrupt_this_thread;
      bool open = false;
      while (!done) {
        __atomic_store_n(&page_->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (stop) break;
        open = step(result, done);
      }
      __atomic_store_n(&page_->immediate_exit, 1, __ATOMIC_SEQ_CST);
      while (open) open = step(result, done);
      t_page = nullptr, t_interrupt = nullptr;
    });
    auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
    while (!done && std::chrono::steady_clock::now() < end) {
      auto left = std::chrono::duration_cast<std::chrono::microseconds>(end - std::chrono::steady_clock::now()).count();
      if (left > 0) usleep(static_cast<useconds_t>(left < 10000 ? left : 10000));
    }
    stop = true;
    pthread_kill(thread.native_handle(), SIGUSR1);
    thread.join();
    return done;
  }

 private:
  // One KVM_RUN; true: an access was answered.
  bool step(std::vector<uint32_t>& result, std::atomic<bool>& done) {
    int code = api_.ioctl(vcpu_, KVM_RUN, 0);
    if (code == -EINTR || code == -EAGAIN) return false;
    if (code < 0) die("%s: KVM_RUN: %s", api_.name, strerror(-code));
    switch (page_->exit_reason) {
      case KVM_EXIT_IO: {
        uint32_t value;
        memcpy(&value, reinterpret_cast<uint8_t*>(page_) + page_->io.data_offset, 4);
        result.push_back(value);
        return true;
      }
      case KVM_EXIT_HLT: done = true; return false;
      case KVM_EXIT_INTR: return false;
      default: die("%s: exit reason %u, suberror %u", api_.name, page_->exit_reason, page_->internal.suberror);
    }
  }

  const kvm::Api& api_;
  int system_, vm_, vcpu_;
  size_t size_;
  kvm_run* page_;
};

}  // namespace

int move_integer_guest(unsigned moves, uint64_t seed) {
  const kvm::Api &soft = *kvm::soft_api(), &hard = kvm::kernel_api();
  int system = hard.open_system();
  if (system < 0) {
    printf("SKIP: /dev/kvm: %s\n", strerror(-system));
    return 77;
  }
  // Both can have what the kernel's offers.
  const std::vector<kvm_cpuid_entry2> cpuid = supported_cpuid(hard, system);
  hard.close(system);
  struct sigaction action {};
  action.sa_handler = on_kick;
  sigaction(SIGUSR1, &action, nullptr);

  auto* ram = static_cast<uint8_t*>(mmap(nullptr, kRamSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (ram == MAP_FAILED) die("guest RAM: %s", strerror(errno));
  memcpy(ram + kCode, integer_guest_begin, static_cast<size_t>(integer_guest_end - integer_guest_begin));
  for (unsigned i = 0; i < kWords; i++) {
    const uint64_t value = word(i);
    memcpy(ram + kTable + i * 8, &value, 8);
  }

  std::mt19937_64 random(seed);
  std::vector<uint32_t> result;
  SavedVcpu saved;
  bool ended = false;
  unsigned done = 0;
  uint64_t rounds[2] = {}, left = kRounds;
  for (;; done++) {
    const bool on_soft = done % 2 == 0;
    IntegerVm vm(on_soft ? soft : hard, ram);
    if (done == 0) vm.start(ram, cpuid);
    else vm.restore(saved);
    // softkvm is the faster one where the kernel emulates; the last stretch, after the moves, is its own.
    const bool last = done >= moves && on_soft;
    ended = vm.run(last ? 60'000'000 : random() % (on_soft ? 2'000 : 20'000), result);
    saved = vm.save(cpuid);
    rounds[on_soft] += left - saved.regs.rsi;
    left = saved.regs.rsi;
    if (ended || last) break;
  }
  if (!ended) die("the integer guest did not end");
  printf("integer guest: %u moves, %llu rounds on softkvm, %llu on /dev/kvm\n", done, static_cast<unsigned long long>(rounds[1]),
         static_cast<unsigned long long>(rounds[0]));
  if (done < moves) die("the integer guest ended after %u moves, %u were wanted", done, moves);
  if (rounds[0] == 0) die("/dev/kvm ran none of the guest's code");
  const uint64_t wanted = expected();
  if (result.size() != 2 || result[0] != static_cast<uint32_t>(wanted) || result[1] != wanted >> 32)
    die("the integer guest computed %08x%08x, not %016llx", result.size() == 2 ? result[1] : 0, result.empty() ? 0 : result[0],
        static_cast<unsigned long long>(wanted));
  return 0;
}

}  // namespace vireo::moves
