// SPDX-License-Identifier: Apache-2.0
// FXSAVE, XSAVE and their kin outside of 64-bit mode, where XMM8 to XMM15, the upper parts of YMM and ZMM8 to 15, and ZMM16 to ZMM31 are neither
// saved nor loaded, in no component and in no format: by the manual, and by the bare CPU.
// Spec: Intel SDM vol 1, 10.5, 13.5.2, 13.5.3, 13.5.5, 13.6 to 13.12.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "softkvm/translate/random_block_bare_cpu.h"
#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kCompact = 1ull << 63;
constexpr uint64_t kInPlace = BlockSpace::kData + 4096, kOverPages = BlockSpace::kData + 3 * 4096 - 640;

struct Instruction {
  const char* name;
  std::vector<uint8_t> code;  // with [edi], and HLT
  bool saves, extended, compact;
  std::vector<uint8_t> unprivileged = code;  // one that does the same, with IA32_XSS = 0
  friend void PrintTo(const Instruction& insn, std::ostream* out) { *out << insn.name; }
};
const Instruction kInstructions[] = {
    {"fxsave", {0x0f, 0xae, 0x07, 0xf4}, true, false, false},
    {"xsave", {0x0f, 0xae, 0x27, 0xf4}, true, true, false},
    {"xsaveopt", {0x0f, 0xae, 0x37, 0xf4}, true, true, false},
    {"xsavec", {0x0f, 0xc7, 0x27, 0xf4}, true, true, true},
    {"xsaves", {0x0f, 0xc7, 0x2f, 0xf4}, true, true, true, {0x0f, 0xc7, 0x27, 0xf4}},
    {"fxrstor", {0x0f, 0xae, 0x0f, 0xf4}, false, false, false},
    {"xrstor", {0x0f, 0xae, 0x2f, 0xf4}, false, true, false},
    {"xrstor, compacted", {0x0f, 0xae, 0x2f, 0xf4}, false, true, true},
    {"xrstors", {0x0f, 0xc7, 0x1f, 0xf4}, false, true, true, {0x0f, 0xae, 0x2f, 0xf4}},
};

struct Part {
  unsigned component, at, size;
  bool upper;
};
// The registers' places in an area whose XCOMP_BV is `format`, or in one of the standard format (0).
std::vector<Part> parts(uint64_t format) {
  std::vector<Part> out{{1, 160, 128, false}, {1, 288, 128, true}};
  unsigned next = 576;
  for (unsigned i = 2; i < 8; i++) {
    const unsigned size = layout().size[i], at = format ? next : layout().offset[i];
    if (!((format ? format : components()) >> i & 1) || !size) continue;
    next += size;
    const unsigned low = i == 5 ? size : i == 7 ? 0 : size / 2;
    if (low) out.push_back({i, at, low, false});
    if (low < size) out.push_back({i, at + low, size - low, true});
  }
  return out;
}

uint64_t& header(uint8_t* area) { return *reinterpret_cast<uint64_t*>(area + 512); }
uint64_t& format(uint8_t* area) { return *reinterpret_cast<uint64_t*>(area + 520); }

bool run(TestMachine& m, const BlockState& in, std::span<const uint8_t> code, BlockState& out) {
  Vcpu& v = *m.vcpu;
  v.segment[kCS] = in.mode == CodeMode::k64 ? Segment{0, 0xffffffff, 8, 0xa09b, false} : Segment{0, 0xffffffff, 8, 0xc09b, false};
  memcpy(m.ram + BlockSpace::kData, in.data.data(), kDataSize);
  for (unsigned i = 0; i < 16; i++) v.gpr[i] = in.gpr[i];
  memcpy(v.xsave_area(), in.area, 416);
  memcpy(v.xsave_area() + 512, in.area + 512, layout().end - 512);
  v.halted = false;
  v.mp_state = 0;
  const bool done = m.run(code) == KVM_EXIT_HLT && v.rip == TestMachine::kCode + code.size();
  memcpy(out.area, v.xsave_area(), layout().end);
  memcpy(out.data.data(), m.ram + BlockSpace::kData, kDataSize);
  return done;
}

class FpuArea : public testing::TestWithParam<Instruction> {
 protected:
  void SetUp() override {
    if (layout().end > kAreaSize) GTEST_SKIP() << "this host's XSAVE area is longer than any that is known";
  }
  // Random registers, and at `address` a random image, in which the components of `present` are.
  static void start(BlockState& in, uint64_t seed, CodeMode mode, uint64_t address, uint64_t asked, uint64_t present) {
    const Instruction& insn = GetParam();
    static const auto image = std::make_unique<BlockState>();
    random_state(*image, seed + 1000000, BlockSpace::kCode, mode);
    random_state(in, seed, BlockSpace::kCode, mode);
    in.gpr[kRdi] = address, in.gpr[kRax] = asked, in.gpr[kRdx] = 0;
    uint8_t* area = &in.data[address - BlockSpace::kData];
    memcpy(area, image->area, 416);
    memset(area + 512, 0, 64);
    if (insn.saves) return;
    header(area) = present;
    if (insn.compact) format(area) = kCompact | present | (seed % 2 ? components() & ~3ull : 0);
  }
};

TEST_P(FpuArea, LeavesUpperRegistersAloneOutsideOf64BitMode) {
  const Instruction& insn = GetParam();
  TestMachine m;
  const auto in = std::make_unique<BlockState>(), out = std::make_unique<BlockState>();
  for (const CodeMode mode : {CodeMode::k32, CodeMode::k64})
    for (const uint64_t address : {kInPlace, kOverPages})
      for (const uint64_t present : {components(), uint64_t{0}, components() & 0x42, components() & 0xa5}) {
        SCOPED_TRACE(testing::Message() << (mode == CodeMode::k64 ? "64-bit mode" : "32-bit") << ", at " << std::hex << address << ", components " << present);
        start(*in, 1, mode, address, components(), present);
        header(in->area) = components();
        ASSERT_TRUE(run(m, *in, insn.code, *out));
        uint8_t *area = &out->data[address - BlockSpace::kData], *before = &in->data[address - BlockSpace::kData];
        const uint64_t layout_of_image = !insn.compact ? 0 : insn.saves ? components() : format(before) & ~kCompact;
        if (insn.saves && insn.extended) {
          EXPECT_EQ(header(area) & 0x67, components() & 0x67);  // of ZMM16 to ZMM31 either will do
          EXPECT_EQ(format(area), insn.compact ? kCompact | components() : 0);
        }
        const std::vector<Part> registers = parts(0), places = parts(layout_of_image);
        for (const Part& r : registers) {
          const Part* place = nullptr;
          for (const Part& p : places)
            if (p.component == r.component && p.upper == r.upper && (insn.extended || p.component == 1)) place = &p;
          const bool touched = !r.upper || mode == CodeMode::k64;
          SCOPED_TRACE(testing::Message() << "component " << r.component << (r.upper ? ", upper" : ""));
          if (insn.saves) {
            const uint8_t* wanted = touched ? in->area + r.at : before + (place ? place->at : 0);
            EXPECT_TRUE(!place || memcmp(area + place->at, wanted, r.size) == 0);
            continue;
          }
          uint8_t zero[1024] = {};
          const uint8_t* wanted = in->area + r.at;
          if (touched && insn.extended) wanted = present >> r.component & 1 ? before + place->at : zero;
          if (touched && !insn.extended && place) wanted = before + place->at;
          const uint8_t* got = header(out->area) >> r.component & 1 ? out->area + r.at : zero;
          EXPECT_EQ(memcmp(got, wanted, r.size), 0);
        }
      }
}

TEST_P(FpuArea, Of32BitCodeEqualsTheBareCpu) {
  const Instruction& insn = GetParam();
  if (!BareCpu::runs(CodeMode::k32)) GTEST_SKIP() << "this host runs 64-bit programs only";
  TestMachine m;
  BareCpu bare;
  const auto in = std::make_unique<BlockState>(), of_bare = std::make_unique<BlockState>(), of_soft = std::make_unique<BlockState>();
  for (uint64_t seed = 1; seed <= 300 && !HasFailure(); seed++) {
    const uint64_t bits = seed * 0x9e3779b97f4a7c15, asked = seed % 3 ? components() & bits >> 40 : components(), address = seed % 5 ? kInPlace : kOverPages;
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", asked " << std::hex << asked);
    start(*in, seed, CodeMode::k32, address, asked, seed % 4 ? components() & bits >> 50 : components());
    header(in->area) &= 3 | bits >> 30;
    bare.run(*in, insn.unprivileged, *of_bare);
    ASSERT_EQ(of_bare->vector, unsigned{kGP});  // HLT
    ASSERT_EQ(of_bare->rip, in->rip + insn.code.size() - 1);
    ASSERT_TRUE(run(m, *in, insn.code, *of_soft));
    const uint64_t registers = header(in->area);
    for (BlockState* s : {of_bare.get(), of_soft.get()}) {
      normalize(s->area);
      uint8_t* area = &s->data[address - BlockSpace::kData];
      if (!insn.saves) continue;
      memset(area + 6, 0, 18);  // FOP, FIP, FDP
      if (!insn.extended) continue;
      // A component in its initial configuration, which outside of 64-bit mode ZMM16 to ZMM31 always are in, may be in use all the same, and is
      // stored then. XSAVEOPT runs as XSAVE, which stores it in any case.
      header(area) &= registers & ~0x80ull;
      for (const Part& p : parts(insn.compact ? asked : 0))
        if (!(registers >> p.component & 1) && !p.upper) memset(area + p.at, 0, p.size);
    }
    EXPECT_EQ(memcmp(of_bare->area, of_soft->area, 416), 0);
    for (const Part& p : parts(0)) EXPECT_EQ(memcmp(of_bare->area + p.at, of_soft->area + p.at, p.size), 0) << "component " << p.component << (p.upper ? ", upper" : "");
    for (size_t i = 0; i < 4096; i++) ASSERT_EQ(of_bare->data[address - BlockSpace::kData + i], of_soft->data[address - BlockSpace::kData + i]) << "byte " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, FpuArea, testing::ValuesIn(kInstructions), [](const auto& i) {
  std::string name;
  for (const char* c = i.param.name; *c; c++)
    if (isalpha(static_cast<unsigned char>(*c))) name += *c;
  return name;
});

}  // namespace
}  // namespace vireo::softkvm
