// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/native.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "softkvm/cpu/descriptor.h"
#include "softkvm/cpu/system.h"
#include "softkvm/cpu/system_instructions.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/native/host_segment_bases.h"
#include "softkvm/translate/breakpoints.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/switches.h"

namespace vireo::softkvm {
namespace {

// What Linux runs 64-bit user code with: the same in the guest and on the host, so that code which reads a selector finds its own.
constexpr uint16_t kUserCs = 0x33, kUserSs = 0x2b;
constexpr uint64_t kCr4Wanted = kCr4Osfxsr | kCr4Osxmmexcpt | kCr4Fsgsbase | kCr4Osxsave | kCr4Umip;
constexpr uint64_t kCr4Unwanted = kCr4Tsd | kCr4Pce | kCr4Pke | kCr4Pks;
constexpr unsigned kComponentsAt = 512;  // XSTATE_BV, in the XSAVE area
constexpr uint64_t kWrote = 2, kFetched = 0x10;  // a page fault's error code (SDM vol 3, 4.7)

bool stopped_wanted(const Vcpu& vcpu) {
  const Engine& e = *vcpu.engine;
  return vcpu.attention || e.requests.load() || e.exit_request.load() || (vcpu.vm->exclusive.load() && !e.exclusive);
}

}  // namespace

Native::Native(Vcpu& vcpu) : vcpu_(vcpu), counts_(vcpu.engine->counters.native) {}

void wake_native(Engine& engine) {
  engine.native_wakers.fetch_add(1);
  const int fd = engine.native_pidfd.load();
  if (fd >= 0 && !engine.native_woken.exchange(true)) {
    long result;
    register long r10 asm("r10") = 0;
    asm volatile("syscall" : "=a"(result) : "a"(SYS_pidfd_send_signal), "D"(static_cast<long>(fd)), "S"(static_cast<long>(SIGUSR2)), "d"(0l), "r"(r10)
                 : "rcx", "r11", "memory");
  }
  engine.native_wakers.fetch_sub(1);
}

bool Native::fit() const {
  const Vcpu& v = vcpu_;
  const Engine& e = *v.engine;
  if (refused_ || v.vm->lent.empty() || v.cpl != 3 || !v.in_64bit() || v.in_smm) return false;
  if (v.segment[kCS].selector != kUserCs || v.segment[kSS].selector != kUserSs) return false;
  for (SegmentRegister s : {kDS, kES, kFS, kGS})
    if (v.segment[s].selector) return false;
  if (v.segment[kFS].base >= 0x7ffffffff000 || v.segment[kGS].base >= 0x7ffffffff000) return false;
  if ((v.cr0 & (kCr0Pg | kCr0Ne | kCr0Am | kCr0Wp | kCr0Ts | kCr0Em)) != (kCr0Pg | kCr0Ne | kCr0Am | kCr0Wp)) return false;
  if ((v.cr4 & kCr4Wanted) != kCr4Wanted || v.cr4 & kCr4Unwanted) return false;
  if (v.xcr0 != Vcpu::supported_xcr0() || v.msr.misc_features) return false;
  if (v.system_flags & (kTF | kIOPL | kNT | kVM | kAC | kVIF | kVIP | kID) || !(v.system_flags & kIF)) return false;
  if (breakpoints_armed(v) || v.guest_debug.control & KVM_GUESTDBG_ENABLE) return false;
  if (v.injected.pending || v.interrupt_shadow_sti || v.interrupt_shadow_mov_ss || v.single_step_pending || v.held_breakpoints) return false;
  return !e.step_next && !e.completing && !e.stepping && !e.writes_open && !e.want_exclusive;
}

template <class F>
void Native::drop_if(F gone) {
  std::erase_if(spaces_, [&](const auto& s) { return gone(*s); });
}

void Native::drop(AddressSpace* space) {
  drop_if([&](const AddressSpace& s) { return &s == space; });
}

// Is the guest's TSC the host's?
bool Native::host_tsc() const { return vcpu_.msr.tsc_offset == 0 && vcpu_.tsc_ratio == 0; }

void Native::let_cpu_go_in_time() {
  if (hold_.held()) hold_.take(__builtin_ia32_rdtsc(), vcpu_.engine->profile.ticks_per_microsecond);
}

void Native::prepare() {
  vcpu_.engine->profile.ticks_per_microsecond = vcpu_.vm->off & kSwitchNative || refused_ || vcpu_.vm->lent.empty() ? 0 : vcpu_.tsc_khz / 1000;
}

AddressSpace* Native::space() {
  // Not by thread numbers of the host: they come again.
  static std::atomic<uint64_t> threads{0};
  static thread_local const uint64_t self = ++threads;
  if (self != thread_) {
    drop_spaces();
    thread_ = self;
  }
  const uint64_t generation = vcpu_.vm->lent.generation();
  drop_if([&](const AddressSpace& s) { return s.generation != generation; });
  uses_++;
  for (const auto& s : spaces_)
    if (s->cr3 == (vcpu_.cr3 & kPageMask) && s->runs_time_stamps() == host_tsc()) {
      s->last_used = uses_;
      return s.get();
    }
  if (spaces_.size() == kMostSpaces)
    drop(std::min_element(spaces_.begin(), spaces_.end(), [](const auto& a, const auto& b) { return a->last_used < b->last_used; })->get());
  std::string why;
  const uint64_t before = __builtin_ia32_rdtsc();
  auto made = AddressSpace::create(*vcpu_.vm, host_tsc(), why);
  if (!made) {
    refused_ = true;
    vcpu_.engine->profile.ticks_per_microsecond = 0;
    log(LogLevel::kInfo, "softkvm: user code stays in translation: %s", why.c_str());
    return nullptr;
  }
  counts_.spaces++;
  vcpu_.engine->profile.switch_ticks = StubProcess::switch_ticks();
  vcpu_.engine->profile.made(__builtin_ia32_rdtsc() - before);
  made->cr3 = vcpu_.cr3 & kPageMask;
  made->last_used = uses_;
  made->flushes_seen = vcpu_.engine->native_flushes;
  made->write_flushes_seen = vcpu_.engine->native_write_flushes;
  spaces_.push_back(std::move(made));
  return spaces_.back().get();
}

void Native::load(user_regs_struct& r) const {
  const Vcpu& v = vcpu_;
  r = {};
  r.rax = v.gpr[kRax], r.rcx = v.gpr[kRcx], r.rdx = v.gpr[kRdx], r.rbx = v.gpr[kRbx];
  r.rsp = v.gpr[kRsp], r.rbp = v.gpr[kRbp], r.rsi = v.gpr[kRsi], r.rdi = v.gpr[kRdi];
  r.r8 = v.gpr[8], r.r9 = v.gpr[9], r.r10 = v.gpr[10], r.r11 = v.gpr[11];
  r.r12 = v.gpr[12], r.r13 = v.gpr[13], r.r14 = v.gpr[14], r.r15 = v.gpr[15];
  r.rip = v.rip;
  r.eflags = v.rflags() & ~uint64_t{kRF};
  r.cs = kUserCs, r.ss = kUserSs;
  r.fs_base = v.segment[kFS].base, r.gs_base = v.segment[kGS].base;
  r.orig_rax = ~0ull;
}

// CS as a far transfer has loaded it, to the privilege that user code has: what it may be is in the guest's tables.
Outcome Native::load_code_segment(uint16_t selector) {
  Descriptor d;
  STEP(check_return_code(vcpu_, selector, d));
  if ((selector & 3) != 3) return vcpu_.raise(kGP, selector_error(selector));
  STEP(mark_accessed(vcpu_, d));
  set_cs(vcpu_, d, 3);
  return Outcome::kNext;
}

void Native::store(const user_regs_struct& r) {
  Vcpu& v = vcpu_;
  v.gpr[kRax] = r.rax, v.gpr[kRcx] = r.rcx, v.gpr[kRdx] = r.rdx, v.gpr[kRbx] = r.rbx;
  v.gpr[kRsp] = r.rsp, v.gpr[kRbp] = r.rbp, v.gpr[kRsi] = r.rsi, v.gpr[kRdi] = r.rdi;
  v.gpr[8] = r.r8, v.gpr[9] = r.r9, v.gpr[10] = r.r10, v.gpr[11] = r.r11;
  v.gpr[12] = r.r12, v.gpr[13] = r.r13, v.gpr[14] = r.r14, v.gpr[15] = r.r15;
  v.rip = r.rip;
  v.set_status_flags(r.eflags);
  constexpr uint32_t kOwn = kDF | kTF | kNT | kAC | kID;  // what user code can change; RF was over with its first instruction
  v.system_flags = (v.system_flags & ~(kOwn | kRF)) | (static_cast<uint32_t>(r.eflags) & kOwn);
  auto set_bases = [&] { v.segment[kFS].base = r.fs_base, v.segment[kGS].base = r.gs_base; };
  set_bases();
  // Selectors that the code has loaded: their descriptors are the guest's.
  const std::pair<SegmentRegister, uint64_t> data[] = {{kDS, r.ds}, {kES, r.es}, {kFS, r.fs}, {kGS, r.gs}};
  for (auto [which, selector] : data) {
    if (static_cast<uint16_t>(selector) == v.segment[which].selector) continue;
    if (load_segment(v, which, static_cast<uint16_t>(selector)) != Outcome::kNext) v.injected = std::exchange(v.fault, PendingException{});
  }
  if (host_keeps_segment_bases()) set_bases();  // which the code may have written behind the selectors
  if (static_cast<uint16_t>(r.cs) != v.segment[kCS].selector && load_code_segment(static_cast<uint16_t>(r.cs)) != Outcome::kNext)
    v.injected = std::exchange(v.fault, PendingException{});
  update_mode(v);
}

// Bytes of code at rip, as many as can be had.
bool Native::fetch(uint64_t rip, uint8_t* bytes, unsigned size) {
  for (unsigned done = 0; done < size;) {
    const unsigned n = std::min<uint64_t>(size - done, kPageSize - ((rip + done) & 0xfff));
    PageTranslation t;
    if (walk(vcpu_, rip + done, Want::kFetch, true, false, false, t) != Outcome::kNext) return false;
    const uint8_t* host = vcpu_.vm->slots->host(t.gpa);
    if (!host) return false;
    memcpy(bytes + done, host, n);
    done += n;
  }
  return true;
}

// RDTSC or RDTSCP, which fault in a stub.
Native::Next Native::time_stamp(user_regs_struct& r) {
  if (r.eflags & kTF) return Next::kLeave;  // it traps behind
  uint8_t code[3];
  if (!fetch(r.rip, code, 2) || code[0] != 0x0f) return Next::kLeave;
  const bool plain = code[1] == 0x31;
  if (!plain && !(code[1] == 0x01 && fetch(r.rip, code, 3) && code[2] == 0xf9)) return Next::kLeave;
  counts_.time_stamps++;
  const uint64_t now = guest_tsc(vcpu_);
  r.rax = static_cast<uint32_t>(now);
  r.rdx = now >> 32;
  if (!plain) r.rcx = static_cast<uint32_t>(vcpu_.msr.tsc_aux);
  r.rip += plain ? 2 : 3;
  return Next::kRun;
}

Native::Next Native::page_fault(AddressSpace& space, const StubProcess::Stop& stop, const user_regs_struct& r) {
  const uint64_t address = stop.address;
  counts_.faults++;
  if (address == fault_address_ && r.rip == fault_rip_) {
    if (++fault_again_ > 2) return Next::kLeave;
  } else {
    fault_address_ = address, fault_rip_ = r.rip, fault_again_ = 0;
  }
  const Want want = stop.error & kFetched || address == r.rip ? Want::kFetch : stop.error & kWrote ? Want::kWrite : Want::kRead;
  vcpu_.fault.pending = false;
  const auto outcome = space.map(vcpu_, address, want);
  if (outcome == AddressSpace::Outcome::kMapped) {
    counts_.mapped++;
    return Next::kRun;
  }
  if (outcome == AddressSpace::Outcome::kFault) {  // the guest's own
    vcpu_.injected = vcpu_.fault;
    vcpu_.engine->native_fault = true;
  }
  vcpu_.fault.pending = false;
  return Next::kLeave;
}

Native::Next Native::signal(AddressSpace& space, const StubProcess::Stop& stop, user_regs_struct& r) {
  uint8_t code[2];
  switch (stop.signal) {
    case SIGSEGV:
      if (stop.code == SEGV_MAPERR || stop.code == SEGV_ACCERR) return page_fault(space, stop, r);
      return time_stamp(r);  // #GP
    case SIGTRAP:
      // INT3, INT 3 and INT1 are traps: they are run again, by translation. Else it was the trap flag, which the code has set: the host's kernel tells
      // it by its code (arch/x86/kernel/traps.c).
      if (stop.code != TRAP_TRACE && fetch(r.rip - 1, code, 1) && (code[0] == 0xcc || code[0] == 0xf1)) {
        r.rip--;
      } else if (stop.code != TRAP_TRACE && fetch(r.rip - 2, code, 2) && code[0] == 0xcd && code[1] == 3) {
        r.rip -= 2;
      } else {
        vcpu_.injected = PendingException{.pending = true, .vector = kDB, .payload = 1u << 14};
      }
      return Next::kLeave;
    case SIGBUS:
    case SIGFPE:
    case SIGILL:
    case SIGSYS: return Next::kLeave;
    default: return Next::kLeave;  // SIGUSR2
  }
}

void Native::system_call(user_regs_struct& r) {
  counts_.system_calls++;
  uint8_t code[2];
  r.rip -= 2;
  r.rax = r.orig_rax;
  const bool fast = fetch(r.rip, code, 2) && code[0] == 0x0f && code[1] == 0x05;
  store(r);
  if (!fast || vcpu_.injected.pending) return;  // INT 80h
  Insn insn;
  insn.length = 2;
  if (syscall(vcpu_, insn) == Outcome::kFault) vcpu_.injected = vcpu_.fault;
  vcpu_.fault.pending = false;
}

void Native::run() {
  Engine& e = *vcpu_.engine;
  struct Timer {
    uint64_t& to;
    uint64_t began = __builtin_ia32_rdtsc();
    ~Timer() { to += __builtin_ia32_rdtsc() - began; }
  } timer{counts_.all_ticks};
  if (!fit()) return e.profile.give_up();
  AddressSpace* s = space();
  if (!s) return;
  e.running.store(1);
  const bool usable = stopped_wanted(vcpu_) || run_in(*s);
  // The stub's descriptor is closed with it: before that nobody may hold it still.
  e.native_pidfd.store(-1);
  while (e.native_wakers.load()) sched_yield();
  e.running.store(0);
  if (!usable) drop(s);
}

// False: the space is of no use any more.
bool Native::run_in(AddressSpace& s) {
  Engine& e = *vcpu_.engine;
  // Another space than the faults were in has been left by a load of CR3: it looks at all of its own.
  for (unsigned i = 0; i < e.native_faulted_count; i++) s.drop(e.native_faulted[i]);
  e.native_faulted_count = 0;
  if (s.flushes_seen != e.native_flushes) {
    s.flushes_seen = e.native_flushes;
    if (!s.revalidate()) {
      e.profile.forget();
      return !s.broken();
    }
  }
  if (s.write_flushes_seen != e.native_write_flushes) s.recheck_writes(vcpu_), s.write_flushes_seen = e.native_write_flushes;
  s.recheck_shadows();
  // The page to go on at, and the one that the guest's kernel has just brought.
  vcpu_.fault.pending = false;
  if (!s.has(vcpu_.rip, Want::kFetch) && s.map(vcpu_, vcpu_.rip, Want::kFetch) != AddressSpace::Outcome::kMapped) {
    vcpu_.fault.pending = false;
    counts_.left++;
    e.profile.hold_page(vcpu_.rip);
    return !s.broken();
  }
  if (e.native_fault && !s.has(vcpu_.cr2, Want::kRead)) s.map(vcpu_, vcpu_.cr2, Want::kRead), vcpu_.fault.pending = false;
  e.native_fault = false;
  counts_.runs++;

  StubProcess& stub = s.stub();
  hold_.take(__builtin_ia32_rdtsc(), e.profile.ticks_per_microsecond);
  stub.follow_cpu();
  user_regs_struct r;
  load(r);
  stub.set_registers(r);
  stub.set_state(e.xsave);
  if (!stub.settle()) return false;
  e.native_woken.store(false);
  e.native_pidfd.store(stub.pidfd());
  fault_address_ = ~0ull;
  bool usable = true;
  for (;;) {
    if (s.broken()) {
      store(r);
      e.profile.give_up();
      break;
    }
    if (stopped_wanted(vcpu_)) {
      store(r);
      break;
    }
    const uint64_t t1 = __builtin_ia32_rdtsc();
    const bool mapped = stub.calls_waiting();
    const StubProcess::Stop stop = stub.run();
    const uint64_t ran = __builtin_ia32_rdtsc() - t1;
    counts_.run_ticks += ran;
    e.profile.ran(ran, mapped);
    if (stop.kind == StubProcess::Stop::kGone) {
      // Somebody has killed it, and the guest's registers with it.
      e.native_lost = true;
      return false;
    }
    if (stop.kind == StubProcess::Stop::kFailed || stop.kind == StubProcess::Stop::kLost) {
      store(r);  // as it was entered
      if (stop.kind == StubProcess::Stop::kFailed) e.profile.give_up();
      else vcpu_.injected = PendingException{.pending = true, .vector = kGP, .has_error = true};
      usable = false;
      break;
    }
    r = stub.registers();
    // Null selectors are all that a stub is entered with.
    usable = !(r.ds | r.es | r.fs | r.gs);
    if (stop.kind == StubProcess::Stop::kSystemCall) {
      system_call(r);
      break;
    }
    // A stub that went on with the trap flag would be stepped through its own code.
    if (signal(s, stop, r) == Next::kRun && usable && !(r.eflags & kTF)) {
      stub.set_registers(r);  // which may have been changed
      continue;
    }
    store(r);
    if (!vcpu_.injected.pending && !stopped_wanted(vcpu_) && stop.signal != SIGUSR2) {
      counts_.left++;
      e.profile.hold_instruction();
    }
    break;
  }
  stub.state(e.xsave);
  uint64_t components;
  memcpy(&components, e.xsave + kComponentsAt, sizeof components);
  components &= Vcpu::supported_xcr0();
  memcpy(e.xsave + kComponentsAt, &components, sizeof components);
  return usable && !s.broken();
}

}  // namespace vireo::softkvm
