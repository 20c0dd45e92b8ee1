// SPDX-License-Identifier: Apache-2.0
// The FAST half of a vCPU's run: finding the next block, events between blocks, and the call-outs of translated code. General registers
// only, no libc: the guest's SIMD and x87 state is live in the host's registers.
#include "softkvm/cpu/descriptor.h"
#include "softkvm/irqchip/raw_syscall.h"
#include "softkvm/mmu/access.h"
#include "softkvm/mmu/dirty_ring.h"
#include "softkvm/mmu/host_pages.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/translate/block.h"
#include "softkvm/translate/breakpoints.h"
#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/events.h"
#include "softkvm/translate/jump_cache.h"
#include "softkvm/translate/make_block.h"
#include "softkvm/translate/stored_blocks.h"
#include "softkvm/translate/string_ops.h"
#include "softkvm/translate/sure_code.h"
#include "softkvm/translate/switches.h"

extern "C" void softkvm_enter(const void* code, uint64_t linear);

namespace vireo::softkvm {
namespace {

// Guest physical address of a fetch at `linear`; false: vcpu.fault. `fresh`: by a new fetch entry.
bool fetch_address(VcpuState& vcpu, uint64_t linear, uint64_t& gpa, bool* fresh = nullptr) {
  Engine& engine = engine_of(vcpu);
  bool user = vcpu.cpl == 3;
  FetchEntry& entry = engine.fetch[(linear >> 12) & (kFetchEntries - 1)];
  uint64_t tag = (linear & kPageMask) | (user ? 1 : 0);
  if (!engine.holds(entry, tag) || vcpu.vm->off & kSwitchFetchCache) {
    if (!fill_fetch(vcpu, linear, vcpu.vm->off & kSwitchFetchCache)) return false;
    if (fresh) *fresh = true;
  }
  gpa = entry.gpa | (linear & 0xfff);
  return true;
}

// The block of a straddling instruction, of which `any` is one, that goes on in the page which is now the next one. Null with
// vcpu.fault.pending on a fetch fault.
Block* straddle_block(VcpuState& vcpu, Block* any, uint64_t linear, bool& fresh) {
  uint64_t next = (linear & kPageMask) + kPageSize, gpa;
  if (!vcpu.in_64bit()) {
    next &= 0xffffffffull;
    if (!within_code(vcpu, next)) return vcpu.raise(kGP, 0), nullptr;
  }
  return fetch_address(vcpu, next, gpa, &fresh) ? vcpu.vm->code->table().find_straddle(any, gpa) : nullptr;
}

// The code of a jump entry that has been doubted, if its page still holds what that was made from; else null.
const void* doubted_code(VcpuState& vcpu, uint64_t linear, unsigned view) {
  Engine& engine = engine_of(vcpu);
  const unsigned index = jump_index(linear);
  JumpEntry& entry = engine.jump[view][index];
  if (entry.tag != doubted_tag(linear)) return nullptr;
  const JumpSource& from = engine.jump_source[view][index];
  if (!from.page || !code_current(vcpu, from)) return nullptr;
  entry.tag = linear;
  engine.jump_sure[view].add(index);
  return entry.code;
}

// May a foreign write still come?
bool on_alert(VcpuState& vcpu) {
  Engine& engine = engine_of(vcpu);
  if (engine.alert) engine.alert = __builtin_ia32_rdtsc() < vcpu.vm->alert_until.load(std::memory_order_relaxed);
  return engine.alert;
}

// May a near branch lead there?
bool may_go(const VcpuState& vcpu, uint64_t linear) {
  return vcpu.in_64bit() ? canonical(linear, vcpu.cr4 & kCr4La57 ? 57 : 48) : within_code(vcpu, linear);
}

// As at any instruction that may not be fetched: null.
const void* cannot_fetch(VcpuState& vcpu, uint64_t linear) {
  set_rip_linear(vcpu, linear);
  engine_of(vcpu).reason = kReasonFault;
  return nullptr;
}

// The code to run at `linear` in mode `mode`; null with Engine::reason kReasonTranslate or kReasonFault.
const void* find_code(VcpuState& vcpu, uint64_t linear, uint32_t mode) {
  Engine& engine = engine_of(vcpu);
  engine.target = linear;
  const bool limited = !(mode & kModeFlatCode);
  if (limited) {
    if (!within_code(vcpu, linear)) return vcpu.raise(kGP, 0), cannot_fetch(vcpu, linear);
    mode |= code_edges(vcpu, linear);
  }
  vcpu.fault.pending = false;
  if (!(mode & kModeStep))
    if (const void* code = doubted_code(vcpu, linear, view_of(mode))) return code;
  engine.counters.lookups++;
  uint64_t gpa;
  const bool alert = on_alert(vcpu);
  bool fresh = alert;
  if (!fetch_address(vcpu, linear, gpa, &fresh)) return cannot_fetch(vcpu, linear);
  CodeCache& cache = *vcpu.vm->code;
  Block* block = cache.table().find(gpa, mode);
  if (block && block->straddle) {
    block = straddle_block(vcpu, block, linear, fresh);
    if (vcpu.fault.pending) return cannot_fetch(vcpu, linear);
  }
  // A page that is newly mapped is always looked at: it may have come from a device to become this.
  if (block && !code_current(vcpu, *block, fresh)) {
    fresh = true;
    block = nullptr;
  }
  if (!block) {
    engine.suspect |= fresh;
    MakeBlock what{.linear = linear, .mode = mode};
    if (!(vcpu.vm->off & kSwitchFetchCache)) what.gpa = gpa;
    if (make_block(static_cast<Vcpu&>(vcpu), what, false) != Made::kYes) {
      engine.reason = kReasonTranslate;  // the slow half can wait, and says what is wrong
      return nullptr;
    }
    block = what.block;
  }
  // An instruction that lies partly beyond the limit is not begun.
  if (limited && (mode & kModeCodeEnds || block->straddle) && !within_code(vcpu, linear, block->straddle ? block->straddle : block->guest_end - (gpa & 0xfff)))
    return vcpu.raise(kGP, 0), cannot_fetch(vcpu, linear);
  const void* code = cache.executable(block->indirect_entry);
  if (!limited && !(mode & kModeStep) && !alert && !(vcpu.vm->off & kSwitchJumpCache)) {
    enter_jump(vcpu, view_of(mode), linear, *block, code);
    if (engine.stored && block->stored && !block->looked_up.exchange(true, std::memory_order_relaxed)) engine.stored->note_lookup(block->stored);
  }
  return code;
}

// A near branch (branch_descriptor()) leads to where it may not go: it is as if it had not begun, but for what CALL has stored. Spec: SDM vol 2, CALL, JMP, RET:
// the target is checked before anything is committed.
void refuse_branch(VcpuState& vcpu, uint32_t branch) {
  vcpu.gpr[kRsp] -= static_cast<uint64_t>(int64_t{static_cast<int32_t>(branch) >> kBranchMovedShift});
  set_rip_linear(vcpu, vcpu.page_base + (branch & 0xfff));
  vcpu.raise(kGP, 0);
  engine_of(vcpu).reason = kReasonFault;
}

extern "C" const void* softkvm_lookup(VcpuState* vcpu, uint64_t linear, uint32_t branch) {
  if (branch && !may_go(*vcpu, linear)) {
    refuse_branch(*vcpu, branch);
    return nullptr;
  }
  if (vcpu->attention) {
    engine_of(*vcpu).reason = kReasonAttention;
    return nullptr;
  }
  return find_code(*vcpu, linear, vcpu->mode);
}

// A direct jump inside the page that is not linked yet: `behind` is the address behind its stub. Where linking it needs waiting it is only noted which jump it was.
extern "C" const void* softkvm_link(VcpuState* vcpu, const void* behind) {
  Engine& engine = engine_of(*vcpu);
  CodeCache& cache = *vcpu->vm->code;
  const LinkSite& site = cache.site_of_stub(cache.offset_of(behind) - kLinkStubSize);
  uint64_t linear = vcpu->page_base + site.target;
  if ((vcpu->mode & kModeCodeMask) != kModeCode64) linear &= 0xffffffff;
  engine.link_site = cache.executable(site.at);
  engine.link_mode = vcpu->mode | (site.ungrouped ? kModeUngrouped : 0);
  engine.link_generation = cache.generation();
  engine.target = linear;
  MakeBlock what{.linear = linear, .mode = engine.link_mode, .site = engine.link_site, .generation = engine.link_generation,
                 .at_site = !(vcpu->vm->off & kSwitchFetchCache)};
  if (make_block(*static_cast<Vcpu*>(vcpu), what, false) == Made::kYes) {
    engine.link_site = nullptr;  // it is not what a later lookup is for
    return cache.executable(what.block->indirect_entry);
  }
  engine.reason = kReasonLink;
  return nullptr;
}

namespace {
// RF, which IRET sets behind each page fault, is over with the next instruction: a fault's image has it again. What RF keeps away is not there, so that the
// instruction need not run alone; only an interrupt that comes before it, though it was not there yet just now, finds RF gone.
void begin_without_breakpoints(VcpuState& vcpu) { vcpu.system_flags &= ~kRF; }

// Where an instruction that has changed rip or the mode goes on, when nothing is due before the next one; else null. Everything that run_fast()
// looks at before it enters translated code has to be looked at here too.
const void* go_on_directly(Vcpu& vcpu) {
  Engine& engine = engine_of(vcpu);
  if (vcpu.vm->off & kSwitchDirectJumps || vcpu.attention || engine.stepping || engine.completing || engine.exclusive || engine.smc_count ||
      engine.writes_open || engine.ahead_left || engine.profile.native || engine.profile.held || vcpu.single_step_pending ||
      vcpu.system_flags & kTF || vcpu.injected.pending || vcpu.guest_debug.control || breakpoints_armed(vcpu) ||
      vcpu.run->request_interrupt_window)
    return nullptr;
  const uint64_t linear = rip_linear(vcpu);
  const JumpEntry& known = engine.jump[view_of(vcpu.mode)][jump_index(linear)];
  engine.target = linear;
  const bool straight = known.tag == linear && ((vcpu.mode & kModeCodeMask) == kModeCode64 || vcpu.mode & kModeFlatCode);
  const void* code = straight ? known.code : find_code(vcpu, linear, vcpu.mode);
  if (code) begin_without_breakpoints(vcpu);
  return code;
}
const void* const kLeave = reinterpret_cast<const void*>(1);
}  // namespace

// Null: go on behind the instruction; 1: translated code is left; else where to go on, at Engine::target.
extern "C" const void* softkvm_callout(VcpuState* vcpu, const CalloutRecord* record) {
  Engine& engine = engine_of(*vcpu);
  engine.counters.call_outs++;
  set_rip_linear(*vcpu, vcpu->page_base + record->page_offset);
  uint32_t mode = vcpu->mode;
  Outcome outcome;
  engine.need_step = engine.need_exclusive = false;
  // A shadow that an earlier instruction cast is over, or is over after this one; a new one is told apart from it.
  const bool sti = vcpu->interrupt_shadow_sti, mov_ss = vcpu->interrupt_shadow_mov_ss;
  vcpu->interrupt_shadow_sti = vcpu->interrupt_shadow_mov_ss = false;
  switch (static_cast<Callout>(record->what)) {
    case Callout::kSystem: outcome = execute_system(*vcpu, record->insn); break;
    case Callout::kString: outcome = execute_string(*vcpu, record->insn); break;
    case Callout::kSpecial: outcome = execute_special(*vcpu, record->insn); break;
    case Callout::kNoDevice: outcome = vcpu->raise(kNM); break;
    case Callout::kGeneralProtection: outcome = vcpu->raise(kGP, 0); break;
    default: outcome = vcpu->raise(kUD); break;
  }
  if (outcome == Outcome::kExit || outcome == Outcome::kFault) {
    vcpu->interrupt_shadow_sti = sti;  // not done
    vcpu->interrupt_shadow_mov_ss = mov_ss;
  } else if (vcpu->interrupt_shadow_sti || vcpu->interrupt_shadow_mov_ss) {
    engine.shadow_rip = vcpu->rip + (outcome == Outcome::kNext ? record->insn.length : 0);
  }
  // A guest that spins may wait for a vCPU which has no host CPU: let it have this one.
  constexpr uint32_t kPausesPerYield = 64;
  if (record->insn.mnemonic == Mnemonic::kPause && ++engine.pauses % kPausesPerYield == 0 && vcpu->vm->vcpus.size() > 1)
    raw_syscall(SYS_sched_yield);
  if (engine.interrupt_waiting && vcpu->system_flags & kIF) vcpu->attention = 1;
  switch (outcome) {
    case Outcome::kNext:
      // What the instruction made deliverable comes before the next one.
      if (vcpu->mode == mode && !vcpu->attention && !engine.smc_count) return nullptr;
      set_rip_linear(*vcpu, vcpu->page_base + record->page_offset + record->insn.length);
      [[fallthrough]];
    case Outcome::kJump:
      engine.reason = kReasonJump;
      if (const void* code = go_on_directly(static_cast<Vcpu&>(*vcpu))) return code;
      break;
    case Outcome::kFault: engine.reason = kReasonFault; break;
    case Outcome::kExit: engine.reason = engine.need_exclusive ? kReasonExclusive : engine.need_step ? kReasonStep : kReasonExit; break;
    case Outcome::kHalt: engine.reason = kReasonHalt; break;
  }
  return kLeave;
}

// Runs `deliver_it` so that its pushes may meet devices and code: like a step-mode instruction. Where it has to read a device outside of the hypervisor (an IDT
// there, say) the event is lost, and KVM_RUN says so as the kernel's module does: it is no instruction that could be begun again with the answer.
template <class F>
Outcome deliver_with(VcpuState& vcpu, F deliver_it) {
  Engine& engine = engine_of(vcpu);
  engine.fragment_count = 0;
  begin_step(engine);
  Outcome outcome = deliver_it();
  if (outcome == Outcome::kExit) {
    engine.event_lost = engine.fragment_open;  // else it is a shutdown; of its frame nothing is left behind either
    drop_open(engine);
  } else {
    commit_step(vcpu);
  }
  vcpu.fault.pending = false;
  return outcome;
}

void count_exception(Engine& engine, const PendingException& event) {
  engine.counters.exceptions++;
  engine.counters.pf_guest += event.vector == kPFv;
}

bool shadowed(const VcpuState& vcpu) {
  return (vcpu.interrupt_shadow_sti || vcpu.interrupt_shadow_mov_ss) && engine_of(vcpu).shadow_rip == vcpu.rip;
}

// Events due before the next instruction. kNext: none (left).
Outcome take_events(Vcpu& vcpu) {
  Engine& engine = engine_of(vcpu);
  engine.interrupt_waiting = false;
  if (vcpu.injected.pending) {
    PendingException event = vcpu.injected;
    vcpu.injected.pending = false;
    vcpu.halted = false;
    if (event.interrupt) doubt_code(vcpu), engine.counters.irq_injections++;
    else count_exception(engine, event);
    Outcome o = deliver_with(vcpu, [&] { return event.interrupt ? deliver_interrupt(vcpu, event.vector) : deliver(vcpu, event, 0); });
    if (o == Outcome::kExit) return o;
  }
  constexpr uint32_t kBlocked = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ;
  if ((vcpu.guest_debug.control & kBlocked) == kBlocked) {  // the debugger wants none while it steps
    if (!shadowed(vcpu)) vcpu.interrupt_shadow_sti = vcpu.interrupt_shadow_mov_ss = false;
    return Outcome::kNext;
  }
  if (vcpu.nmi_injected) {
    vcpu.nmi_injected = false;
    engine.counters.nmi_injections++;
    Outcome o = deliver_with(vcpu, [&] { return deliver_nmi(vcpu); });
    if (o == Outcome::kExit) return o;
  }
  if (vcpu.nmi_request.load(std::memory_order_relaxed)) {
    // Two that arrive at once are both serviced: one goes to the CPU, the latch holds the other.
    unsigned most = vcpu.nmi_masked ? 1 : 2, count = vcpu.nmi_pending + vcpu.nmi_request.exchange(0);
    vcpu.nmi_pending = static_cast<uint8_t>(count < most ? count : most);
  }
  bool shadow = shadowed(vcpu);
  if (vcpu.smi_request.load(std::memory_order_relaxed)) {
    vcpu.smi_request.store(false);
    vcpu.smi_pending = true;
  }
  if (vcpu.smi_pending && !vcpu.in_smm) {
    if (shadow) {
      vcpu.attention = 1;
    } else {
      vcpu.halted = false;
      if (enter_smm(vcpu) == Outcome::kExit) return Outcome::kExit;
    }
  }
  if (!shadow) vcpu.interrupt_shadow_sti = vcpu.interrupt_shadow_mov_ss = false;
  if (vcpu.nmi_pending && !vcpu.nmi_masked) {
    if (shadow) {
      vcpu.attention = 1;
    } else {
      vcpu.nmi_pending--;
      vcpu.halted = false;
      engine.counters.nmi_injections++;
      Outcome o = deliver_with(vcpu, [&] { return deliver_nmi(vcpu); });
      if (o == Outcome::kExit) return o;
    }
  }
  if (interrupt_pending(vcpu)) {
    const bool soft = vcpu.user_interrupt >= 0 && vcpu.user_interrupt_soft;  // an INT n that comes whatever IF says
    if ((vcpu.system_flags & kIF || soft) && !shadow) {
      int vector = acknowledge_interrupt(vcpu);
      if (vector >= 0) {
        vcpu.halted = false;
        doubt_code(vcpu);
        engine.counters.irq_injections++;
        Outcome o = deliver_with(vcpu, [&] { return deliver_interrupt(vcpu, static_cast<uint8_t>(vector)); });
        if (o == Outcome::kExit) return o;
        if (interrupt_pending(vcpu)) engine.interrupt_waiting = true;
      }
    } else {
      engine.interrupt_waiting = true;
      if (shadow) vcpu.attention = 1;
    }
  }
  return Outcome::kNext;
}

}  // namespace

void set_rip_linear(VcpuState& vcpu, uint64_t linear) {
  if (vcpu.in_64bit()) {
    vcpu.rip = linear;
  } else {
    vcpu.rip = static_cast<uint32_t>(linear - vcpu.segment[kCS].base);  // 64 KiB and more where code has run off the end of a 16-bit segment
  }
}

bool within_code(const VcpuState& vcpu, uint64_t linear, unsigned size) {
  const Segment& cs = vcpu.segment[kCS];
  return uint64_t{static_cast<uint32_t>(linear - cs.base)} + size - 1 <= cs.limit;
}

uint32_t code_edges(const VcpuState& vcpu, uint64_t linear) {
  if (vcpu.mode & kModeFlatCode) return 0;
  const Segment& cs = vcpu.segment[kCS];
  if (cs.limit == 0xffffffff) return 0;
  const uint32_t first = static_cast<uint32_t>((linear & kPageMask) - cs.base), last = first + 4095;
  return (last > cs.limit || (last < first && first <= cs.limit) ? kModeCodeEnds : 0) | (last < first ? kModeCodeBegins : 0);
}

uint64_t rip_linear(const VcpuState& vcpu) {
  return vcpu.in_64bit() ? vcpu.rip : (vcpu.segment[kCS].base + vcpu.rip) & 0xffffffffull;
}

void flush_jump_cache(VcpuState& vcpu, unsigned view, bool keep_global) {
  Engine& engine = engine_of(vcpu);
  auto drop = [&](unsigned i) { engine.jump[view][i].tag = no_jump(i); };
  if (vcpu.vm->off & kSwitchFillLog) engine.jump_log[view].forget();
  engine.jump_log[view].drain(kJumpEntries, drop);
  if (keep_global) return;
  engine.jump_log_global[view].drain(kJumpEntries, drop);
  engine.jump_sure[view].count = 0;
}

void flush_all_jump_caches(VcpuState& vcpu) {
  for (unsigned v = 0; v < kViews; v++) {
    flush_jump_cache(vcpu, v);
    engine_of(vcpu).jump_pages[v].clear();
  }
  engine_of(vcpu).sure.clear();
}

void doubt_code(Vcpu& vcpu) {
  if (!vcpu.vm->unseen_writes) return;
  Engine& engine = engine_of(vcpu);
  engine.counters.code_doubts++;
  if (vcpu.vm->off & kSwitchDoubtedJumps) return flush_all_jump_caches(vcpu);
  const bool settle = engine.sure.to_be_settled(vcpu.vm->code->links_made() - engine.sure.own_links()) && !(vcpu.vm->off & kSwitchSettledDoubts);
  if (settle && engine.sure.all_as_it_was(vcpu)) return;
  engine.sure.clear();
  for (unsigned v = 0; v < kViews; v++)
    engine.jump_sure[v].drain(kJumpEntries, [&](unsigned i) {
      uint64_t& tag = engine.jump[v][i].tag;
      if (jump_index(tag) == i) tag = doubted_tag(tag);
    });
}

void expect_answer(Vcpu& vcpu) {
  const uint64_t ticks = Vm::foreign_ticks.load(std::memory_order_relaxed);
  Vm& vm = *vcpu.vm;
  if (!ticks || !vm.unseen_writes) return;
  vm.alert_until.store(__builtin_ia32_rdtsc() + ticks);
  for (Vcpu* other : vm.vcpus) {
    Engine& engine = engine_of(*other);
    if (engine.alert && other == &vcpu) continue;
    engine.alert_request.store(true);
    __atomic_store_n(&other->attention, 1, __ATOMIC_SEQ_CST);
  }
}

Action run_fast(Vcpu& vcpu) {
  Engine& engine = engine_of(vcpu);
  auto stop = [&](Action action) {
    engine.running.store(0, std::memory_order_release);
    return action;
  };
  engine.running.store(1);
  if (vcpu.vm->exclusive.load() && !engine.exclusive) return stop(Action::kRequests);
  // INIT and SIPI wait for the end of SMM.
  auto requested = [&] { return engine.requests.load() || (!vcpu.in_smm && (vcpu.init_pending.load() || vcpu.sipi_pending.load())); };
  bool ran = false;
  bool step = engine.step_next;  // the next instruction in step mode
  engine.step_next = false;
  for (;;) {
    if (ran && engine.exclusive) {  // one instruction is enough
      engine.step_next = step;
      return stop(Action::kRequests);
    }
    if (requested()) {
      engine.step_next = step;
      return stop(Action::kRequests);
    }
    if (engine.exit_request.load(std::memory_order_relaxed) && !engine.completing) return stop(Action::kInterrupted);
    vcpu.attention = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (requested() || (engine.exit_request.load() && !engine.completing)) continue;
    if (engine.doubt_due) {  // here slots and code stay as they are
      engine.doubt_due = false;
      doubt_code(vcpu);
    }
    if (!engine.completing) {
      if (take_events(vcpu) == Outcome::kExit) return stop(Action::kExit);
      if (engine.smc_count) {
        engine.step_next = step;
        return stop(Action::kInvalidate);
      }
      if (engine.writes_open) return stop(Action::kExit);
      if (vcpu.dirty_ring && vcpu.dirty_ring->full()) {
        vcpu.run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
        engine.step_next = step;
        return stop(Action::kExit);
      }
      if (vcpu.halted && !vcpu.vm->irqchip) return stop(Action::kHalt);
      if (window_exit(vcpu)) return stop(Action::kExit);  // also behind STI and HLT, for whose shadow it has waited
      if (vcpu.halted) return stop(Action::kHalt);
    }
    if (engine.profile.native && !step && !engine.completing && vcpu.cpl == 3) return stop(Action::kNative);
    if (engine.alert_request.exchange(false)) {
      engine.alert = true;
      flush_all_jump_caches(vcpu);
    }
    uint32_t mode = vcpu.mode;
    bool trap = vcpu.system_flags & kTF;
    bool debug_step = vcpu.guest_debug.control & KVM_GUESTDBG_SINGLESTEP && vcpu.guest_debug.control & KVM_GUESTDBG_ENABLE;
    const bool resume = vcpu.system_flags & kRF, armed = breakpoints_armed(vcpu);
    step |= trap || debug_step || engine.completing || vcpu.attention || armed;
    if (engine.profile.held && !step) {
      step = engine.profile.step_on(rip_linear(vcpu));
      if (engine.profile.native) continue;
    }
    if (step) mode |= kModeStep;
    const uint64_t entry_rip = vcpu.rip;
    const bool in_shadow = shadowed(vcpu);
    uint64_t linear = rip_linear(vcpu);
    vcpu.single_step_pending = trap;
    // Intel's CPUs inhibit instruction breakpoints behind MOV SS and POP SS, AMD's do not.
    const bool inhibited = in_shadow && vcpu.interrupt_shadow_mov_ss && !vcpu.vendor_is_amd;
    uint8_t hits = armed && !resume && !engine.completing && !inhibited ? instruction_breakpoints(vcpu, linear) : 0;
    // As translated code does at an indirect jump; where CS has a limit, a far jump may have changed it.
    const JumpEntry& known = engine.jump[view_of(mode)][jump_index(linear)];
    const bool straight = !step && known.tag == linear && ((mode & kModeCodeMask) == kModeCode64 || mode & kModeFlatCode);
    const void* code = hits ? nullptr : straight ? known.code : find_code(vcpu, linear, mode);
    if (hits) {
      vcpu.raise(kDB);
      vcpu.fault.payload = hits;
      engine.reason = kReasonFault;
    } else if (!code) {
      if (engine.reason == kReasonTranslate) {
        engine.target_mode = mode;
        engine.step_next = step;
        return stop(Action::kTranslate);
      }
    } else {
      if (step) {
        engine.counters.steps++;
        begin_step(engine);
        engine.watching = armed ? watched(vcpu) : 0;
        engine.watch_hits = 0;
      }
      begin_without_breakpoints(vcpu);  // where there are, it is a step
      engine.link_site = nullptr;
      softkvm_enter(code, linear);
      if (step && engine.reason == kReasonStepDone && masked_store_again(engine)) softkvm_enter(code, linear);
      ran = true;
      engine.counters.leaves++;
      engine.watching = 0;
    }
    switch (engine.reason) {
      case kReasonAttention:
        set_rip_linear(vcpu, engine.target);
        step = false;
        break;
      case kReasonTranslate:
      case kReasonLink:
        set_rip_linear(vcpu, engine.target);
        engine.target_mode = engine.reason == kReasonLink ? engine.link_mode : vcpu.mode;
        engine.step_next = false;
        return stop(Action::kTranslate);
      case kReasonStep:
        if (engine.stepping) return stop(Action::kStuck);
        step = true;
        continue;
      case kReasonStepDone:
        set_rip_linear(vcpu, engine.target);
        [[fallthrough]];
      case kReasonJump:
      case kReasonHalt: {
        bool was_stepping = engine.stepping;
        if (was_stepping) commit_step(vcpu);
        // The instruction in the shadow is done, even if it jumped to itself.
        if (was_stepping && in_shadow && engine.shadow_rip == entry_rip) {
          vcpu.interrupt_shadow_sti = vcpu.interrupt_shadow_mov_ss = false;
        }
        step = false;
        engine.completing = engine.ahead_left != 0;  // a repeated INS takes all that it was given before anything else
        if (engine.reason == kReasonHalt) vcpu.halted = true;
        if (was_stepping && debug_step) {
          engine.debug_exit = true;
          return stop(engine.smc_count ? Action::kInvalidate : Action::kExit);
        }
        uint8_t data_hits = was_stepping ? engine.watch_hits | vcpu.held_breakpoints : 0;
        vcpu.held_breakpoints = 0;
        if (data_hits || vcpu.single_step_pending) {
          // A new MOV SS shadow puts data breakpoints off and swallows the single step.
          if (vcpu.interrupt_shadow_mov_ss && shadowed(vcpu)) {
            vcpu.held_breakpoints = data_hits;
            if (engine.smc_count) return stop(Action::kInvalidate);
            if (engine.writes_open) return stop(Action::kExit);
            if (data_hits) vcpu.attention = 1;
            break;
          }
          PendingException event{};
          event.pending = true;
          event.vector = kDB;
          event.payload = data_hits | (vcpu.single_step_pending ? 1u << 14 : 0);
          vcpu.single_step_pending = false;
          if (data_hits && debug_trap_exit(vcpu, event)) return stop(engine.smc_count ? Action::kInvalidate : Action::kExit);
          if (engine.writes_open) {  // what the instruction has written to devices leaves first
            vcpu.injected = event;
            return stop(engine.smc_count ? Action::kInvalidate : Action::kExit);
          }
          count_exception(engine, event);
          if (deliver_with(vcpu, [&] { return deliver(vcpu, event, 0); }) == Outcome::kExit) return stop(Action::kExit);
        }
        if (engine.smc_count) return stop(Action::kInvalidate);
        if (engine.writes_open) return stop(Action::kExit);
        break;
      }
      case kReasonFault:
      case kReasonHostFault: {
        if (engine.memory_gone) {
          engine.stepping = false;
          return stop(Action::kExit);  // KVM_RUN returns EFAULT
        }
        PendingException event = vcpu.fault;
        vcpu.fault.pending = false;
        step = false;
        engine.completing = false;
        engine.ahead_left = 0;
        engine.io_answered = false;
        if (engine.stepping && engine.writes_stand && engine.write_count) {
          // What was written to devices before the fault leaves first.
          vcpu.injected = event;
          commit_step(vcpu);
          if (engine.smc_count) return stop(Action::kInvalidate);
          if (engine.writes_open) return stop(Action::kExit);
          break;
        }
        if (debug_trap_exit(vcpu, event)) return stop(Action::kExit);
        count_exception(engine, event);
        if (deliver_with(vcpu, [&] { return deliver(vcpu, event, 0); }) == Outcome::kExit) return stop(Action::kExit);
        if (engine.smc_count) return stop(Action::kInvalidate);
        if (engine.writes_open) return stop(Action::kExit);
        break;
      }
      case kReasonExclusive:
        if (engine.exclusive) return stop(Action::kStuck);
        engine.step_next = true;
        return stop(Action::kExclusive);
      case kReasonExit:
        engine.stepping = false;
        engine.completing = false;
        return stop(Action::kExit);
      default: return stop(Action::kStuck);
    }
  }
}

}  // namespace vireo::softkvm
