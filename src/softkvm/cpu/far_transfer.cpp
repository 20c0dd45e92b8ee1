// SPDX-License-Identifier: Apache-2.0
// Far jumps, calls and returns: real mode, code segments, call gates, and TSSs and task gates, which switch tasks.
// Spec: Intel SDM vol 2, JMP, CALL, RET; vol 3, 5.8 (privilege of code transfers), 6.8.3 (64-bit stacks); vol 1, 6.4.
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/stack.h"
#include "softkvm/cpu/system_instructions.h"
#include "softkvm/cpu/task_switch.h"

namespace vireo::softkvm {

namespace {

bool real_or_vm86(const VcpuState& vcpu) { return !vcpu.protected_mode() || vcpu.vm86(); }

void load_real_cs(VcpuState& vcpu, uint16_t selector) {
  if (vcpu.vm86())
    load_vm86_segment(vcpu, kCS, selector);
  else
    load_real_segment(vcpu, kCS, selector);
}

// May `code` be jumped to or called directly, at the current level?
Outcome check_direct(VcpuState& vcpu, const Descriptor& code) {
  uint32_t error = selector_error(code.selector);
  if (vcpu.long_mode_active() && code.l() && code.db()) return vcpu.raise(kGP, error);
  bool allowed = code.conforming() ? code.dpl() <= vcpu.cpl : (code.selector & 3u) <= vcpu.cpl && code.dpl() == vcpu.cpl;
  if (!allowed) return vcpu.raise(kGP, error);
  if (!code.present()) return vcpu.raise(kNP, error);
  return Outcome::kNext;
}

// Reads a call gate's second half where there is one, checks the gate and the code segment behind it. `jump`: no change of level.
Outcome through_gate(VcpuState& vcpu, Descriptor& gate, Descriptor& code, bool jump) {
  uint32_t error = selector_error(gate.selector);
  bool long_mode = vcpu.long_mode_active();
  if (gate.dpl() < vcpu.cpl || gate.dpl() < (gate.selector & 3u)) return vcpu.raise(kGP, error);
  if (long_mode) STEP(read_descriptor_high(vcpu, kGP, gate));
  if (!gate.present()) return vcpu.raise(kNP, error);
  uint16_t selector = gate.gate_selector();
  if (null_selector(selector)) return vcpu.raise(kGP, 0);
  STEP(read_descriptor(vcpu, selector, kGP, code));
  error = selector_error(selector);
  if (!code.code() || code.dpl() > vcpu.cpl) return vcpu.raise(kGP, error);
  if (jump && !code.conforming() && code.dpl() != vcpu.cpl) return vcpu.raise(kGP, error);
  if (long_mode && (!code.l() || code.db())) return vcpu.raise(kGP, error);
  if (!code.present()) return vcpu.raise(kNP, error);
  return Outcome::kNext;
}

uint64_t gate_target(const VcpuState& vcpu, const Descriptor& gate) {
  if (vcpu.long_mode_active()) return gate.gate_offset();
  return gate.type() & 8 ? gate.gate_offset() & 0xffffffff : gate.gate_offset() & 0xffff;
}

Outcome enter(VcpuState& vcpu, const Descriptor& code, unsigned cpl, uint64_t rip) {
  set_cs(vcpu, code, cpl);
  vcpu.rip = rip;
  update_mode(vcpu);
  return Outcome::kJump;
}

Outcome switch_task(VcpuState& vcpu, const Insn& insn, const Descriptor& d, TaskSwitchCause cause) {
  uint32_t error = selector_error(d.selector);
  if (d.dpl() < vcpu.cpl || d.dpl() < (d.selector & 3u)) return vcpu.raise(kGP, error);
  if (!d.present()) return vcpu.raise(kNP, error);
  uint16_t tss = d.system_type() == kTaskGate ? d.gate_selector() : d.selector;
  return task_switch(vcpu, tss, cause, next_rip(vcpu, insn.length), false, 0);
}

Outcome call_inner(VcpuState& vcpu, const Insn& insn, const Descriptor& gate, Descriptor& code, uint64_t rip) {
  unsigned cpl = code.dpl();
  uint64_t next = next_rip(vcpu, insn.length);
  if (vcpu.long_mode_active()) {
    uint64_t rsp;
    STEP(read_tss_stack_long(vcpu, cpl, 0, rsp));
    if (bad_target(vcpu, code, rip)) return vcpu.raise(kGP, 0);
    STEP(mark_accessed(vcpu, code));
    uint64_t frame[4] = {next, vcpu.segment[kCS].selector, vcpu.gpr[kRsp], vcpu.segment[kSS].selector};
    STEP(write_linear(vcpu, rsp - sizeof frame, frame, sizeof frame, true, true));
    vcpu.segment[kSS] = null_stack_segment(cpl);
    vcpu.gpr[kRsp] = rsp - sizeof frame;
    return enter(vcpu, code, cpl, rip);
  }
  uint16_t selector;
  uint64_t sp;
  STEP(read_tss_stack(vcpu, cpl, selector, sp));
  if (null_selector(selector)) return vcpu.raise(kTS, 0);
  Descriptor ss;
  STEP(check_stack_segment(vcpu, selector, cpl, kTS, ss));
  if (bad_target(vcpu, code, rip)) return vcpu.raise(kGP, 0);
  STEP(mark_accessed(vcpu, ss));
  STEP(mark_accessed(vcpu, code));

  unsigned size = gate.type() & 8 ? 4 : 2, count = gate.gate_count();
  uint64_t parameters[31];
  Stack old_stack(vcpu);
  for (unsigned i = 0; i < count; i++) STEP(old_stack.pop(parameters[i], size));
  Segment new_ss = ss.segment();
  Stack stack(vcpu, new_ss, sp, false, true, selector_error(selector));
  STEP(stack.push(vcpu.segment[kSS].selector, size));
  STEP(stack.push(vcpu.gpr[kRsp], size));
  for (unsigned i = count; i-- > 0;) STEP(stack.push(parameters[i], size));
  STEP(stack.push(vcpu.segment[kCS].selector, size));
  STEP(stack.push(next, size));
  vcpu.segment[kSS] = new_ss;
  stack.commit();
  return enter(vcpu, code, cpl, rip);
}

// The return address of a call at the current level, then the transfer.
Outcome call_same(VcpuState& vcpu, const Insn& insn, Descriptor& code, uint64_t rip, unsigned size) {
  if (bad_target(vcpu, code, rip)) return vcpu.raise(kGP, 0);
  Stack stack(vcpu);
  STEP(stack.push(vcpu.segment[kCS].selector, size));
  STEP(stack.push(next_rip(vcpu, insn.length), size));
  STEP(mark_accessed(vcpu, code));
  stack.commit();
  return enter(vcpu, code, vcpu.cpl, rip);
}

}  // namespace

Outcome jump_far(VcpuState& vcpu, const Insn& insn, uint16_t selector, uint64_t offset) {
  offset &= size_mask(insn.operand_size);
  if (real_or_vm86(vcpu)) {
    if (offset > vcpu.segment[kCS].limit) return vcpu.raise(kGP, 0);
    load_real_cs(vcpu, selector);
    vcpu.rip = offset;
    update_mode(vcpu);
    return Outcome::kJump;
  }
  if (null_selector(selector)) return vcpu.raise(kGP, 0);
  Descriptor d;
  STEP(read_descriptor(vcpu, selector, kGP, d));
  if (d.code()) {
    STEP(check_direct(vcpu, d));
    if (bad_target(vcpu, d, offset)) return vcpu.raise(kGP, 0);
    STEP(mark_accessed(vcpu, d));
    return enter(vcpu, d, vcpu.cpl, offset);
  }
  bool long_mode = vcpu.long_mode_active();
  switch (d.system_type()) {
    case kCallGate16:
      if (long_mode) break;
      [[fallthrough]];
    case kCallGate32: {
      Descriptor code;
      STEP(through_gate(vcpu, d, code, true));
      uint64_t rip = gate_target(vcpu, d);
      if (bad_target(vcpu, code, rip)) return vcpu.raise(kGP, 0);
      STEP(mark_accessed(vcpu, code));
      return enter(vcpu, code, vcpu.cpl, rip);
    }
    case kTaskGate: case kTss16Available: case kTss32Available:
      if (long_mode) break;
      return switch_task(vcpu, insn, d, TaskSwitchCause::kJump);
    default: break;
  }
  return vcpu.raise(kGP, selector_error(selector));
}

Outcome call_far(VcpuState& vcpu, const Insn& insn, uint16_t selector, uint64_t offset) {
  unsigned size = insn.operand_size;
  offset &= size_mask(size);
  if (real_or_vm86(vcpu)) {
    if (offset > vcpu.segment[kCS].limit) return vcpu.raise(kGP, 0);
    Stack stack(vcpu);
    STEP(stack.push(vcpu.segment[kCS].selector, size));
    STEP(stack.push(next_rip(vcpu, insn.length), size));
    stack.commit();
    load_real_cs(vcpu, selector);
    vcpu.rip = offset;
    update_mode(vcpu);
    return Outcome::kJump;
  }
  if (null_selector(selector)) return vcpu.raise(kGP, 0);
  Descriptor d;
  STEP(read_descriptor(vcpu, selector, kGP, d));
  if (d.code()) {
    STEP(check_direct(vcpu, d));
    return call_same(vcpu, insn, d, offset, size);
  }
  bool long_mode = vcpu.long_mode_active();
  switch (d.system_type()) {
    case kCallGate16:
      if (long_mode) break;
      [[fallthrough]];
    case kCallGate32: {
      Descriptor code;
      STEP(through_gate(vcpu, d, code, false));
      uint64_t rip = gate_target(vcpu, d);
      if (!code.conforming() && code.dpl() < vcpu.cpl) return call_inner(vcpu, insn, d, code, rip);
      return call_same(vcpu, insn, code, rip, long_mode ? 8 : d.type() & 8 ? 4 : 2);
    }
    case kTaskGate: case kTss16Available: case kTss32Available:
      if (long_mode) break;
      return switch_task(vcpu, insn, d, TaskSwitchCause::kCall);
    default: break;
  }
  return vcpu.raise(kGP, selector_error(selector));
}

Outcome check_return_code(VcpuState& vcpu, uint16_t selector, Descriptor& code) {
  if (null_selector(selector)) return vcpu.raise(kGP, 0);
  uint32_t error = selector_error(selector);
  unsigned rpl = selector & 3;
  STEP(read_descriptor(vcpu, selector, kGP, code));
  if (!code.code() || rpl < vcpu.cpl || (code.conforming() ? code.dpl() > rpl : code.dpl() != rpl)) return vcpu.raise(kGP, error);
  if (vcpu.long_mode_active() && code.l() && code.db()) return vcpu.raise(kGP, error);
  if (!code.present()) return vcpu.raise(kNP, error);
  return Outcome::kNext;
}

Outcome check_return_stack(VcpuState& vcpu, uint16_t selector, const Descriptor& code, unsigned cpl, Segment& ss) {
  if (null_selector(selector)) {
    if (!vcpu.long_mode_active() || !code.l() || cpl == 3 || (selector & 3u) != cpl) return vcpu.raise(kGP, 0);
    ss = null_stack_segment(cpl);
    return Outcome::kNext;
  }
  Descriptor d;
  STEP(check_stack_segment(vcpu, selector, cpl, kGP, d));
  STEP(mark_accessed(vcpu, d));
  ss = d.segment();
  return Outcome::kNext;
}

Outcome return_far(VcpuState& vcpu, const Insn& insn, unsigned release) {
  unsigned size = insn.operand_size;
  Stack stack(vcpu);
  uint64_t rip, cs;
  STEP(stack.pop(rip, size));
  STEP(stack.pop(cs, size));
  uint16_t selector = static_cast<uint16_t>(cs);
  if (real_or_vm86(vcpu)) {
    if (rip > vcpu.segment[kCS].limit) return vcpu.raise(kGP, 0);
    stack.skip(release);
    stack.commit();
    load_real_cs(vcpu, selector);
    vcpu.rip = rip;
    update_mode(vcpu);
    return Outcome::kJump;
  }
  Descriptor code;
  STEP(check_return_code(vcpu, selector, code));
  if (bad_target(vcpu, code, rip)) return vcpu.raise(kGP, 0);
  unsigned rpl = selector & 3;
  stack.skip(release);
  if (rpl == vcpu.cpl) {
    STEP(mark_accessed(vcpu, code));
    stack.commit();
    return enter(vcpu, code, rpl, rip);
  }
  uint64_t sp, ss_value;
  STEP(stack.pop(sp, size));
  STEP(stack.pop(ss_value, size));
  Segment ss;
  STEP(check_return_stack(vcpu, static_cast<uint16_t>(ss_value), code, rpl, ss));
  STEP(mark_accessed(vcpu, code));
  bool flat64 = vcpu.long_mode_active() && code.l();
  vcpu.segment[kSS] = ss;
  // A 16-bit stack takes SP alone; the rest of ESP is what it was (the leak that espfix hides).
  vcpu.gpr[kRsp] = flat64 || ss.db() ? sp : (vcpu.gpr[kRsp] & ~0xffffull) | (sp & 0xffff);
  Stack released(vcpu, vcpu.segment[kSS], vcpu.gpr[kRsp], flat64, false);
  released.skip(release);
  released.commit();
  drop_inner_segments(vcpu, rpl);
  return enter(vcpu, code, rpl, rip);
}

}  // namespace vireo::softkvm
