// SPDX-License-Identifier: Apache-2.0
// The instruction decoder on arbitrary bytes: the first one chooses the mode. Holds for all input: no byte beyond the given ones is read,
// the result depends on the instruction's own bytes only, and every shorter piece of an instruction is reported as truncated.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "softkvm/cpu/decode_tables.h"
#include "softkvm/cpu/decoder.h"

using namespace vireo::softkvm;

namespace {

void require(bool holds) {
  if (!holds) abort();
}

// Decodes a copy of exactly `size` bytes, so that the address sanitizer sees a byte too many.
DecodeStatus decode_copy(const uint8_t* data, size_t size, CodeMode mode, Insn& out) {
  const std::vector<uint8_t> copy(data, data + size);
  return decode(copy.data(), copy.size(), mode, out);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const CodeMode mode = CodeMode(data[0] % 3);
  data++, size--;
  Insn insn;
  const DecodeStatus status = decode_copy(data, size, mode, insn);
  if (status != DecodeStatus::kOk) {
    require((status == DecodeStatus::kTooLong) <= (size >= kMaxInsnLength));
    require((status == DecodeStatus::kTruncated) <= (size < kMaxInsnLength));
    return 0;
  }
  require(insn.length >= 1 && insn.length <= size && insn.length <= kMaxInsnLength);
  require(std::memcmp(insn.bytes, data, insn.length) == 0);
  require(insn.mnemonic != Mnemonic::kInvalid && insn.mnemonic < Mnemonic::kCount && insn.operand_count <= kMaxOperands);
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    require(o.kind != OperandKind::kNone);
    require(o.kind != OperandKind::kGpr || (o.reg < (o.high ? 4 : 16) && (o.size == 1 || o.size == 2 || o.size == 4 || o.size == 8)));
    require(o.kind != OperandKind::kVector || o.reg < 32);
    require((o.kind != OperandKind::kMask && o.kind != OperandKind::kMmx && o.kind != OperandKind::kX87) || o.reg < 8);
    require(o.kind != OperandKind::kSegment || o.reg <= kGS);
  }
  require((insn.base == kNoRegister || insn.base < 16) && (insn.index == kNoRegister || insn.index < 32) && insn.segment <= kGS);

  Insn again;
  require(decode_copy(data, insn.length, mode, again) == DecodeStatus::kOk && std::memcmp(&again, &insn, sizeof insn) == 0);
  for (size_t n = 0; n < insn.length; n++) require(decode_copy(data, n, mode, again) != DecodeStatus::kOk);
  return 0;
}
