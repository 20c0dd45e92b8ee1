// SPDX-License-Identifier: Apache-2.0
// Instructions that name R9 to R11, rSP, or AH to BH: in slots, in scratch registers, in borrowed ones. docs/engine.md, "Registers". FAST.
#include "softkvm/translate/translation.h"

#include <utility>

namespace vireo::softkvm {

// A constant for a displaced register, as the slot's: by MOV, or by XOR with itself where nobody reads the flags.
bool Translation::constant_to_slot(const Decoded& d) {
  const Insn& insn = d.insn;
  const Operand& to = insn.operands[0];
  if (!insn.operand_count || to.kind != OperandKind::kGpr || to.size < 4 || !in_slot(to.reg) || insn.encoding != Encoding::kLegacy) return false;
  int64_t value = 0;
  if (insn.mnemonic == Mnemonic::kMov && insn.immediate_size) value = to.size == 4 ? insn.immediate & 0xffffffff : insn.immediate;
  else if (insn.mnemonic != Mnemonic::kXor || insn.operands[1].kind != OperandKind::kGpr || insn.operands[1].reg != to.reg || d.live_out) return false;
  if (value != static_cast<int32_t>(value)) return false;
  out_.gs(0xc7, 0, VCPU_GPR + to.reg * 8u);  // mov gs:[slot], imm32
  out_.u32(static_cast<uint32_t>(value));
  return true;
}

// The operand that is a displaced register and can be left in its slot, as the memory operand that the instruction has not: null if none. Not what is
// written in part, since the rest has to become zero, or the next load of the whole would wait for both.
const Operand* Translation::left_in_slot(const Insn& insn, Rename& rename) {
  const RegisterInMemory can = register_in_memory(insn);
  if (!can.rm) return nullptr;
  const Operand *rm = nullptr, *reg = nullptr;
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    if (o.kind != OperandKind::kGpr) continue;
    if (o.high) return nullptr;
    if (o.field == OperandField::kModrmRm) rm = &o;
    if (o.field == OperandField::kModrmReg) reg = &o;
  }
  if (!rm) return nullptr;
  if (reg && reg->reg == rm->reg && (static_cast<unsigned>(reg->access) & 1 || reg->size < 4)) return nullptr;
  auto fits = [](const Operand& o) { return in_slot(o.reg) && (!(static_cast<unsigned>(o.access) & 2) || o.size == 8); };
  const Operand* left = fits(*rm) ? rm : reg && can.reg && fits(*reg) ? reg : nullptr;
  if (!left) return nullptr;
  if (left == reg) rename.opcode = can.opcode;
  rename.slot = VCPU_GPR + left->reg * 8u;
  return left;
}

// A register of the guest's that the instruction does not touch, for use as a temporary.
int Translation::borrow(const InsnShape& shape, uint32_t& taken) {
  for (unsigned r : {15u, 14u, 13u, 12u, 3u, 5u, 7u, 6u, 8u, 2u, 1u}) {
    if ((taken | shape.named) >> r & 1) continue;
    taken |= 1u << r;
    return static_cast<int>(r);
  }
  __builtin_trap();
}

// An instruction with operands that the host has elsewhere, or that cannot stand beside a REX prefix.
void Translation::renamed(Decoded& d) {
  const Insn& insn = d.insn;
  const Operand* mem = d.memory();
  const bool high = d.shape.high;
  if (constant_to_slot(d)) return;

  Rename rename;
  uint32_t taken = 0;
  SideEntry borrowed{};
  unsigned borrows = 0;
  if (mem) {
    rename.displacement = operand_address(d, *mem);
    rename.memory = kScratch0;
  }

  // Displaced registers and their temporaries.
  struct Temp {
    int guest, host;
    bool read, write;
  } temps[6];
  unsigned temp_count = 0;
  const Operand* left = mem ? nullptr : left_in_slot(insn, rename);
  int free_scratch[2] = {static_cast<int>(kScratch1), mem ? -1 : static_cast<int>(kScratch0)};
  auto borrow_one = [&] {
    int r = borrow(d.shape, taken);
    out_.store(ENGINE_BORROW + borrows * 8, r);
    borrowed.borrowed |= 1u << borrows;
    borrowed.borrow_reg[borrows++] = static_cast<uint8_t>(r);
    return r;
  };
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    if (o.kind != OperandKind::kGpr || o.field == OperandField::kImplicit || o.field == OperandField::kNone || &o == left) continue;
    int host = o.high ? static_cast<int>(o.reg) + 4 : host_of(o.reg);  // AH..BH are encoded 4-7
    if (host >= 8 && high) {
      // MOVZX, MOVSX, CRC32 of rSP and AH to BH: no REX prefix, so a low register stands in for the one that holds rSP.
      taken |= 0xff00;
      temps[temp_count++] = {o.reg, host = borrow_one(), true, true};
    } else if (host < 0) {
      bool read = static_cast<unsigned>(o.access) & 1 || o.size < 4, write = static_cast<unsigned>(o.access) & 2;
      Temp* t = nullptr;
      for (unsigned k = 0; k < temp_count; k++)
        if (temps[k].guest == o.reg) t = &temps[k];
      if (!t) {
        int h = free_scratch[0] >= 0 ? std::exchange(free_scratch[0], -1)
                : free_scratch[1] >= 0 ? std::exchange(free_scratch[1], -1)
                                       : borrow_one();
        t = &temps[temp_count++];
        *t = {o.reg, h, false, false};
      }
      t->read |= read;
      t->write |= write;
      host = t->host;
    }
    switch (o.field) {
      case OperandField::kModrmReg: rename.reg = host; break;
      case OperandField::kModrmRm: (rename.opcode < 0 ? rename.rm : rename.reg) = host; break;
      case OperandField::kVvvv: rename.vvvv = host; break;
      case OperandField::kOpcodeLow3: rename.low3 = host; break;
      default: break;
    }
  }
  if (mem && high) {
    // AH to BH cannot stand beside a REX prefix: the address goes to a low register.
    int r = 0;
    for (unsigned c : {7u, 6u}) if (!(taken >> c & 1)) r = static_cast<int>(c);
    out_.store(ENGINE_BORROW + borrows * 8, r);
    borrowed.borrowed |= 1u << borrows;
    borrowed.borrow_reg[borrows++] = static_cast<uint8_t>(r);
    out_.move(r, kScratch0);
    rename.memory = r;
  }

  flags_for(d);  // needs r10: before the temporaries are loaded
  for (unsigned k = 0; k < temp_count; k++)
    if (temps[k].guest == kRsp) out_.move(temps[k].host, kHostRsp);
    else if (temps[k].read) out_.load_gpr(temps[k].host, temps[k].guest);
  note_side(d, &borrowed);
  reencode(out_, insn, rename);
  for (unsigned k = 0; k < temp_count; k++)
    if (temps[k].guest == kRsp) out_.move(kHostRsp, temps[k].host);
    else if (temps[k].write) out_.store_gpr(temps[k].guest, temps[k].host);
  for (unsigned k = 0; k < borrows; k++) out_.load(borrowed.borrow_reg[k], ENGINE_BORROW + k * 8);
  flags_behind(insn);
}

}  // namespace vireo::softkvm
