// SPDX-License-Identifier: Apache-2.0
// What a guest has in its page tables, descriptor tables, task state and MSRs, run through instruction by instruction. The input: a mode
// (real, protected, PAE, long), changes to a sane machine of that mode (bytes of kvm_sregs, general registers, MSRs, words anywhere in memory), and
// code. Each KVM_RUN is one instruction (KVM_GUESTDBG_SINGLESTEP), since the guest's loops need not end.
#include <linux/kvm.h>
#include <sanitizer/lsan_interface.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "softkvm/softkvm.h"

namespace {

using namespace vireo;

constexpr size_t kMemory = 1 << 20;
constexpr uint64_t kTables = 0x1000, kGdt = 0x8000, kIdt = 0x9000, kTss = 0xa000, kCode = 0xc000, kStack = 0xf000;
constexpr unsigned kInstructions = 48;

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  size_t left() const { return left_; }
  const uint8_t* rest() const { return data_; }
  template <class T>
  T take() {
    T value{};
    const size_t n = std::min(sizeof value, left_);
    std::memcpy(&value, data_, n);
    data_ += n, left_ -= n;
    return value;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

enum Mode { kReal, kProtected, kPae, kLong };

template <class T>
void put(uint8_t* memory, uint64_t at, T value) {
  std::memcpy(memory + at, &value, sizeof value);
}

// Page tables that map the memory onto itself, flat segments for CPL 0 and 3, a TSS, gates to an IRET.
void lay_out(uint8_t* memory, Mode mode) {
  if (mode == kProtected) {
    for (unsigned i = 0; i < 1024; i++) put<uint32_t>(memory, kTables + i * 4, i << 22 | 0x87);  // 4 MiB pages
  } else if (mode == kPae) {
    for (unsigned i = 0; i < 4; i++) put<uint64_t>(memory, kTables + i * 8, (kTables + 0x1000) | 1);
    for (unsigned i = 0; i < 512; i++) put<uint64_t>(memory, kTables + 0x1000 + i * 8, uint64_t{i} << 21 | 0x87);
  } else if (mode == kLong) {
    put<uint64_t>(memory, kTables, (kTables + 0x1000) | 7);
    put<uint64_t>(memory, kTables + 0x1000, (kTables + 0x2000) | 7);
    put<uint64_t>(memory, kTables + 0x2000, (kTables + 0x3000) | 7);
    for (unsigned i = 1; i < 512; i++) put<uint64_t>(memory, kTables + 0x2000 + i * 8, uint64_t{i} << 21 | 0x87);
    for (unsigned i = 0; i < 512; i++) put<uint64_t>(memory, kTables + 0x3000 + i * 8, uint64_t{i} << 12 | 7);
  }
  const bool wide = mode == kLong;
  const uint64_t gdt[] = {0, wide ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull, 0x00cf93000000ffffull,  // 08 10: CPL 0
                          wide ? 0x00affb000000ffffull : 0x00cffb000000ffffull, 0x00cff3000000ffffull,     // 18 20: CPL 3
                          0x0000890000000067ull | kTss << 16, 0,                                            // 28: a TSS
                          0x0000ec0000080000ull | kCode, 0,                                                 // 38: a call gate
                          0x0000850000280000ull};                                                           // 48: a task gate
  std::memcpy(memory + kGdt, gdt, sizeof gdt);
  for (unsigned i = 0; i < 256; i++) {
    if (wide) put<uint64_t>(memory, kIdt + i * 16, 0x00008e0000080000ull | (kCode + 0x800)), put<uint64_t>(memory, kIdt + i * 16 + 8, 0);
    else put<uint64_t>(memory, kIdt + i * 8, 0x00008e0000080000ull | (kCode + 0x800));
  }
  memory[kCode + 0x800] = 0x48, memory[kCode + 0x801] = 0xcf;  // iretq; dec eax and iret elsewhere
  put<uint64_t>(memory, kTss + 4, kStack);
}

kvm_segment segment(uint16_t selector, uint8_t type, bool wide) {
  kvm_segment s{};
  s.limit = 0xffffffff, s.selector = selector, s.type = type, s.present = 1, s.s = 1, s.g = 1, s.l = wide, s.db = !wide;
  return s;
}

void set_up(kvm_sregs& sregs, Mode mode) {
  sregs.cs.base = 0, sregs.cs.selector = 0;
  if (mode == kReal) return;
  sregs.cs = segment(8, 11, mode == kLong);
  sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = segment(0x10, 3, false);
  sregs.gdt.base = kGdt, sregs.gdt.limit = 0x57;
  sregs.idt.base = kIdt, sregs.idt.limit = 0xfff;
  sregs.tr.base = kTss, sregs.tr.limit = 0x67, sregs.tr.type = 11, sregs.tr.present = 1, sregs.tr.s = 0, sregs.tr.selector = 0x28;
  sregs.cr3 = kTables;
  sregs.cr4 = mode == kProtected ? 0x610 : 0x630;
  sregs.cr0 = 0x80050033;
  if (mode == kLong) sregs.efer = 0xd01;
}

struct Machine {
  int system = softkvm::open_system(), vm = -1, vcpu = -1;
  uint8_t* memory = static_cast<uint8_t*>(mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  kvm_run* run = nullptr;
  std::vector<uint64_t> msrs;
  kvm_sregs sregs{};
  kvm_xcrs xcrs{};
  kvm_vcpu_events events{};
  kvm_debugregs debug_registers{};

  template <class T>
  int call(int fd, unsigned long request, T* argument) {
    return softkvm::ioctl(fd, request, reinterpret_cast<uintptr_t>(argument));
  }
  Machine() {
    __lsan::ScopedDisabler quiet;  // a vCPU lies in a mapping, where the leak checker looks for no pointers
    vm = softkvm::ioctl(system, KVM_CREATE_VM, 0);
    kvm_userspace_memory_region region{0, 0, 0, kMemory, reinterpret_cast<uintptr_t>(memory)};
    call(vm, KVM_SET_USER_MEMORY_REGION, &region);
    vcpu = softkvm::ioctl(vm, KVM_CREATE_VCPU, 0);
    run = static_cast<kvm_run*>(mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
    std::vector<uint64_t> list((sizeof(kvm_cpuid2) + 256 * sizeof(kvm_cpuid_entry2)) / 8 + 1);
    auto* cpuid = reinterpret_cast<kvm_cpuid2*>(list.data());
    cpuid->nent = 256;
    call(system, KVM_GET_SUPPORTED_CPUID, cpuid);
    call(vcpu, KVM_SET_CPUID2, cpuid);
    kvm_guest_debug debug{};
    debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    call(vcpu, KVM_SET_GUEST_DEBUG, &debug);
    uint32_t indices[1 + 512] = {512};
    call(system, KVM_GET_MSR_INDEX_LIST, indices);
    msrs.resize((sizeof(kvm_msrs) + indices[0] * sizeof(kvm_msr_entry)) / 8);
    auto* head = reinterpret_cast<kvm_msrs*>(msrs.data());
    head->nmsrs = indices[0];
    for (uint32_t i = 0; i < indices[0]; i++) {
      const kvm_msr_entry entry{indices[1 + i], 0, 0};
      std::memcpy(reinterpret_cast<char*>(msrs.data()) + sizeof(kvm_msrs) + i * sizeof entry, &entry, sizeof entry);
    }
    call(vcpu, KVM_GET_MSRS, head);
    call(vcpu, KVM_GET_SREGS, &sregs);
    call(vcpu, KVM_GET_XCRS, &xcrs);
    call(vcpu, KVM_GET_VCPU_EVENTS, &events);
    call(vcpu, KVM_GET_DEBUGREGS, &debug_registers);
    kick_now_and_then();
  }
  // A handler whose first instruction faults goes on for ever and completes no instruction, as on a processor; only a kick ends that KVM_RUN.
  static void kick_now_and_then() {
    struct sigaction action {};
    action.sa_handler = [](int) { softkvm::interrupt_this_thread(); };
    action.sa_flags = SA_RESTART;
    sigaction(SIGRTMIN, &action, nullptr);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMIN;
    event._sigev_un._tid = gettid();
    timer_t timer;
    const itimerspec every{.it_interval = {0, 200'000'000}, .it_value = {0, 200'000'000}};
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) || timer_settime(timer, 0, &every, nullptr)) __builtin_trap();
  }
  // As it was made: an input must do the same whatever came before it.
  void reset() {
    run->immediate_exit = 1;
    softkvm::ioctl(vcpu, KVM_RUN, 0);  // completes what is open
    run->immediate_exit = 0;
    std::memset(memory, 0, kMemory);
    softkvm::notice_write(vm, memory, kMemory);
    call(vcpu, KVM_SET_SREGS, &sregs);
    call(vcpu, KVM_SET_MSRS, reinterpret_cast<kvm_msrs*>(msrs.data()));
    call(vcpu, KVM_SET_XCRS, &xcrs);
    call(vcpu, KVM_SET_VCPU_EVENTS, &events);
    call(vcpu, KVM_SET_DEBUGREGS, &debug_registers);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes in(data, size);
  static Machine m;  // for good: making one takes longer than an input
  m.reset();
  const auto mode = static_cast<Mode>(in.take<uint8_t>() & 3);
  lay_out(m.memory, mode);
  kvm_sregs sane = m.sregs;
  set_up(sane, mode);
  if (m.call(m.vcpu, KVM_SET_SREGS, &sane)) __builtin_trap();  // else nothing below would be of this mode
  kvm_sregs changed = sane;
  kvm_regs regs{};
  regs.rip = kCode, regs.rsp = kStack, regs.rflags = 2;
  for (unsigned count = in.take<uint8_t>() & 31; count > 0; count--) {
    const uint8_t what = in.take<uint8_t>();
    const uint16_t where = in.take<uint16_t>();
    const auto value = in.take<uint64_t>();
    switch (what & 3) {
      case 0: reinterpret_cast<uint8_t*>(&changed)[where % sizeof changed] = static_cast<uint8_t>(value); break;
      case 1: reinterpret_cast<uint64_t*>(&regs)[where % 16] = value; break;
      case 2: put<uint64_t>(m.memory, where % 0xfff8, value); break;
      default: {
        alignas(kvm_msrs) uint8_t room[sizeof(kvm_msrs) + sizeof(kvm_msr_entry)] = {};
        auto* msrs = reinterpret_cast<kvm_msrs*>(room);
        msrs->nmsrs = 1;
        kvm_msr_entry entry{(what & 4 ? 0xc0000000 : what & 8 ? 0x4b564d00 : 0) | (where & 0x1fff), 0, value};
        std::memcpy(room + sizeof(kvm_msrs), &entry, sizeof entry);
        m.call(m.vcpu, KVM_SET_MSRS, msrs);
        m.call(m.vcpu, KVM_GET_MSRS, msrs);
      }
    }
  }
  m.call(m.vcpu, KVM_SET_SREGS, &changed);
  m.call(m.vcpu, KVM_SET_REGS, &regs);
  std::memcpy(m.memory + kCode, in.rest(), std::min<size_t>(in.left(), 0x400));
  softkvm::notice_write(m.vm, m.memory, kMemory);
  for (unsigned i = 0; i < kInstructions; i++) {
    if (softkvm::ioctl(m.vcpu, KVM_RUN, 0)) break;
    if (m.run->exit_reason == KVM_EXIT_SHUTDOWN || m.run->exit_reason == KVM_EXIT_INTERNAL_ERROR || m.run->exit_reason == KVM_EXIT_FAIL_ENTRY) break;
  }
  kvm_vcpu_events events;
  m.call(m.vcpu, KVM_GET_VCPU_EVENTS, &events);
  m.call(m.vcpu, KVM_GET_SREGS, &changed);
  return 0;
}
