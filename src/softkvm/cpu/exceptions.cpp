// SPDX-License-Identifier: Apache-2.0
// Delivery of exceptions and interrupts through the IVT and the IDT.
// Spec: Intel SDM vol 3, chapter 6 (6.12 calling handlers, 6.13 error codes, 6.14 64-bit mode, 6.15 table 6-5 double faults),
// 17.3.1.1 (RF), 20.2.3 and 20.3.3 (software interrupts in virtual-8086 mode), vol 2 INT n.
#include <linux/kvm.h>

#include <initializer_list>

#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/software_interrupt.h"
#include "softkvm/cpu/stack.h"
#include "softkvm/cpu/task_switch.h"

namespace vireo::softkvm {

namespace {

enum class EventKind : uint8_t { kException, kSoftware, kPrivilegedSoftware /*int1*/, kExternal, kNmi };

struct Event {
  uint8_t vector;
  EventKind kind;
  bool has_error;
  uint32_t error;
  uint64_t payload;
  uint64_t rip;  // where the handler returns to

  bool software() const { return kind == EventKind::kSoftware; }
  uint32_t idt_error() const { return vector * 8u + 2; }
};

constexpr uint64_t kDr6Bd = 1 << 13;
constexpr uint64_t kDr6ActiveLow = 0xffff0ff0;  // bits that read as one, cleared to report (RTM, bus lock)

// The RFLAGS image a handler finds: RF is set for faults, but for those of instruction breakpoints.
uint64_t flags_image(const VcpuState& vcpu, const Event& e) {
  uint64_t flags = vcpu.rflags();
  if (e.kind == EventKind::kSoftware || e.kind == EventKind::kPrivilegedSoftware) return flags & ~static_cast<uint64_t>(kRF);
  if (e.kind != EventKind::kException) return flags;
  bool fault = e.vector == kDB ? (e.payload & kDr6Bd) : e.vector != kBP && e.vector != kOFv && e.vector != kMC;
  return fault ? flags | kRF : flags;
}

Outcome deliver_real(VcpuState& vcpu, const Event& e, const DescriptorTable& ivt) {
  if (e.vector * 4u + 3 > ivt.limit) return vcpu.raise(kGP, e.idt_error());
  uint32_t entry;
  STEP(read_linear(vcpu, ivt.base + e.vector * 4u, &entry, 4, true));
  uint64_t flags = flags_image(vcpu, e);
  Stack stack(vcpu);
  STEP(stack.push(flags & 0xffff, 2));
  STEP(stack.push(vcpu.segment[kCS].selector, 2));
  STEP(stack.push(e.rip & 0xffff, 2));
  if ((entry & 0xffff) > vcpu.segment[kCS].limit) return vcpu.raise(kGP, 0);
  stack.commit();
  load_real_segment(vcpu, kCS, static_cast<uint16_t>(entry >> 16));
  vcpu.rip = entry & 0xffff;
  vcpu.system_flags &= ~(kIF | kTF | kAC | kRF);
  update_mode(vcpu);
  return Outcome::kJump;
}

Outcome check_gate(VcpuState& vcpu, const Event& e, const Descriptor& gate) {
  if (e.software() && gate.dpl() < vcpu.cpl) return vcpu.raise(kGP, e.idt_error());
  if (!gate.present()) return vcpu.raise(kNP, e.idt_error());
  return Outcome::kNext;
}

// The code segment a gate leads to; `cpl` is the level the handler runs at.
Outcome handler_segment(VcpuState& vcpu, const Descriptor& gate, Descriptor& code, unsigned& cpl) {
  uint16_t selector = gate.gate_selector();
  if (null_selector(selector)) return vcpu.raise(kGP, 0);
  STEP(read_descriptor(vcpu, selector, kGP, code));
  uint32_t error = selector_error(selector);
  if (!code.code() || code.dpl() > vcpu.cpl) return vcpu.raise(kGP, error);
  if (vcpu.long_mode_active() && (!code.l() || code.db())) return vcpu.raise(kGP, error);
  if (!code.present()) return vcpu.raise(kNP, error);
  cpl = code.conforming() ? vcpu.cpl : code.dpl();
  return Outcome::kNext;
}

void enter_handler(VcpuState& vcpu, const Descriptor& gate, const Descriptor& code, unsigned cpl, uint64_t rip) {
  set_cs(vcpu, code, cpl);
  vcpu.rip = rip;
  vcpu.system_flags &= ~(kTF | kNT | kRF | kVM);
  if (!(gate.type() & 1)) vcpu.system_flags &= ~kIF;  // interrupt gate
  update_mode(vcpu);
}

Outcome deliver_long(VcpuState& vcpu, const Event& e) {
  if (e.vector * 16u + 15 > vcpu.idtr.limit) return vcpu.raise(kGP, e.idt_error());
  uint64_t words[2];
  STEP(read_linear(vcpu, vcpu.idtr.base + e.vector * 16u, words, 16, true));
  Descriptor gate;
  gate.low = words[0];
  gate.high = words[1] & 0xffffffff;
  if (gate.system_type() != kInterruptGate32 && gate.system_type() != kTrapGate32) return vcpu.raise(kGP, e.idt_error());
  STEP(check_gate(vcpu, e, gate));
  Descriptor code;
  unsigned cpl;
  STEP(handler_segment(vcpu, gate, code, cpl));
  unsigned ist = gate.low >> 32 & 7;
  uint64_t rsp = vcpu.gpr[kRsp];
  if (ist || cpl != vcpu.cpl) STEP(read_tss_stack_long(vcpu, cpl, ist, rsp));
  uint64_t rip = gate.gate_offset();
  if (!canonical(rip, vcpu.linear_bits)) return vcpu.raise(kGP, 0);
  STEP(mark_accessed(vcpu, code));

  uint64_t frame[6] = {e.error,         e.rip, vcpu.segment[kCS].selector, flags_image(vcpu, e), vcpu.gpr[kRsp],
                       vcpu.segment[kSS].selector};
  unsigned skip = e.has_error ? 0 : 1;
  unsigned size = (6 - skip) * 8;
  rsp = (rsp & ~15ull) - size;
  STEP(write_linear(vcpu, rsp, frame + skip, size, cpl < 3, true));

  if (cpl != vcpu.cpl) vcpu.segment[kSS] = null_stack_segment(cpl);
  vcpu.gpr[kRsp] = rsp;
  enter_handler(vcpu, gate, code, cpl, rip);
  return Outcome::kJump;
}

Outcome deliver_protected(VcpuState& vcpu, const Event& e) {
  if (e.vector * 8u + 7 > vcpu.idtr.limit) return vcpu.raise(kGP, e.idt_error());
  Descriptor gate;
  STEP(read_linear(vcpu, static_cast<uint32_t>(vcpu.idtr.base + e.vector * 8u), &gate.low, 8, true));
  unsigned type = gate.system_type();
  if (type != kTaskGate && type != kInterruptGate16 && type != kTrapGate16 && type != kInterruptGate32 && type != kTrapGate32)
    return vcpu.raise(kGP, e.idt_error());
  STEP(check_gate(vcpu, e, gate));
  if (type == kTaskGate) return task_switch(vcpu, gate.gate_selector(), TaskSwitchCause::kGate, e.rip, e.has_error, e.error);

  Descriptor code;
  unsigned cpl;
  STEP(handler_segment(vcpu, gate, code, cpl));
  if (vcpu.vm86() && cpl != 0) return vcpu.raise(kGP, selector_error(code.selector));
  bool wide = type & 8;
  uint64_t rip = wide ? gate.gate_offset() & 0xffffffff : gate.gate_offset() & 0xffff;
  unsigned size = wide ? 4 : 2;
  bool inner = cpl != vcpu.cpl;
  Segment new_ss = vcpu.segment[kSS];
  uint64_t sp = vcpu.gpr[kRsp];
  if (inner) {
    uint16_t selector;
    STEP(read_tss_stack(vcpu, cpl, selector, sp));
    if (null_selector(selector)) return vcpu.raise(kTS, 0);
    Descriptor ss;
    STEP(check_stack_segment(vcpu, selector, cpl, kTS, ss));
    STEP(mark_accessed(vcpu, ss));
    new_ss = ss.segment();
  }
  if (rip > code.limit()) return vcpu.raise(kGP, 0);
  STEP(mark_accessed(vcpu, code));

  Stack stack(vcpu, new_ss, sp, false, cpl < 3, inner ? selector_error(new_ss.selector) : 0);
  if (vcpu.vm86())
    for (SegmentRegister r : {kGS, kFS, kDS, kES}) STEP(stack.push(vcpu.segment[r].selector, size));
  if (inner) {
    STEP(stack.push(vcpu.segment[kSS].selector, size));
    STEP(stack.push(vcpu.gpr[kRsp], size));
  }
  STEP(stack.push(flags_image(vcpu, e), size));
  STEP(stack.push(vcpu.segment[kCS].selector, size));
  STEP(stack.push(e.rip, size));
  if (e.has_error) STEP(stack.push(e.error, size));

  if (vcpu.vm86())
    for (SegmentRegister r : {kGS, kFS, kDS, kES}) {
      vcpu.segment[r] = Segment{};
      vcpu.segment[r].unusable = true;
    }
  vcpu.segment[kSS] = new_ss;
  stack.commit();
  enter_handler(vcpu, gate, code, cpl, rip);
  return Outcome::kJump;
}

Outcome deliver_once(VcpuState& vcpu, const Event& e) {
  if (!vcpu.protected_mode()) return deliver_real(vcpu, e, vcpu.idtr);
  if (vcpu.long_mode_active()) return deliver_long(vcpu, e);
  return deliver_protected(vcpu, e);
}

enum class FaultClass : uint8_t { kBenign, kContributory, kPage, kDouble };

FaultClass fault_class(const Event& e) {
  if (e.kind != EventKind::kException) return FaultClass::kBenign;
  switch (e.vector) {
    case kDE: case kTS: case kNP: case kSSv: case kGP: case 21 /*#CP*/: return FaultClass::kContributory;
    case kPFv: case 20 /*#VE*/: return FaultClass::kPage;
    case kDFv: return FaultClass::kDouble;
    default: return FaultClass::kBenign;
  }
}

void apply_payload(VcpuState& vcpu, const Event& e) {
  if (e.kind != EventKind::kException) return;
  if (e.vector == kPFv) {
    vcpu.cr2 = e.payload;
    flush_faulted_page(vcpu, e.payload);
  }
  if (e.vector == kDB && e.payload) {
    vcpu.dr6 = (vcpu.dr6 & ~0xfull) | kDr6ActiveLow;
    vcpu.dr6 |= e.payload & ~kDr6ActiveLow;
    vcpu.dr6 &= ~(e.payload & kDr6ActiveLow);
  }
}

Outcome shutdown(VcpuState& vcpu) {
  if (vcpu.run) vcpu.run->exit_reason = KVM_EXIT_SHUTDOWN;
  return Outcome::kExit;
}

// Faults end in a shutdown soon. A task of #DB that has its T flag set need not, where its descriptor does not become busy: a CPU loops there (SDM vol 3,
// "Task-Switch Exception Condition"), but nobody could stop us.
constexpr unsigned kMostTries = 32;

Outcome deliver_event(VcpuState& vcpu, Event e) {
  for (unsigned tries = 0;; tries++) {
    if (tries == kMostTries) return shutdown(vcpu);
    apply_payload(vcpu, e);
    if (!vcpu.protected_mode()) e.has_error = false;
    Outcome outcome = deliver_once(vcpu, e);
    if (outcome == Outcome::kJump) {
      vcpu.interrupt_shadow_sti = vcpu.interrupt_shadow_mov_ss = false;
      vcpu.single_step_pending = false;
      vcpu.halted = false;
      if (e.kind == EventKind::kException && e.vector == kDB) vcpu.dr7 &= ~(1ull << 13);  // GD
      if (e.kind == EventKind::kNmi) vcpu.nmi_masked = true;
      vcpu.fault.pending = false;
      return outcome;
    }
    if (outcome != Outcome::kFault) return outcome;
    // A fault while delivering. Its EXT bit is set, but for software interrupts.
    PendingException second = vcpu.fault;
    vcpu.fault.pending = false;
    if (!e.software() && second.has_error && second.vector >= kTS && second.vector <= kGP) second.error |= 1;
    Event next{second.vector, EventKind::kException, second.has_error, second.error, second.payload, vcpu.rip};
    FaultClass was = fault_class(e), is = fault_class(next);
    bool bad = is == FaultClass::kContributory || is == FaultClass::kPage;
    if (was == FaultClass::kDouble && bad) return shutdown(vcpu);
    if ((was == FaultClass::kContributory && is == FaultClass::kContributory) || (was == FaultClass::kPage && bad)) {
      if (next.vector == kPFv) vcpu.cr2 = next.payload;
      next = Event{kDFv, EventKind::kException, true, 0, 0, vcpu.rip};
    }
    e = next;
  }
}

// INT n in virtual-8086 mode with CR4.VME: the redirection bitmap lies in the 32 bytes under the I/O bitmap.
Outcome redirected(VcpuState& vcpu, uint8_t vector, bool& to_monitor) {
  const Segment& tr = vcpu.tr;
  if (tr.unusable || tr.limit < 103) return vcpu.raise(kGP, 0);
  uint16_t base;
  STEP(read_linear(vcpu, tr.base + 102, &base, 2, true));
  uint32_t at = base - 32u + vector / 8;
  if (base < 32 || at > tr.limit) return vcpu.raise(kGP, 0);
  uint8_t bits;
  STEP(read_linear(vcpu, tr.base + at, &bits, 1, true));
  to_monitor = bits >> (vector & 7) & 1;
  return Outcome::kNext;
}

// INT n handled by the virtual-8086 program itself, through the IVT at linear 0 (SDM vol 3, 20.3.3, methods 5 and 6).
Outcome interrupt_vm86_program(VcpuState& vcpu, uint8_t vector, uint64_t rip) {
  uint32_t entry;
  STEP(read_linear(vcpu, vector * 4u, &entry, 4));
  bool virtual_if = iopl(vcpu) < 3;
  uint64_t flags = vcpu.rflags() & ~static_cast<uint64_t>(kRF);
  if (virtual_if) {
    flags |= kIOPL;
    flags = flags & kVIF ? flags | kIF : flags & ~static_cast<uint64_t>(kIF);
  }
  Stack stack(vcpu);
  STEP(stack.push(flags & 0xffff, 2));
  STEP(stack.push(vcpu.segment[kCS].selector, 2));
  STEP(stack.push(rip & 0xffff, 2));
  stack.commit();
  load_vm86_segment(vcpu, kCS, static_cast<uint16_t>(entry >> 16));
  vcpu.rip = entry & 0xffff;
  vcpu.system_flags &= ~(kTF | kNT | kRF | (virtual_if ? kVIF : kIF));
  update_mode(vcpu);
  return Outcome::kJump;
}

}  // namespace

Outcome deliver(VcpuState& vcpu, const PendingException& event, unsigned insn_length) {
  bool software = event.software;
  // #BP and #OF come of one-byte instructions alone: user space that injects one has rip at the instruction.
  if (event.vector == kBP || event.vector == kOFv) {
    software = true;
    if (!insn_length) insn_length = 1;
  }
  Event e{event.vector, software ? EventKind::kSoftware : EventKind::kException, event.has_error, event.error, event.payload,
          software ? next_rip(vcpu, insn_length) : vcpu.rip};
  return deliver_event(vcpu, e);
}

Outcome deliver_interrupt(VcpuState& vcpu, uint8_t vector) {
  return deliver_event(vcpu, Event{vector, EventKind::kExternal, false, 0, 0, vcpu.rip});
}

Outcome deliver_nmi(VcpuState& vcpu) { return deliver_event(vcpu, Event{kNMI, EventKind::kNmi, false, 0, 0, vcpu.rip}); }

Outcome software_interrupt(VcpuState& vcpu, uint8_t vector, SoftwareInterrupt kind, unsigned length) {
  uint64_t rip = next_rip(vcpu, length);
  if (kind == SoftwareInterrupt::kInt3 && vcpu.breakpoint_exits && vcpu.run) {
    uint64_t linear = vcpu.in_64bit() ? vcpu.rip : static_cast<uint32_t>(vcpu.segment[kCS].base + vcpu.rip);
    vcpu.run->exit_reason = KVM_EXIT_DEBUG;
    vcpu.run->debug.arch.exception = kBP;
    vcpu.run->debug.arch.pc = linear;
    vcpu.run->debug.arch.dr6 = vcpu.dr6;
    vcpu.run->debug.arch.dr7 = vcpu.dr7;
    return Outcome::kExit;
  }
  if (kind == SoftwareInterrupt::kIntN && vcpu.vm86()) {
    bool to_monitor = true;
    if (vcpu.cr4 & kCr4Vme) STEP(redirected(vcpu, vector, to_monitor));
    if (!to_monitor) return interrupt_vm86_program(vcpu, vector, rip);
    if (iopl(vcpu) < 3) return vcpu.raise(kGP, 0);
  }
  if (kind == SoftwareInterrupt::kInt1) {  // its #DB reports what waited for the MOV SS shadow's end
    vcpu.dr6 |= vcpu.held_breakpoints;
    vcpu.held_breakpoints = 0;
  }
  EventKind event = kind == SoftwareInterrupt::kInt1 ? EventKind::kPrivilegedSoftware : EventKind::kSoftware;
  return deliver_event(vcpu, Event{vector, event, false, 0, 0, rip});
}

}  // namespace vireo::softkvm
