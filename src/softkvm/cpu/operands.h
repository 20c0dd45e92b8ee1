// SPDX-License-Identifier: Apache-2.0
// Operands of instructions run by name: general registers by size, and the modrm operand whether register or memory.
// Spec: Intel SDM vol 1, 3.4.1.1 (what writes of narrow registers do to the rest).
#pragma once

#include "softkvm/cpu/descriptor.h"

namespace vireo::softkvm {

inline uint64_t size_mask(unsigned size) { return size >= 8 ? ~0ull : (1ull << size * 8) - 1; }

inline uint64_t read_gpr(const VcpuState& vcpu, unsigned reg, unsigned size) { return vcpu.gpr[reg] & size_mask(size); }
inline void write_gpr(VcpuState& vcpu, unsigned reg, unsigned size, uint64_t value) {
  if (size >= 8)
    vcpu.gpr[reg] = value;
  else if (size == 4)
    vcpu.gpr[reg] = static_cast<uint32_t>(value);
  else
    vcpu.gpr[reg] = (vcpu.gpr[reg] & ~size_mask(size)) | (value & size_mask(size));
}

inline bool register_form(const Insn& insn) { return insn.modrm >> 6 == 3; }

inline Outcome read_memory_operand(VcpuState& vcpu, const Insn& insn, unsigned size, uint64_t& value) {
  uint64_t linear;
  STEP(memory_operand(vcpu, insn, size, AccessType::kRead, linear));
  value = 0;
  return read_linear(vcpu, linear, &value, size, false, insn.segment == kSS);
}
inline Outcome write_memory_operand(VcpuState& vcpu, const Insn& insn, unsigned size, uint64_t value) {
  uint64_t linear;
  STEP(memory_operand(vcpu, insn, size, AccessType::kWrite, linear));
  return write_linear(vcpu, linear, &value, size, false, insn.segment == kSS);
}
inline Outcome read_rm(VcpuState& vcpu, const Insn& insn, unsigned size, uint64_t& value) {
  if (!register_form(insn)) return read_memory_operand(vcpu, insn, size, value);
  value = read_gpr(vcpu, insn.rm & 15, size);
  return Outcome::kNext;
}

// rip behind the instruction: in legacy modes EIP wraps at 4 GiB.
inline uint64_t next_rip(const VcpuState& vcpu, unsigned length) {
  uint64_t rip = vcpu.rip + length;
  return vcpu.in_64bit() ? rip : static_cast<uint32_t>(rip);
}
// The end of an instruction after which the engine must look up the next block anew.
inline Outcome jump_behind(VcpuState& vcpu, const Insn& insn) {
  vcpu.rip = next_rip(vcpu, insn.length);
  return Outcome::kJump;
}
// The end of an instruction that may have changed what the mode depends on.
inline Outcome finish(VcpuState& vcpu, const Insn& insn, uint32_t mode_before) {
  return vcpu.mode == mode_before ? Outcome::kNext : jump_behind(vcpu, insn);
}

inline unsigned iopl(const VcpuState& vcpu) { return vcpu.system_flags >> 12 & 3; }

}  // namespace vireo::softkvm
