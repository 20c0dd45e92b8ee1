// SPDX-License-Identifier: Apache-2.0
// IRET in all modes: real, virtual-8086 (IOPL and VME), protected to the same and outer levels, to virtual-8086 mode, to the previous task,
// 64-bit. It ends the blocking of NMIs. Spec: Intel SDM vol 2, IRET; vol 3, 6.7.1, 6.14.3, 20.2.
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/stack.h"
#include "softkvm/cpu/system_instructions.h"
#include "softkvm/cpu/task_switch.h"

namespace vireo::softkvm {

namespace {

constexpr uint64_t kSystemFlags = kTF | kIF | kDF | kIOPL | kNT | kRF | kVM | kAC | kVIF | kVIP | kID;

// RFLAGS after IRET popped `image` at level `cpl`: only the flags in `writable` of the system ones change.
void write_flags(VcpuState& vcpu, uint64_t image, uint64_t writable) {
  vcpu.set_status_flags(image);
  vcpu.system_flags = static_cast<uint32_t>((vcpu.system_flags & ~writable) | (image & writable & kSystemFlags));
}

uint64_t writable_flags(const VcpuState& vcpu, unsigned size) {
  uint64_t writable = kTF | kDF | kNT;
  if (size > 2) writable |= kRF | kAC | kID;
  if (vcpu.cpl <= iopl(vcpu)) writable |= kIF;
  if (vcpu.cpl == 0) writable |= size > 2 ? kIOPL | kVIF | kVIP : kIOPL;
  return writable;
}

Outcome iret_real(VcpuState& vcpu, unsigned size) {
  Stack stack(vcpu);
  uint64_t rip, cs, flags;
  STEP(stack.pop(rip, size));
  STEP(stack.pop(cs, size));
  STEP(stack.pop(flags, size));
  bool vm86 = vcpu.vm86(), virtual_if = false;
  if (vm86 && iopl(vcpu) < 3) {
    if (!(vcpu.cr4 & kCr4Vme) || size != 2) return vcpu.raise(kGP, 0);
    if ((flags & kTF) || ((flags & kIF) && (vcpu.system_flags & kVIP))) return vcpu.raise(kGP, 0);
    virtual_if = true;
  }
  if (rip > vcpu.segment[kCS].limit) return vcpu.raise(kGP, 0);
  stack.commit();
  if (vm86)
    load_vm86_segment(vcpu, kCS, static_cast<uint16_t>(cs));
  else
    load_real_segment(vcpu, kCS, static_cast<uint16_t>(cs));
  vcpu.rip = rip;
  if (virtual_if) {
    write_flags(vcpu, flags, kTF | kDF | kNT);
    vcpu.system_flags = flags & kIF ? vcpu.system_flags | kVIF : vcpu.system_flags & ~kVIF;
  } else {
    uint64_t writable = kTF | kIF | kDF | kNT;
    if (size > 2) writable |= kRF | kAC | kID;
    if (!vm86) writable |= kIOPL;
    write_flags(vcpu, flags, writable);
  }
  update_mode(vcpu);
  return Outcome::kJump;
}

Outcome iret_to_vm86(VcpuState& vcpu, Stack& stack, uint64_t rip, uint16_t cs, uint64_t flags) {
  uint64_t esp, selectors[5];  // SS ES DS FS GS
  STEP(stack.pop(esp, 4));
  for (uint64_t& s : selectors) STEP(stack.pop(s, 4));
  if (rip > 0xffff) return vcpu.raise(kGP, 0);
  vcpu.set_rflags(flags);
  vcpu.cpl = 3;
  load_vm86_segment(vcpu, kCS, cs);
  constexpr SegmentRegister kOrder[] = {kSS, kES, kDS, kFS, kGS};
  for (unsigned i = 0; i < 5; i++) load_vm86_segment(vcpu, kOrder[i], static_cast<uint16_t>(selectors[i]));
  vcpu.gpr[kRsp] = esp;
  vcpu.rip = rip;
  update_mode(vcpu);
  return Outcome::kJump;
}

Outcome iret_previous_task(VcpuState& vcpu, const Insn& insn) {
  uint16_t link;
  if (vcpu.tr.unusable || vcpu.tr.limit < 1) return vcpu.raise(kTS, selector_error(vcpu.tr.selector));
  STEP(read_linear(vcpu, vcpu.tr.base, &link, 2, true));
  return task_switch(vcpu, link, TaskSwitchCause::kIret, next_rip(vcpu, insn.length), false, 0);
}

Outcome iret_protected(VcpuState& vcpu, unsigned size) {
  bool from_64bit = vcpu.in_64bit();
  uint64_t frame[5];  // rip cs rflags rsp ss
  Stack stack(vcpu);
  if (from_64bit && size == 8) {
    STEP(read_linear(vcpu, vcpu.gpr[kRsp], frame, sizeof frame, false, true));
  } else {
    for (unsigned i = 0; i < (from_64bit ? 5 : 3); i++) STEP(stack.pop(frame[i], size));
  }
  uint64_t rip = frame[0], flags = frame[2];
  uint16_t cs = static_cast<uint16_t>(frame[1]);
  if ((flags & kVM) && size >= 4 && vcpu.cpl == 0 && !vcpu.long_mode_active()) return iret_to_vm86(vcpu, stack, rip, cs, flags);

  Descriptor code;
  STEP(check_return_code(vcpu, cs, code));
  unsigned rpl = cs & 3;
  bool outer = rpl != vcpu.cpl;
  if (bad_target(vcpu, code, rip)) return vcpu.raise(kGP, 0);
  uint64_t writable = writable_flags(vcpu, size);
  if (outer || from_64bit) {
    if (!from_64bit)
      for (unsigned i = 3; i < 5; i++) STEP(stack.pop(frame[i], size));
    Segment ss;
    STEP(check_return_stack(vcpu, static_cast<uint16_t>(frame[4]), code, rpl, ss));
    STEP(mark_accessed(vcpu, code));
    vcpu.segment[kSS] = ss;
    bool to_64bit = vcpu.long_mode_active() && code.l();
    if (to_64bit || ss.db())
      vcpu.gpr[kRsp] = to_64bit ? frame[3] : static_cast<uint32_t>(frame[3]);
    else
      vcpu.gpr[kRsp] = (vcpu.gpr[kRsp] & ~0xffffull) | (frame[3] & 0xffff);
    if (outer) drop_inner_segments(vcpu, rpl);
  } else {
    STEP(mark_accessed(vcpu, code));
    stack.commit();
  }
  write_flags(vcpu, flags, writable);
  set_cs(vcpu, code, rpl);
  vcpu.rip = rip;
  update_mode(vcpu);
  return Outcome::kJump;
}

}  // namespace

Outcome iret(VcpuState& vcpu, const Insn& insn) {
  Outcome outcome;
  if (!vcpu.protected_mode() || vcpu.vm86())
    outcome = iret_real(vcpu, insn.operand_size);
  else if (!(vcpu.system_flags & kNT))
    outcome = iret_protected(vcpu, insn.operand_size);
  else if (vcpu.long_mode_active())
    outcome = vcpu.raise(kGP, 0);
  else
    outcome = iret_previous_task(vcpu, insn);
  // NMIs are let in again even if IRET faults (SDM vol 3, 28.2.3, "NMI unblocking due to IRET").
  if (outcome != Outcome::kExit) {
    vcpu.nmi_masked = false;
    if (vcpu.nmi_pending) vcpu.attention = 1;  // comes before the next instruction
  }
  return outcome;
}

}  // namespace vireo::softkvm
