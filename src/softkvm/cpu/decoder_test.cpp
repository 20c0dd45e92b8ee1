// SPDX-License-Identifier: Apache-2.0
// The decoder by examples from the manual; decoder_zydis_test.cpp compares it encoding by encoding.
#include "softkvm/cpu/decoder.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

namespace vireo::softkvm {
namespace {

Insn must_decode(std::vector<uint8_t> bytes, CodeMode mode = CodeMode::k64) {
  Insn insn;
  EXPECT_EQ(decode(bytes.data(), bytes.size(), mode, insn), DecodeStatus::kOk);
  EXPECT_EQ(insn.length, bytes.size());
  return insn;
}
DecodeStatus status_of(std::vector<uint8_t> bytes, CodeMode mode = CodeMode::k64) {
  Insn insn;
  return decode(bytes.data(), bytes.size(), mode, insn);
}

TEST(Decoder, NamesAddWithItsOperands) {
  const Insn i = must_decode({0x48, 0x01, 0xD8});  // add rax, rbx
  EXPECT_EQ(i.mnemonic, Mnemonic::kAdd);
  EXPECT_EQ(i.form, Form::kPlain);
  ASSERT_EQ(i.operand_count, 2);
  EXPECT_EQ(i.operands[0].reg, 0);
  EXPECT_EQ(i.operands[0].access, OperandAccess::kReadWrite);
  EXPECT_EQ(i.operands[1].reg, 3);
  EXPECT_EQ(i.operands[1].size, 8);
  EXPECT_EQ(i.flags_written, kStatusFlags);
}

TEST(Decoder, RefusesLockOnARegister) {
  EXPECT_EQ(status_of({0xF0, 0x48, 0x01, 0xD8}), DecodeStatus::kInvalid);
  EXPECT_EQ(status_of({0xF0, 0x48, 0x01, 0x18}), DecodeStatus::kOk);
}

TEST(Decoder, SaysTruncatedAndTooLong) {
  EXPECT_EQ(status_of({0x48, 0x81, 0xC0, 1, 2, 3}), DecodeStatus::kTruncated);
  EXPECT_EQ(status_of({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66}), DecodeStatus::kTooLong);
}

}  // namespace
}  // namespace vireo::softkvm
