// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/access_kind.h"

#include "softkvm/cpu/decoder.h"

namespace vireo::softkvm {
namespace {

uint64_t value_of(const user_regs_struct& r, unsigned number) {
  switch (number) {
    case 0: return r.rax;
    case 1: return r.rcx;
    case 2: return r.rdx;
    case 3: return r.rbx;
    case 4: return r.rsp;
    case 5: return r.rbp;
    case 6: return r.rsi;
    case 7: return r.rdi;
    case 8: return r.r8;
    case 9: return r.r9;
    case 10: return r.r10;
    case 11: return r.r11;
    case 12: return r.r12;
    case 13: return r.r13;
    case 14: return r.r14;
    default: return r.r15;
  }
}

// CR2 is the address of a byte of the access, mostly of the first one on the page that is missing.
bool within(uint64_t address, uint64_t from, unsigned size) { return address - from < size; }

}  // namespace

std::optional<Want> access_kind(std::span<const uint8_t> code, const user_regs_struct& r, uint64_t address) {
  Insn insn;
  if (decode(code.data(), static_cast<unsigned>(code.size()), CodeMode::k64, insn) != DecodeStatus::kOk) {
    // It may go on where nothing can be fetched.
    if (address == r.rip + code.size()) return Want::kFetch;
    return std::nullopt;
  }
  if (insn.form == Form::kStack || (insn.form == Form::kBranch && (insn.mnemonic == Mnemonic::kCall || insn.mnemonic == Mnemonic::kRet))) {
    if (insn.memory_operand()) return std::nullopt;
    if (insn.mnemonic == Mnemonic::kPush || insn.mnemonic == Mnemonic::kCall)
      return within(address, r.rsp - 8, 8) ? std::optional(Want::kWrite) : std::nullopt;
    if (insn.mnemonic == Mnemonic::kPop || insn.mnemonic == Mnemonic::kRet)
      return within(address, r.rsp, 8) ? std::optional(Want::kRead) : std::nullopt;
    return std::nullopt;
  }
  if (insn.form == Form::kString) {
    const unsigned size = 64;  // whatever the element; source and destination on one page are told apart below
    const bool source = within(address, r.rsi, size), destination = within(address, r.rdi, size);
    switch (insn.mnemonic) {
      case Mnemonic::kStos: return destination ? std::optional(Want::kWrite) : std::nullopt;
      case Mnemonic::kLods: return source ? std::optional(Want::kRead) : std::nullopt;
      case Mnemonic::kMovs:
        if (source == destination) return std::nullopt;
        return source ? Want::kRead : Want::kWrite;
      case Mnemonic::kScas:
      case Mnemonic::kCmps: return source || destination ? std::optional(Want::kRead) : std::nullopt;
      default: return std::nullopt;
    }
  }
  const Operand* memory = insn.memory_operand();
  if (insn.form != Form::kPlain || !memory || insn.address_size == 2) return std::nullopt;
  uint64_t at = static_cast<uint64_t>(insn.displacement);
  if (insn.rip_relative) at += r.rip + insn.length;
  if (insn.base != kNoRegister) at += value_of(r, insn.base);
  if (insn.index != kNoRegister) at += value_of(r, insn.index) * insn.scale;
  if (insn.address_size == 4) at &= 0xffffffffull;
  if (insn.segment == kFS) at += r.fs_base;
  if (insn.segment == kGS) at += r.gs_base;
  if (!within(address, at, memory->size ? memory->size : 1)) return std::nullopt;
  return static_cast<unsigned>(memory->access) & 2 ? Want::kWrite : Want::kRead;
}

}  // namespace vireo::softkvm
