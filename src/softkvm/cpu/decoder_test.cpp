// SPDX-License-Identifier: Apache-2.0
// The decoder by examples from the manual; decoder_zydis_test.cpp compares it encoding by encoding.
#include "softkvm/cpu/decoder.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "softkvm/cpu/decode_tables.h"

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

// As a Zen 5 executes them.
TEST(Decoder, ExchangesBehindF3WithRexB) {
  for (const std::vector<uint8_t>& bytes : {std::vector<uint8_t>{0x41, 0x90}, {0xF3, 0x41, 0x90}, {0xF3, 0x49, 0x90}}) {
    const Insn i = must_decode(bytes);
    EXPECT_EQ(i.mnemonic, Mnemonic::kXchg);
    EXPECT_EQ(i.operands[0].reg, 8);
    EXPECT_FALSE(i.mandatory_prefix);
  }
  EXPECT_EQ(must_decode({0xF3, 0x48, 0x90}).mnemonic, Mnemonic::kPause);
}
TEST(Decoder, ClzeroIsNoneBehindF2AndF3) {
  EXPECT_EQ(must_decode({0x0F, 0x01, 0xFC}).mnemonic, Mnemonic::kClzero);
  EXPECT_EQ(must_decode({0x66, 0x0F, 0x01, 0xFC}).mnemonic, Mnemonic::kClzero);
  EXPECT_EQ(status_of({0xF2, 0x0F, 0x01, 0xFC}), DecodeStatus::kInvalid);
  EXPECT_EQ(status_of({0xF3, 0x0F, 0x01, 0xFC}), DecodeStatus::kInvalid);
}

TEST(Decoder, RefusesLockOnARegister) {
  EXPECT_EQ(status_of({0xF0, 0x48, 0x01, 0xD8}), DecodeStatus::kInvalid);
  EXPECT_EQ(status_of({0xF0, 0x48, 0x01, 0x18}), DecodeStatus::kOk);
}

TEST(Decoder, SaysTruncatedAndTooLong) {
  EXPECT_EQ(status_of({0x48, 0x81, 0xC0, 1, 2, 3}), DecodeStatus::kTruncated);
  EXPECT_EQ(status_of({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66}), DecodeStatus::kTooLong);
}

TEST(Decoder, ListsImplicitRegistersAfterTheExplicitOnes) {
  const Insn i = must_decode({0x48, 0xF7, 0x23});  // mul qword [rbx]
  ASSERT_EQ(i.operand_count, 3);
  EXPECT_EQ(i.memory_operand(), &i.operands[0]);
  EXPECT_EQ(i.operands[1].reg, 0);
  EXPECT_EQ(i.operands[1].access, OperandAccess::kReadWrite);
  EXPECT_EQ(i.operands[2].reg, 2);
  EXPECT_EQ(i.operands[2].field, OperandField::kImplicit);
}

TEST(Decoder, TellsSplFromAh) {
  Insn i = must_decode({0x88, 0xE0});  // mov al, ah
  EXPECT_TRUE(i.operands[1].high);
  EXPECT_EQ(i.operands[1].reg, 0);
  i = must_decode({0x40, 0x88, 0xE0});  // mov al, spl
  EXPECT_FALSE(i.operands[1].high);
  EXPECT_EQ(i.operands[1].reg, 4);
}

TEST(Decoder, KeepsFlagsOfAShiftThatMayNotHappen) {
  EXPECT_EQ(must_decode({0xD3, 0xE0}).flags_written, 0u);  // shl eax, cl
  EXPECT_EQ(must_decode({0xD3, 0xE0}).flags_maybe, kStatusFlags);
  EXPECT_EQ(must_decode({0xC1, 0xE0, 0x20}).flags_written, 0u);        // shl eax, 32: the count is masked to 0
  EXPECT_EQ(must_decode({0x48, 0xC1, 0xE0, 0x20}).flags_written, kStatusFlags);
  EXPECT_EQ(must_decode({0xF3, 0xA6}).flags_maybe, kStatusFlags);      // repe cmpsb with rCX = 0
  EXPECT_EQ(must_decode({0x77, 0x00}).flags_read, kCF | kZF);          // ja
}

TEST(Decoder, IgnoresOperandSizeOnNearBranchesIn64BitMode) {
  const Insn i = must_decode({0x66, 0xE9, 1, 2, 3, 4});
  EXPECT_EQ(i.immediate, 0x04030201);
  EXPECT_EQ(must_decode({0x66, 0xE9, 1, 2, 3, 4}, CodeMode::k16).immediate, 0x04030201);
  EXPECT_EQ(must_decode({0x66, 0xE9, 1, 2}, CodeMode::k32).immediate, 0x0201);
}

TEST(Decoder, ScalesAnEvexDisplacementByTheOperand) {
  EXPECT_EQ(must_decode({0x62, 0xF1, 0x7C, 0x48, 0x10, 0x40, 0x01}).displacement, 64);  // vmovups zmm0, [rax + 64]
  EXPECT_EQ(must_decode({0x62, 0xF1, 0x7C, 0x58, 0x58, 0x40, 0xFF}).displacement, -4);  // vaddps zmm0, zmm0, [rax - 4]{1to16}
}

TEST(Decoder, CallsAMaskedMemoryOperandSpecial) {
  EXPECT_EQ(must_decode({0x62, 0xF1, 0x7C, 0x48, 0x10, 0x00}).form, Form::kPlain);
  EXPECT_EQ(must_decode({0x62, 0xF1, 0x7C, 0x49, 0x10, 0x00}).form, Form::kSpecial);
  EXPECT_EQ(must_decode({0x62, 0xF1, 0x7C, 0x49, 0x10, 0xC1}).form, Form::kPlain);
}

TEST(Decoder, CallsABitTestByRegisterOnMemorySpecial) {
  EXPECT_EQ(must_decode({0x0F, 0xA3, 0x08}).form, Form::kSpecial);
  EXPECT_EQ(must_decode({0x0F, 0xA3, 0xC8}).form, Form::kPlain);
  EXPECT_EQ(must_decode({0x0F, 0xBA, 0x20, 0x05}).form, Form::kPlain);
}

TEST(Decoder, SaysSystemWhereACopyWouldReachTheHost) {
  const std::vector<std::vector<uint8_t>> kCases = {
      {0x0F, 0x05}, {0x0F, 0x34}, {0xCD, 0x80}, {0xCC}, {0xF1}, {0x0F, 0xA2}, {0x0F, 0x31}, {0x0F, 0x01, 0xF9}, {0xF3, 0x0F, 0xC7, 0xF8},
      {0x0F, 0xC7, 0xF0}, {0x0F, 0xC7, 0xF8}, {0x0F, 0x01, 0xD0}, {0x0F, 0x01, 0xEE}, {0x8E, 0xD8}, {0x8C, 0xD8}, {0x0F, 0x00, 0xC8}, {0x0F, 0x01, 0xE0},
      {0xF3, 0x48, 0x0F, 0xAE, 0xC0}, {0x0F, 0x01, 0xF8}, {0xFA}, {0xFB}, {0xFC}, {0xFD}, {0xF4}, {0xE4, 0x60}, {0xEC}, {0xCB}, {0xCF}, {0xFF, 0x18}, {0x0F, 0x20, 0xC0},
      {0x0F, 0x30}, {0x0F, 0x32}, {0x0F, 0x0B}, {0xF3, 0x90}, {0x0F, 0x01, 0xD5}, {0x0F, 0xA0}, {0x0F, 0xA1}, {0x0F, 0x02, 0xC0}, {0x0F, 0x33}};
  for (const auto& bytes : kCases) EXPECT_EQ(must_decode(bytes).form, Form::kSystem) << int(bytes[0]) << " " << int(bytes.back());
}

TEST(Decoder, HasARowForEveryMnemonic) {
  std::vector<bool> seen(size_t(Mnemonic::kCount));
  for (size_t i = 1; i <= decode_row_count(); i++) seen[size_t(kRows[i].mnemonic)] = true;
  EXPECT_FALSE(seen[0]);
  for (size_t m = 1; m < seen.size(); m++) EXPECT_TRUE(seen[m]) << mnemonic_name(Mnemonic(m));
}

TEST(Decoder, GivesCopiedRowsOneModrmMemoryOperandAtMost) {
  for (size_t i = 1; i <= decode_row_count(); i++) {
    const Row& r = kRows[i];
    if (r.form != Form::kPlain) continue;
    unsigned memory = 0;
    for (unsigned k = 0; k < r.operand_count; k++) {
      const OperandClass c = r.operands[k].cls;
      memory += c == OperandClass::kM || c == OperandClass::kE || c == OperandClass::kW || c == OperandClass::kQ || c == OperandClass::kMaskE || c == OperandClass::kMoffs;
      EXPECT_TRUE(c != OperandClass::kVsib && c != OperandClass::kX && c != OperandClass::kY && c != OperandClass::kSegment && c != OperandClass::kControl &&
                  c != OperandClass::kDebug && c != OperandClass::kFixedSegment && c != OperandClass::kFar && c != OperandClass::kRelative)
          << mnemonic_name(r.mnemonic);
    }
    EXPECT_LE(memory, 1u) << mnemonic_name(r.mnemonic);
  }
}

// What the decoder knows on its way is what the operands say, and what it gives who asks for less is the same.
TEST(Decoder, ShapeAndEffectsAreThoseOfTheWholeInstruction) {
  for (CodeMode mode : {CodeMode::k16, CodeMode::k32, CodeMode::k64})
    for (unsigned start = 0; start < 12; start++)
      for (unsigned opcode = 0; opcode < 256; opcode++)
        for (unsigned modrm = 0; modrm < 256; modrm++) {
          std::vector<uint8_t> bytes;
          if (start % 3 == 1) bytes = {0x66};
          if (start % 3 == 2) bytes = {static_cast<uint8_t>(0x40 | (modrm ^ opcode) % 16)};
          if (start >= 3) bytes.push_back(0x0f);
          if (start >= 6) bytes.push_back(start >= 9 ? 0x3a : 0x38);
          bytes.insert(bytes.end(), {static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm), 0x24, 0x84, 0x13, 0x7f});
          bytes.resize(kMaxInsnLength, 0x81);
          Insn whole, brief;
          InsnShape shape;
          const DecodeStatus status = decode(bytes.data(), bytes.size(), mode, whole, shape);
          ASSERT_EQ(decode_effects(bytes.data(), bytes.size(), mode, brief), status);
          if (status != DecodeStatus::kOk) continue;
          SCOPED_TRACE(std::string(mnemonic_name(whole.mnemonic)) + " " + std::to_string(opcode) + " " + std::to_string(modrm));
          ASSERT_EQ(brief.length, whole.length);
          ASSERT_EQ(brief.mnemonic, whole.mnemonic);
          ASSERT_EQ(brief.form, whole.form);
          ASSERT_EQ(brief.flags_read, whole.flags_read);
          ASSERT_EQ(brief.flags_written, whole.flags_written);
          ASSERT_EQ(brief.flags_maybe, whole.flags_maybe);
          const InsnShape known = InsnShape::of(whole);
          ASSERT_EQ(shape.traits, known.traits);
          ASSERT_EQ(shape.memory, known.memory);
          ASSERT_EQ(shape.memory < 0 ? nullptr : &whole.operands[shape.memory], whole.memory_operand());
          ASSERT_EQ(shape.high, known.high);
          ASSERT_EQ(shape.displaced, known.displaced);
          ASSERT_EQ(shape.named, known.named);
          ASSERT_EQ(shape.written, known.written);
        }
}

}  // namespace
}  // namespace vireo::softkvm
