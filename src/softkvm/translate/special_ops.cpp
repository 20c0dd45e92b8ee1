// SPDX-License-Identifier: Apache-2.0
// Instructions run by name whose addresses are many or implicit: stack instructions and near branches outside of the flat modes, XLAT,
// bit strings, and the FPU state areas. FAST. Spec: Intel SDM vol 2; vol 1, chapters 8 and 13.
#include "softkvm/mmu/access.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/fpu_area.h"
#include "softkvm/translate/gather.h"
#include "softkvm/translate/string_ops.h"

namespace vireo::softkvm {
namespace {

// --- stack

struct Stack {
  VcpuState& vcpu;
  uint64_t mask;
  uint64_t sp;

  explicit Stack(VcpuState& v)
      : vcpu(v), mask(v.in_64bit() ? ~0ull : v.segment[kSS].db() ? 0xffffffffull : 0xffff), sp(v.gpr[kRsp] & mask) {}
  Outcome at(uint64_t offset, unsigned size, AccessType type, uint64_t& linear) {
    return linear_address(vcpu, kSS, offset & mask, size, type, linear);
  }
  Outcome push(uint64_t value, unsigned size) {
    uint64_t linear, next = (sp - size) & mask;
    Outcome o = at(next, size, AccessType::kWrite, linear);
    if (o == Outcome::kNext) o = write_linear(vcpu, linear, &value, size, false, true);
    if (o == Outcome::kNext) sp = next;
    return o;
  }
  Outcome pop(uint64_t& value, unsigned size) {
    uint64_t linear;
    value = 0;
    Outcome o = at(sp, size, AccessType::kRead, linear);
    if (o == Outcome::kNext) o = read_linear(vcpu, linear, &value, size, false, true);
    if (o == Outcome::kNext) sp = (sp + size) & mask;
    return o;
  }
  uint64_t merged(uint64_t value) const {
    return mask == 0xffff ? (vcpu.gpr[kRsp] & ~0xffffull) | (value & 0xffff) : value & mask;
  }
  void commit() { vcpu.gpr[kRsp] = merged(sp); }
};

uint64_t size_mask(unsigned size) { return size == 8 ? ~0ull : (1ull << size * 8) - 1; }

void set_gpr(VcpuState& vcpu, unsigned reg, uint64_t value, unsigned size) {
  if (size >= 4)
    vcpu.gpr[reg] = value & size_mask(size);
  else
    vcpu.gpr[reg] = (vcpu.gpr[reg] & ~size_mask(size)) | (value & size_mask(size));
}

#define STEP(expression)                                       \
  do {                                                         \
    if (Outcome o_ = (expression); o_ != Outcome::kNext) return o_; \
  } while (0)

Outcome enter(VcpuState& vcpu, const Insn& insn) {
  Stack s(vcpu);
  unsigned size = insn.operand_size, level = insn.operand_count > 1 ? insn.immediate2 & 31 : 0;
  if (insn.immediate2_size) level = insn.immediate2 & 31;
  uint64_t allocate = insn.immediate & 0xffff;
  STEP(s.push(vcpu.gpr[kRbp], size));
  uint64_t frame = s.sp;
  if (level) {
    uint64_t bp = vcpu.gpr[kRbp] & s.mask;
    for (unsigned i = 1; i < level; i++) {
      bp = (bp - size) & s.mask;
      uint64_t linear, value = 0;
      STEP(s.at(bp, size, AccessType::kRead, linear));
      STEP(read_linear(vcpu, linear, &value, size, false, true));
      STEP(s.push(value, size));
    }
    STEP(s.push(frame, size));
  }
  // The new top must be writable.
  uint64_t linear;
  s.sp = (s.sp - allocate) & s.mask;
  STEP(s.at(s.sp, size, AccessType::kWrite, linear));
  STEP(probe_write(vcpu, linear, size, false, true));
  set_gpr(vcpu, kRbp, frame, size);
  s.commit();
  return Outcome::kNext;
}

Outcome stack_instruction(VcpuState& vcpu, const Insn& insn) {
  Stack s(vcpu);
  unsigned size = insn.operand_size;
  const Operand& o = insn.operands[0];
  uint64_t value = 0, linear;
  switch (insn.mnemonic) {
    case Mnemonic::kPush:
      if (o.kind == OperandKind::kMemory) {
        STEP(memory_operand(vcpu, insn, size, AccessType::kRead, linear));
        STEP(read_linear(vcpu, linear, &value, size));
      } else if (o.kind == OperandKind::kImmediate) {
        value = insn.immediate;
      } else {
        value = vcpu.gpr[o.reg];
      }
      STEP(s.push(value, size));
      s.commit();
      return Outcome::kNext;
    case Mnemonic::kPop:
      STEP(s.pop(value, size));
      if (o.kind == OperandKind::kMemory) {
        // The address is computed with the new stack pointer.
        uint64_t old = vcpu.gpr[kRsp];
        s.commit();
        Outcome outcome = memory_operand(vcpu, insn, size, AccessType::kWrite, linear);
        if (outcome == Outcome::kNext) outcome = write_linear(vcpu, linear, &value, size);
        if (outcome != Outcome::kNext) vcpu.gpr[kRsp] = old;
        return outcome;
      }
      s.commit();
      set_gpr(vcpu, o.reg, value, size);
      return Outcome::kNext;
    case Mnemonic::kPusha: {
      // One after the other, as CPUs do: the first that cannot be stored is the one that faults.
      uint64_t sp = vcpu.gpr[kRsp];
      for (unsigned r = 0; r < 8; r++) STEP(s.push(r == kRsp ? sp : vcpu.gpr[r], size));
      s.commit();
      return Outcome::kNext;
    }
    case Mnemonic::kPopa: {
      uint64_t values[8];
      // What comes before a word that cannot be read is in its register, as CPUs have it; rSP is not changed, so it can be run again.
      Outcome outcome = Outcome::kNext;
      unsigned r = 8;
      while (r && (outcome = s.pop(values[r - 1], size)) == Outcome::kNext) r--;
      if (outcome == Outcome::kExit) return outcome;
      for (unsigned done = r; done < 8; done++)
        if (done != kRsp) set_gpr(vcpu, done, values[done], size);
      if (outcome != Outcome::kNext) return outcome;
      s.commit();
      return Outcome::kNext;
    }
    case Mnemonic::kPushf:
      STEP(pushf_image(vcpu, size, value));
      STEP(s.push(value, size));
      s.commit();
      return Outcome::kNext;
    case Mnemonic::kPopf: {
      STEP(s.pop(value, size));
      Outcome outcome = popf(vcpu, value, size);
      if (outcome != Outcome::kFault && outcome != Outcome::kExit) s.commit();
      if (outcome == Outcome::kNext) {
        vcpu.rip += insn.length;  // TF, AC and IF may have changed
        return Outcome::kJump;
      }
      return outcome;
    }
    case Mnemonic::kLeave: {
      s.sp = vcpu.gpr[kRbp] & s.mask;
      STEP(s.pop(value, size));
      s.commit();
      set_gpr(vcpu, kRbp, value, size);
      return Outcome::kNext;
    }
    case Mnemonic::kEnter: return enter(vcpu, insn);
    default: return vcpu.raise(kUD);
  }
}

// --- near branches

bool condition_holds(const VcpuState& vcpu, unsigned condition) {
  uint64_t f = vcpu.rflags();
  bool holds;
  switch (condition >> 1) {
    case 0: holds = f & kOF; break;
    case 1: holds = f & kCF; break;
    case 2: holds = f & kZF; break;
    case 3: holds = f & (kCF | kZF); break;
    case 4: holds = f & kSF; break;
    case 5: holds = f & kPF; break;
    case 6: holds = !!(f & kSF) != !!(f & kOF); break;
    default: holds = f & kZF || !!(f & kSF) != !!(f & kOF);
  }
  return holds != (condition & 1);
}

Outcome check_target(VcpuState& vcpu, uint64_t& target, unsigned size) {
  target &= size_mask(size);
  if (vcpu.in_64bit()) {
    unsigned shift = vcpu.cr4 & kCr4La57 ? 7 : 16;
    if (static_cast<uint64_t>(static_cast<int64_t>(target << shift) >> shift) != target) return vcpu.raise(kGP, 0);
  } else if (target > vcpu.segment[kCS].limit) {
    return vcpu.raise(kGP, 0);
  }
  return Outcome::kNext;
}

Outcome go(VcpuState& vcpu, uint64_t target, unsigned size) {
  STEP(check_target(vcpu, target, size));
  vcpu.rip = target;
  return Outcome::kJump;
}

Outcome near_branch(VcpuState& vcpu, const Insn& insn) {
  Stack s(vcpu);
  unsigned size = insn.operand_size;
  const Operand& o = insn.operands[0];
  uint64_t next = vcpu.rip + insn.length, target = next + insn.immediate, linear;
  if (!vcpu.in_64bit()) next &= 0xffffffffull;
  bool relative = insn.operand_count && o.kind == OperandKind::kRelative;
  bool taken = true;
  if (insn.operand_count && !relative && insn.mnemonic != Mnemonic::kRet) {
    target = 0;
    if (o.kind == OperandKind::kMemory) {
      STEP(memory_operand(vcpu, insn, size, AccessType::kRead, linear));
      STEP(read_linear(vcpu, linear, &target, size));
    } else {
      target = vcpu.gpr[o.reg];
    }
  }
  uint64_t count_mask = size_mask(insn.address_size), count = 0;
  switch (insn.mnemonic) {
    case Mnemonic::kCall:
      STEP(check_target(vcpu, target, size));
      STEP(s.push(next, size));
      s.commit();
      vcpu.rip = target;
      return Outcome::kJump;
    case Mnemonic::kRet:
      STEP(s.pop(target, size));
      STEP(check_target(vcpu, target, size));
      s.sp = (s.sp + (insn.immediate_size ? insn.immediate & 0xffff : 0)) & s.mask;
      s.commit();
      vcpu.rip = target;
      return Outcome::kJump;
    case Mnemonic::kJcc: taken = condition_holds(vcpu, insn.opcode & 15); break;
    case Mnemonic::kJcxz: taken = !(vcpu.gpr[kRcx] & count_mask); break;
    case Mnemonic::kLoop:
    case Mnemonic::kLoope:
    case Mnemonic::kLoopne:
      count = (vcpu.gpr[kRcx] - 1) & count_mask;
      taken = count != 0;
      if (insn.mnemonic == Mnemonic::kLoope) taken = taken && vcpu.flag_ah & kZF;
      if (insn.mnemonic == Mnemonic::kLoopne) taken = taken && !(vcpu.flag_ah & kZF);
      if (taken) STEP(check_target(vcpu, target, size));
      set_gpr(vcpu, kRcx, count, insn.address_size);
      break;
    default: break;
  }
  if (!taken) {  // what is beyond a limit is the next instruction's affair
    vcpu.rip += insn.length;
    if (!vcpu.in_64bit()) vcpu.rip &= 0xffffffffull;
    return Outcome::kJump;
  }
  return go(vcpu, target, size);
}

// --- bit strings in memory: BT and its kin with a register offset

template <class T>
bool bit_operation(T* at, uint64_t bit, Mnemonic m, bool lock) {
  T mask = static_cast<T>(T{1} << bit), old;
  if (m == Mnemonic::kBt) return __atomic_load_n(at, __ATOMIC_RELAXED) & mask;
  if (!lock) {
    old = *at;
    *at = m == Mnemonic::kBts ? old | mask : m == Mnemonic::kBtr ? old & ~mask : old ^ mask;
    return old & mask;
  }
  // The compiler makes the locked host instruction of these.
  if (m == Mnemonic::kBts) old = __atomic_fetch_or(at, mask, __ATOMIC_SEQ_CST);
  else if (m == Mnemonic::kBtr) old = __atomic_fetch_and(at, static_cast<T>(~mask), __ATOMIC_SEQ_CST);
  else old = __atomic_fetch_xor(at, mask, __ATOMIC_SEQ_CST);
  return old & mask;
}

Outcome bit_string(VcpuState& vcpu, const Insn& insn) {
  unsigned size = insn.operand_size, bits = size * 8;
  uint64_t raw = vcpu.gpr[insn.operands[1].reg];
  int64_t offset = size == 8 ? static_cast<int64_t>(raw) : size == 4 ? static_cast<int32_t>(raw) : static_cast<int16_t>(raw);
  uint64_t address = effective_offset(vcpu, insn) + (offset >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * size;
  address &= size_mask(insn.address_size);
  uint64_t bit = raw & (bits - 1), linear;
  bool write = insn.mnemonic != Mnemonic::kBt;
  STEP(linear_address(vcpu, static_cast<SegmentRegister>(insn.segment), address, size, write ? AccessType::kReadWrite : AccessType::kRead, linear));
  bool set;
  uint8_t* host = nullptr;
  Outcome outcome = Outcome::kNext;
  bool stepping = engine_of(vcpu).stepping;
  if (!stepping && (linear & 0xfff) + size <= 4096) {
    host = host_address(vcpu, linear, size, write, outcome);
    if (!host) return outcome;
    set = size == 8   ? bit_operation(reinterpret_cast<uint64_t*>(host), bit, insn.mnemonic, insn.lock)
          : size == 4 ? bit_operation(reinterpret_cast<uint32_t*>(host), bit, insn.mnemonic, insn.lock)
                      : bit_operation(reinterpret_cast<uint16_t*>(host), bit, insn.mnemonic, insn.lock);
  } else {
    uint64_t value = 0;
    if (insn.lock && !engine_of(vcpu).exclusive) {
      engine_of(vcpu).need_exclusive = true;
      return Outcome::kExit;
    }
    if (write) STEP(probe_write(vcpu, linear, size));
    STEP(read_linear(vcpu, linear, &value, size));
    set = bit_operation(&value, bit, insn.mnemonic, false);
    if (write) STEP(write_linear(vcpu, linear, &value, size));
  }
  vcpu.flag_ah = static_cast<uint8_t>((vcpu.flag_ah & ~kCF) | (set ? kCF : 0));
  return Outcome::kNext;
}

Outcome xlat(VcpuState& vcpu, const Insn& insn) {
  uint64_t address = (vcpu.gpr[kRbx] + (vcpu.gpr[kRax] & 0xff)) & size_mask(insn.address_size), linear;
  STEP(linear_address(vcpu, static_cast<SegmentRegister>(insn.segment), address, 1, AccessType::kRead, linear));
  uint8_t value;
  STEP(read_linear(vcpu, linear, &value, 1));
  set_gpr(vcpu, kRax, value, 1);
  return Outcome::kNext;
}

Outcome zero_line(VcpuState& vcpu, const Insn& insn) {
  uint64_t linear;
  uint8_t zeros[64];
  for (auto& z : zeros) asm volatile("movb $0, %0" : "=m"(z));
  STEP(linear_address(vcpu, static_cast<SegmentRegister>(insn.segment), vcpu.gpr[kRax] & size_mask(insn.address_size) & ~63ull, 64,
                      AccessType::kWrite, linear));
  return write_linear(vcpu, linear, zeros, 64);
}

Outcome move_64(VcpuState& vcpu, const Insn& insn) {  // MOVDIR64B
  uint64_t from, to;
  uint8_t line[64];
  uint64_t destination = vcpu.gpr[insn.reg & 15] & size_mask(insn.address_size);
  STEP(linear_address(vcpu, kES, destination, 64, AccessType::kWrite, to));
  if (to & 63) return vcpu.raise(kGP, 0);
  STEP(memory_operand(vcpu, insn, 64, AccessType::kRead, from));
  STEP(read_linear(vcpu, from, line, 64));
  return write_linear(vcpu, to, line, 64);
}

}  // namespace

Outcome execute_special(VcpuState& vcpu, const Insn& insn) {
  if (insn.form == Form::kStack) return stack_instruction(vcpu, insn);
  if (insn.form == Form::kBranch) return near_branch(vcpu, insn);
  for (unsigned i = 0; i < insn.operand_count; i++)
    if (insn.operands[i].kind == OperandKind::kVectorMemory) return execute_gather_scatter(vcpu, insn);
  switch (insn.mnemonic) {
    case Mnemonic::kBt:
    case Mnemonic::kBts:
    case Mnemonic::kBtr:
    case Mnemonic::kBtc: return bit_string(vcpu, insn);
    case Mnemonic::kXlat: return xlat(vcpu, insn);
    case Mnemonic::kClzero: return zero_line(vcpu, insn);
    case Mnemonic::kMovdir64b: return move_64(vcpu, insn);
    default: return execute_fpu_area(vcpu, insn);
  }
}

}  // namespace vireo::softkvm
