// SPDX-License-Identifier: Apache-2.0
// Random blocks of 64-bit, 32-bit and 16-bit code run on softkvm and on the bare CPU of this machine, at CPL 3 and at the same linear addresses, and are compared
// in general registers, flags, SIMD, MXCSR, x87, memory, and the exception that ended them. On the bare CPU a block is entered and left
// by signals, whose frames hold the whole state. A difference is made small before it is shown.
// VIREO_BLOCKS: how many at most; VIREO_INSTRUCTIONS: how many drawn instructions are enough; VIREO_SEED: of the first block; VIREO_FAILURES: how many
// differences end the test.
#include <asm/ldt.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>

#include "softkvm/cpu/decoder.h"
#include "softkvm/translate/random_block.h"
#include "softkvm/translate/random_block_bare_cpu.h"
#include "softkvm/translate/random_block_count.h"
#include "softkvm/translate/random_block_permitted.h"
#include "softkvm/translate/random_block_state.h"
#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

// --- softkvm

class Guest {
 public:
  static constexpr uint64_t kTable = 0x6000, kLowTable = 0x5000, kIdt = 0x7000, kGdt = 0x8000, kTss = 0x9000, kHandlers = 0xa000, kKernelStack = 0xf000;
  static uint64_t physical(unsigned page) { return 0x800000 + (page * 5 % 16) * 0x3000; }  // no two neighbours are neighbours

  Guest() {
    m_.vcpu->vendor_is_amd = m_.cpuid->amd;  // the bare CPU's, which is the judge
    // The data's 2 MiB by pages, shuffled.
    auto* table = reinterpret_cast<uint64_t*>(m_.ram + kTable);
    for (unsigned i = 0; i < 512; i++) table[i] = 0;
    for (unsigned i = 0; i < BlockSpace::kPages; i++) {
      auto k = BlockSpace::kind(i);
      unsigned at = (BlockSpace::kData >> 12 & 511) + i;
      if (k != BlockSpace::Kind::kAbsent) table[at] = physical(i) | (k == BlockSpace::Kind::kReadOnly ? 5 : 7);
    }
    // Nothing else is the program's, as nothing else is mapped in the process.
    for (unsigned i = 0; i < 512; i++) m_.at(0x3000 + i * 8) = 0;
    m_.at(0x3000) = kLowTable | 7;
    m_.at(0x3000 + (BlockSpace::kData >> 21) * 8) = kTable | 7;
    for (uint64_t i = 0; i < 512; i++) m_.at(kLowTable + i * 8) = i > 0 && i < 16 ? i << 12 | 3 : i << 12 == BlockSpace::kCode || (i - 1) << 12 == BlockSpace::kCode ? i << 12 | 7 : 0;
    for (unsigned v = 0; v < 32; v++) {
      uint64_t handler = kHandlers + v * 16;
      m_.at(kIdt + v * 16) = (handler & 0xffff) | 8ull << 16 | (v == 4 ? 0xee01ull : 0x8e01ull) << 32 | (handler >> 16 & 0xffff) << 48;
      m_.at(kIdt + v * 16 + 8) = 0;
      m_.at<uint8_t>(handler) = 0xf4;
    }
    m_.at(kGdt + 8) = 0x00af9b000000ffff;
    m_.at(kGdt + 16) = 0x00cf93000000ffff;
    memcpy(m_.ram + kTss + 0x24, &kKernelStack, 8);  // IST1, which is not aligned
  }

  void run(const BlockState& in, std::span<const uint8_t> code, BlockState& out) {
    Vcpu& v = *m_.vcpu;
    uint8_t* at = m_.ram + in.code_base() + in.rip;
    memcpy(at, code.data(), code.size());
    m_.vm->notice_write(at, code.size());
    for (unsigned i = 0; i < BlockSpace::kPages; i++) memcpy(m_.ram + physical(i), in.data.data() + i * 4096, 4096);
    v.cr0 = 0x80050033;
    v.segment[kCS] = Segment{0, 0xffffffff, 0x2b, 0xa0fb, false};
    if (in.mode == CodeMode::k32) v.segment[kCS] = Segment{0, 0xffffffff, 0x1b, 0xc0fb, false};
    if (in.mode == CodeMode::k16) v.segment[kCS] = Segment{BlockSpace::kCode, 0xffff, 0x1b, 0xfb, false};
    for (unsigned s : {kES, kSS, kDS, kFS, kGS}) v.segment[s] = Segment{0, 0xffffffff, 0x23, 0xc0f3, false};
    v.segment[kGS].base = BlockSpace::kGsBase;
    v.tr = Segment{kTss, 0x67, 0x30, 0x8b, false};
    v.gdtr = {kGdt, 0x3f};
    v.idtr = {kIdt, 0x1ff};
    v.cpl = 3;
    v.dr6 = 0xffff0ff0;
    v.cr2 = 0;
    v.halted = false;
    v.mp_state = 0;
    for (unsigned i = 0; i < 16; i++) v.gpr[i] = in.gpr[i];
    v.set_rflags(in.flags | 0x202);
    v.rip = in.rip;
    memcpy(v.xsave_area(), in.area, 416);
    memcpy(v.xsave_area() + 512, in.area + 512, kAreaSize - 512);
    v.state_changed();
    reason = m_.go();
    memcpy(out.area, v.xsave_area(), kAreaSize);
    for (unsigned i = 0; i < 16; i++) out.gpr[i] = v.gpr[i];
      for (unsigned i = 0; i < BlockSpace::kPages; i++) {
      bool there = BlockSpace::kind(i) != BlockSpace::Kind::kAbsent;
      memcpy(out.data.data() + i * 4096, there ? m_.ram + physical(i) : in.data.data() + i * 4096, 4096);
    }
    out.vector = 255;
    if (reason != KVM_EXIT_HLT || v.rip < kHandlers || v.rip > kHandlers + 512) return;
    out.vector = static_cast<unsigned>((v.rip - kHandlers) / 16);
    uint64_t frame = v.gpr[kRsp];
    const bool has_error = frame % 16 == 0;  // the CPU aligns the stack before it pushes five words or six
    out.error = has_error ? m_.at(frame) : 0;
    if (has_error) frame += 8;
    out.rip = m_.at(frame);
    out.flags = m_.at(frame + 16);
    out.gpr[kRsp] = m_.at(frame + 24);
    out.cr2 = v.cr2;
  }

  TestMachine m_;
  uint32_t reason = 0;
};

// --- comparison

[[gnu::format(printf, 1, 2)]] std::string print(const char* format, ...) {
  char line[200];
  va_list list;
  va_start(list, format);
  vsnprintf(line, sizeof line, format, list);
  va_end(list);
  return line;
}

std::string differences(const BlockState& in, const BlockState& bare, const BlockState& soft, uint32_t ignored_flags, uint32_t ignored_upper) {
  std::string s;
  static const char* const kNames[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
  if (bare.vector != soft.vector || bare.rip != soft.rip)
    s += print("  ended by vector %u at %#lx, softkvm %u at %#lx\n", bare.vector, bare.rip, soft.vector, soft.rip);
  else if (bare.vector == kPFv &&  // Linux shows "present" for all addresses that are not the process's; in the guest its tables lie below 64 KiB
            (bare.cr2 != soft.cr2 || (bare.error ^ soft.error) & (bare.cr2 >= 0x7ffffffff000 || bare.cr2 < 0x10000 ? 0x1e : 0x1f)))
    s += print("  cr2 %#lx error %#lx, softkvm %#lx %#lx\n", bare.cr2, bare.error, soft.cr2, soft.error);
  for (unsigned i = 0; i < 16; i++)
    if ((bare.gpr[i] ^ soft.gpr[i]) & (ignored_upper >> i & 1 ? 0xffffffff : ~0ull)) s += print("  %s %#lx, softkvm %#lx (was %#lx)\n", kNames[i], bare.gpr[i], soft.gpr[i], in.gpr[i]);
  uint64_t flags = (kStatusFlags | kDF | kAC | kTF | kID | kNT) & ~ignored_flags;
  if ((bare.flags ^ soft.flags) & flags) s += print("  flags %#lx, softkvm %#lx (was %#lx, compared %#lx)\n", bare.flags, soft.flags, in.flags, flags);
  const bool area_differs = memcmp(bare.area, soft.area, 512) || memcmp(bare.area + 576, soft.area + 576, layout().end - 576);
  for (unsigned i = 0; area_differs && i < layout().end; i++) {
    if (bare.area[i] == soft.area[i] || (i >= 512 && i < 576)) continue;
    std::string where = i < 24 ? "x87 control" : i < 32 ? "mxcsr" : i < 160 ? print("st%u", (i - 32) / 16) : i < 416 ? print("xmm%u", (i - 160) / 16) : "";
    for (unsigned c = 2; c < 8; c++)
      if (layout().size[c] && i - layout().offset[c] < layout().size[c]) {
        static const unsigned kStep[8] = {1, 1, 16, 1, 1, 8, 32, 64};
        where = print("component %u, register %u", c, (i - layout().offset[c]) / kStep[c]);
      }
    s += print("  %s (byte %u of the area): %#x, softkvm %#x (was %#x)\n", where.c_str(), i, bare.area[i], soft.area[i], in.area[i]);
    i |= 7;
  }
  unsigned shown = 0;
  for (size_t i = 0; bare.data != soft.data && i < kDataSize && shown < 4; i++) {
    if (bare.data[i] == soft.data[i]) continue;
    s += print("  memory at %#lx: %#x, softkvm %#x (was %#x)\n", BlockSpace::kData + i, bare.data[i], soft.data[i], in.data[i]);
    i |= 15, shown++;
  }
  return s;
}

uint64_t number(const char* name, uint64_t otherwise) {
  const char* s = getenv(name);
  return s ? strtoull(s, nullptr, 0) : otherwise;
}

class Comparison {
 public:
  explicit Comparison(CodeMode mode) : mode_(mode) {}
  std::string compare(const RandomBlock& block, uint64_t seed) {
    BlockState &in = in_, &bare = of_bare_, &soft = of_soft_;
    random_state(in, seed, start_of(block), mode_);
    std::vector<uint8_t> code = block.assemble();
    bare_.run(in, code, bare);
    guest_.run(in, code, soft);
    if (soft.vector == 255) return print("  softkvm left with %u at %#lx\n", guest_.reason, guest_.m_.vcpu->rip);
    normalize(in.area);
    normalize(bare.area);
    normalize(soft.area);
    count.add(block, code.size(), in, bare);
    if (store_withheld(bare, soft, block, code)) return {};
    if (told_of_the_conversion(bare, soft, block, code)) soft.vector = bare.vector, soft.cr2 = bare.cr2, soft.error = bare.error, memcpy(soft.area + 24, bare.area + 24, 4);
    if (told_of_the_other(bare, soft, block, code)) soft.vector = bare.vector, soft.cr2 = bare.cr2, soft.error = bare.error;
    if (bare.vector == kPFv || bare.vector == kGP || bare.vector == kSSv || bare.vector == kACv) forget_half_done(bare, soft, block, code);
    uint32_t ignored = block.undefined_flags();
    if (bare.rip != in.rip + code.size() - 1) ignored = kStatusFlags;  // ended before its end
    return differences(in, bare, soft, ignored, upper_halves_ignored(block));
  }
  // The registers whose upper halves may differ.
  uint32_t upper_halves_ignored(const RandomBlock& block) const {
    uint32_t registers = 0;
    for (const Unit& u : block.units)
      for (const Unit::Piece& p : u.pieces) {
        Insn insn;
        if (decode(p.bytes.data(), p.bytes.size(), mode_, insn) != DecodeStatus::kOk) continue;
        if (!permitted(PermittedDifference::What::kUpperHalf, insn, vcpu().vendor_is_amd)) continue;
        if (insn.operands[0].kind == OperandKind::kGpr) registers |= 1u << insn.operands[0].reg;
      }
    return registers;
  }
  // An x87 store whose unmasked exception keeps it from storing does not look at its address on the CPU; softkvm does.
  bool store_withheld(const BlockState& bare, const BlockState& soft, const RandomBlock& block, const std::vector<uint8_t>& code) const {
    Insn insn;
    uint64_t at = soft.rip - start_of(block);
    return bare.area[2] & 0x80 && at < code.size() && decode(&code[at], code.size() - at, mode_, insn) == DecodeStatus::kOk &&
           insn.opcode >= 0xd8 && insn.opcode <= 0xdf && insn.memory_operand() && bare.rip != soft.rip;
  }
  // A conversion that is to be stored may be #XM while its address is a fault as well. Both are of the last class of events, in which each CPU has an order
  // of its own (SDM vol 3, table 6-2): Intel's family 6 tells of #XM first where a segment may not be written.
  bool told_of_the_conversion(const BlockState& bare, const BlockState& soft, const RandomBlock& block, const std::vector<uint8_t>& code) const {
    Insn insn;
    const uint64_t at = bare.rip - start_of(block);
    const bool address = soft.vector == kGP || soft.vector == kSSv || soft.vector == kPFv || soft.vector == kACv;
    return bare.vector == kXM && address && bare.rip == soft.rip && at < code.size() && decode(&code[at], code.size() - at, mode_, insn) == DecodeStatus::kOk &&
           insn.mnemonic == Mnemonic::kVcvtps2ph && insn.memory_operand();
  }
  // CMPS whose operands both fault tells of one of them. AMD's manual does not say which: family 25 reads [rDI] first, family 26 [rSI].
  bool told_of_the_other(const BlockState& bare, const BlockState& soft, const RandomBlock& block, const std::vector<uint8_t>& code) const {
    Insn insn;
    const uint64_t at = bare.rip - start_of(block);
    if (!vcpu().vendor_is_amd || bare.rip != soft.rip || at >= code.size() || decode(&code[at], code.size() - at, mode_, insn) != DecodeStatus::kOk ||
        insn.mnemonic != Mnemonic::kCmps || insn.segment >= kFS)
      return false;
    const uint64_t mask = insn.address_size == 8 ? ~0ull : insn.address_size == 4 ? 0xffffffff : 0xffff;
    auto canonical = [](uint64_t linear) { return static_cast<uint64_t>(static_cast<int64_t>(linear << 16) >> 16) == linear; };
    auto tells_of = [&](const BlockState& s, unsigned reg) {
      const uint64_t address = s.gpr[reg] & mask;
      switch (s.vector) {
        case kPFv: return s.cr2 - address < insn.operand_size;
        case kGP: return !canonical(address) || !canonical(address + insn.operand_size - 1);
        case kACv: return address % insn.operand_size != 0;
        default: return false;
      }
    };
    return (tells_of(bare, kRdi) && tells_of(soft, kRsi)) || (tells_of(bare, kRsi) && tells_of(soft, kRdi));
  }
  // An MMX instruction that faults on its memory operand may have set the x87 tags and top of stack already, or not.
  void forget_half_done(BlockState& bare, BlockState& soft, const RandomBlock& block, const std::vector<uint8_t>& code) const {
    Insn insn;
    uint64_t at = bare.rip - start_of(block);
    if (at >= code.size() || decode(&code[at], code.size() - at, mode_, insn) != DecodeStatus::kOk) return;
    for (unsigned i = 0; i < insn.operand_count; i++)
      if (insn.operands[i].kind == OperandKind::kMmx && (insn.memory_operand() || insn.mnemonic == Mnemonic::kMaskmovq))
        memcpy(bare.area, soft.area, 24), memcpy(bare.area + 32, soft.area + 32, 128);
    // Nor whether the exception flags of a conversion are set that cannot be stored.
    if (insn.mnemonic == Mnemonic::kVcvtps2ph) memcpy(bare.area + 24, soft.area + 24, 4);
    // SDM vol 3, 8.1.1 (guaranteed atomic operations): an x87 instruction that stores more than a quadword may do it by several accesses, and those done are
    // seen though another faults. So it is on Intel's family 6; softkvm stores nothing.
    if (!vcpu().vendor_is_amd && bare.vector == kPFv && (insn.mnemonic == Mnemonic::kFstp || insn.mnemonic == Mnemonic::kFbstp) && insn.memory_operand() &&
        insn.memory_operand()->size == 10) {
      static_assert(BlockSpace::kData % 4096 == 0);
      for (size_t i = 0; i < bare.data.size(); i++)
        if (i % 4096 >= 4096 - 9) soft.data[i] = bare.data[i];
    }
  }
  RandomBlock shrink(RandomBlock block, uint64_t seed) {
    for (bool again = true; again;) {
      again = false;
      for (size_t i = block.units.size(); i-- > 0 && block.units.size() > 1;) {
        RandomBlock less = block;
        less.units.erase(less.units.begin() + static_cast<std::ptrdiff_t>(i));
        if (compare(less, seed).empty()) continue;
        block = less;
        again = true;
      }
    }
    return block;
  }
  uint64_t start_of(const RandomBlock& block) const { return BlockSpace::kCode + block.offset - BlockState::code_base(mode_); }
  const Vcpu& vcpu() const { return *guest_.m_.vcpu; }

 private:
  CodeMode mode_;
  BareCpu bare_;
  Guest guest_;
  BlockState in_, of_bare_, of_soft_;

 public:
  BlockCount count{vcpu(), mode_};
};

void run_blocks(CodeMode mode) {
  if (!BareCpu::runs(mode)) GTEST_SKIP() << "this host runs 64-bit programs only";
  if (layout().end > kAreaSize) GTEST_SKIP() << "this host's XSAVE area is longer than any that is known";
  Comparison c(mode);
  const uint64_t blocks = number("VIREO_BLOCKS", 4000), first = number("VIREO_SEED", 1), limit = number("VIREO_FAILURES", 5), enough = number("VIREO_INSTRUCTIONS", ~0ull);
  uint64_t failures = 0;
  std::map<std::string, unsigned> seen;
  uint64_t seed = first;
  for (; seed < first + blocks && failures < limit && c.count.drawn() < enough; seed++) {
    RandomBlock block(seed, c.vcpu(), mode);
    if (c.compare(block, seed).empty()) continue;
    block = c.shrink(block, seed);
    std::string what = c.compare(block, seed), names;
    for (const Unit& u : block.units) names += u.name + "; ";
    if (seen[names]++ >= 2) continue;
    failures++;
    std::string text = "seed " + std::to_string(seed) + ", " + names + "\n";
    for (const Unit& u : block.units)
      for (const Unit::Piece& p : u.pieces) {
        text += "   ";
        for (uint8_t b : p.bytes) text += print(" %02x", b);
        text += "\n";
      }
    ADD_FAILURE() << text << what;
  }
  std::cout << "seeds " << first << " to " << seed - 1 << "\n";
  c.count.print(std::cout);
}

TEST(RandomBlocks, EqualTheBareCpu) { run_blocks(CodeMode::k64); }
TEST(RandomBlocks, Of32BitCodeEqualTheBareCpu) { run_blocks(CodeMode::k32); }
TEST(RandomBlocks, Of16BitCodeEqualTheBareCpu) {
  user_desc entry{};
  entry.base_addr = BlockSpace::kCode;
  entry.limit = 0xffff;
  entry.contents = MODIFY_LDT_CONTENTS_CODE;
  entry.useable = 1;
  if (syscall(SYS_modify_ldt, 1, &entry, sizeof entry)) GTEST_SKIP() << "no modify_ldt on this host";
  run_blocks(CodeMode::k16);
}

}  // namespace
}  // namespace vireo::softkvm
