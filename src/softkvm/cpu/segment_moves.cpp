// SPDX-License-Identifier: Apache-2.0
// Moves to and from segment registers and their bases: MOV, PUSH, POP, LDS LES LFS LGS LSS, RDFSBASE and family, SWAPGS.
// Spec: Intel SDM vol 2, the same.
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/stack.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

// 66 alone makes it 16 bits in 64-bit mode: pushes are 64 bits there.
unsigned stack_operand_size(const VcpuState& vcpu, const Insn& insn) {
  if (vcpu.in_64bit()) return insn.opsize ? 2 : 8;
  return insn.operand_size;
}

}  // namespace

Outcome move_from_segment(VcpuState& vcpu, const Insn& insn) {
  unsigned which = insn.reg & 7;
  if (which > kGS) return vcpu.raise(kUD);
  uint16_t selector = vcpu.segment[which].selector;
  if (!register_form(insn)) return write_memory_operand(vcpu, insn, 2, selector);
  write_gpr(vcpu, insn.rm & 15, insn.operand_size, selector);
  return Outcome::kNext;
}

Outcome move_to_segment(VcpuState& vcpu, const Insn& insn) {
  unsigned which = insn.reg & 7;
  if (which > kGS || which == kCS) return vcpu.raise(kUD);
  uint64_t selector;
  STEP(read_rm(vcpu, insn, 2, selector));
  uint32_t mode = vcpu.mode;
  STEP(load_segment(vcpu, static_cast<SegmentRegister>(which), static_cast<uint16_t>(selector)));
  if (which == kSS) vcpu.interrupt_shadow_mov_ss = true;
  return finish(vcpu, insn, mode);
}

Outcome push_segment(VcpuState& vcpu, const Insn& insn, SegmentRegister which) {
  unsigned size = stack_operand_size(vcpu, insn);
  Stack stack(vcpu);
  if (size == 4) {
    // CPUs of the last decades write the selector alone and leave the upper half of the slot (SDM vol 2, PUSH).
    stack.skip(static_cast<uint64_t>(-2));
    STEP(stack.push(vcpu.segment[which].selector, 2));
    stack.commit();
    return Outcome::kNext;
  }
  STEP(stack.push(vcpu.segment[which].selector, size));
  stack.commit();
  return Outcome::kNext;
}

Outcome pop_segment(VcpuState& vcpu, const Insn& insn, SegmentRegister which) {
  unsigned size = stack_operand_size(vcpu, insn);
  Stack stack(vcpu);
  uint64_t selector;
  if (size == 4) {
    STEP(stack.pop(selector, 2));
    stack.skip(2);
  } else {
    STEP(stack.pop(selector, size));
  }
  uint32_t mode = vcpu.mode;
  // ESP moves by the stack width from before SS changes.
  STEP(load_segment(vcpu, which, static_cast<uint16_t>(selector)));
  stack.commit();
  if (which == kSS) vcpu.interrupt_shadow_mov_ss = true;
  return finish(vcpu, insn, mode);
}

Outcome load_far_pointer(VcpuState& vcpu, const Insn& insn, SegmentRegister which) {
  if (register_form(insn)) return vcpu.raise(kUD);
  unsigned size = insn.operand_size;
  uint64_t linear, offset = 0;
  uint16_t selector;
  bool stack = insn.segment == kSS;
  uint8_t bytes[10];
  STEP(memory_operand(vcpu, insn, size + 2, AccessType::kRead, linear));
  STEP(read_linear(vcpu, linear, bytes, size + 2, false, stack));
  for (unsigned i = 0; i < size; i++) offset |= static_cast<uint64_t>(bytes[i]) << i * 8;
  selector = static_cast<uint16_t>(bytes[size] | bytes[size + 1] << 8);
  uint32_t mode = vcpu.mode;
  STEP(load_segment(vcpu, which, selector));
  write_gpr(vcpu, insn.reg & 15, size, offset);
  return finish(vcpu, insn, mode);
}

Outcome fs_gs_base(VcpuState& vcpu, const Insn& insn) {
  if (!vcpu.in_64bit() || !(vcpu.cr4 & kCr4Fsgsbase)) return vcpu.raise(kUD);
  unsigned operation = insn.modrm >> 3 & 7;  // 0 rdfsbase, 1 rdgsbase, 2 wrfsbase, 3 wrgsbase
  unsigned size = insn.w ? 8 : 4;
  Segment& segment = vcpu.segment[operation & 1 ? kGS : kFS];
  if (operation < 2) {
    write_gpr(vcpu, insn.rm & 15, size, segment.base);
    return Outcome::kNext;
  }
  uint64_t base = read_gpr(vcpu, insn.rm & 15, size);
  if (!canonical(base, supported_linear_bits(vcpu))) return vcpu.raise(kGP, 0);
  segment.base = base;
  (operation & 1 ? vcpu.seg_base_gs_copy : vcpu.seg_base_fs_copy) = base;
  return Outcome::kNext;
}

Outcome swapgs(VcpuState& vcpu) {
  if (!vcpu.in_64bit()) return vcpu.raise(kUD);
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint64_t base = vcpu.segment[kGS].base;
  vcpu.segment[kGS].base = vcpu.msr.kernel_gs_base;
  vcpu.seg_base_gs_copy = vcpu.msr.kernel_gs_base;
  vcpu.msr.kernel_gs_base = base;
  return Outcome::kNext;
}

}  // namespace vireo::softkvm
