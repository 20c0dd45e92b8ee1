// SPDX-License-Identifier: Apache-2.0
// Random blocks of integer code at CPL 0 in real mode, 16- and 32-bit protected mode without paging, and 64-bit mode, through the KVM ABI on softkvm
// and on the kernel's /dev/kvm, compared in general registers, flags and memory. A kernel's module may emulate such code, and then stands for the
// CPU in few things: blocks that it says it cannot run (KVM_EXIT_INTERNAL_ERROR) are not compared, of those that fault only that they do
// (the bare CPU judges faults in random_block_test.cpp), and quirk() has the rest. How many there were of each is printed.
// VIREO_BLOCKS: how many a mode; VIREO_SEED: of the first one.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <iostream>
#include <span>

#include "softkvm/abi/backend_test.h"
#include "softkvm/cpu/decoder.h"
#include "softkvm/translate/random_block.h"
#include "softkvm/translate/random_block_state.h"
#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

using test::Backend;
using test::Handle;

enum class Mode { kReal, k16, k32, k64 };
constexpr const char* kModeNames[] = {"real mode", "16-bit protected mode", "32-bit protected mode", "64-bit mode"};
CodeMode code_mode(Mode mode) { return mode == Mode::k64 ? CodeMode::k64 : mode == Mode::k32 ? CodeMode::k32 : CodeMode::k16; }

// What of a run is compared.
struct Outcome {
  uint32_t reason = 0;
  kvm_regs regs{};
  std::vector<uint8_t> memory;  // the data's pages, and what 16-bit addresses reach
  bool whole = false;           // ended by the block's own HLT
};

class Guest {
 public:
  static constexpr size_t kRam = 16u << 20;
  static constexpr uint64_t kTable = 0x6000, kLowTable = 0x5000, kIdt = 0x7000, kTss = 0x9000, kHandlers = 0xa000, kKernelStack = 0xf000;

  Guest(const Backend& backend, Mode mode) : backend_(backend), mode_(mode) {
    system_ = Handle(backend, backend.open());
    vm_ = Handle(backend, system_(KVM_CREATE_VM));
    ram_ = static_cast<uint8_t*>(mmap(nullptr, kRam, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    tables();
    vm_(KVM_SET_TSS_ADDR, 0xfffbd000);
    kvm_userspace_memory_region region{0, 0, 0, kRam, reinterpret_cast<uint64_t>(ram_)};
    EXPECT_EQ(vm_(KVM_SET_USER_MEMORY_REGION, &region), 0);
    vcpu_ = Handle(backend, vm_(KVM_CREATE_VCPU));
    run_ = static_cast<kvm_run*>(mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_.fd(), 0));
    test::CpuidList list(256);
    list.header()->nent = 256;
    EXPECT_EQ(system_(KVM_GET_SUPPORTED_CPUID, list.header()), 0);
    EXPECT_EQ(vcpu_(KVM_SET_CPUID2, list.header()), 0);
    EXPECT_EQ(vcpu_(KVM_GET_SREGS, &sregs_), 0);
    segments();
  }
  ~Guest() {
    munmap(run_, 3 * 4096);
    vcpu_ = Handle();
    vm_ = Handle();
    munmap(ram_, kRam);
  }

  Outcome run(const BlockState& in, std::span<const uint8_t> code) {
    memcpy(ram_ + in.code_base() + in.rip, code.data(), code.size());
    for (unsigned i = 0; i < BlockSpace::kPages; i++) memcpy(ram_ + physical(i), in.data.data() + i * 4096, 4096);
    std::ranges::copy(low_, ram_);  // 16-bit addresses reach the tables
    if (&backend_ == &test::kSoftkvm) softkvm::notice_write(vm_.fd(), ram_, kRam);
    EXPECT_EQ(vcpu_(KVM_SET_SREGS, &sregs_), 0);
    const uint64_t* g = in.gpr;
    kvm_regs r{g[0], g[3], g[1], g[2], g[6], g[7], g[4], g[5], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15], in.rip, (in.flags & (kStatusFlags | kDF)) | 2};
    EXPECT_EQ(vcpu_(KVM_SET_REGS, &r), 0);
    kvm_vcpu_events events{};
    EXPECT_EQ(vcpu_(KVM_SET_VCPU_EVENTS, &events), 0);
    kvm_mp_state runnable{KVM_MP_STATE_RUNNABLE};
    vcpu_(KVM_SET_MP_STATE, &runnable);
    Outcome out;
    EXPECT_EQ(vcpu_(KVM_RUN), 0);
    out.reason = run_->exit_reason;
    EXPECT_EQ(vcpu_(KVM_GET_REGS, &out.regs), 0);
    // An access to no memory is not left open for the next block.
    run_->immediate_exit = 1;
    for (unsigned i = 0; out.reason != KVM_EXIT_HLT && i < 64 && vcpu_(KVM_RUN) == 0; i++) {}
    run_->immediate_exit = 0;
    for (unsigned i = 0; i < BlockSpace::kPages; i++) out.memory.insert(out.memory.end(), ram_ + physical(i), ram_ + physical(i) + 4096);
    out.memory.insert(out.memory.end(), ram_, ram_ + low_.size());
    kvm_sregs after;
    EXPECT_EQ(vcpu_(KVM_GET_SREGS, &after), 0);
    out.whole = out.reason == KVM_EXIT_HLT && out.regs.rip == in.rip + code.size() && after.cs.base == sregs_.cs.base;
    return out;
  }

 private:
  uint64_t physical(unsigned page) const {
    return mode_ != Mode::k64 ? BlockSpace::kData + page * 4096 : 0x800000 + (page * 5 % 16) * 0x3000;
  }
  template <class T>
  void put(uint64_t at, T value) {
    memcpy(ram_ + at, &value, sizeof value);
  }
  // Long mode's page tables, the mode's IDT, whose handlers are HLT, and a TSS with the stack of IST1.
  void tables() {
    for (uint64_t i = 0; mode_ == Mode::k64 && i < 512; i++) {
      unsigned page = static_cast<unsigned>(i - (BlockSpace::kData >> 12 & 511));
      put(kLowTable + i * 8, i << 12 | 3);
      if (page < BlockSpace::kPages && BlockSpace::kind(page) != BlockSpace::Kind::kAbsent)
        put(kTable + i * 8, physical(page) | (BlockSpace::kind(page) == BlockSpace::Kind::kReadOnly ? 1 : 3));
    }
    static_assert(BlockSpace::kData >> 21 == 1);
    if (mode_ == Mode::k64) put<uint64_t>(0x1000, 0x2003), put<uint64_t>(0x2000, 0x3003), put<uint64_t>(0x3000, kLowTable | 3), put<uint64_t>(0x3008, kTable | 3);
    for (uint64_t v = 0; v < 32; v++) {
      const uint64_t handler = kHandlers + v * 16;
      if (mode_ == Mode::k64) put(kIdt + v * 16, handler | 8ull << 16 | 0x8e01ull << 32), put<uint64_t>(kIdt + v * 16 + 8, 0);
      else put(kIdt + v * 8, handler | 8ull << 16 | (mode_ == Mode::k16 ? 0x8600ull : 0x8e00ull) << 32);
      put<uint8_t>(handler, 0xf4);
      if (mode_ == Mode::kReal) put(v * 4, static_cast<uint32_t>(kHandlers >> 4 << 16 | v * 16));
    }
    const uint64_t code[] = {0x008f9b000000ffff, 0x008f9b000000ffff, 0x00cf9b000000ffff, 0x00af9b000000ffff};
    put<uint64_t>(0x8008, code[static_cast<unsigned>(mode_)]), put<uint64_t>(0x8010, 0x00cf93000000ffff);
    put<uint64_t>(kTss + 0x24, kKernelStack);
    if (mode_ != Mode::k64) low_.assign(ram_, ram_ + 0x10000);
  }
  void segments() {
    kvm_segment data{};
    data.limit = 0xffffffff, data.selector = 0x10, data.type = 3, data.present = data.db = data.s = data.g = 1;
    sregs_.ds = sregs_.es = sregs_.ss = sregs_.fs = sregs_.gs = data;
    sregs_.gs.base = BlockSpace::kGsBase;
    sregs_.cs = data;
    sregs_.cs.selector = 8, sregs_.cs.type = 11;
    sregs_.cs.db = mode_ == Mode::k32, sregs_.cs.l = mode_ == Mode::k64;
    if (code_mode(mode_) == CodeMode::k16) sregs_.cs.base = BlockSpace::kCode, sregs_.cs.limit = 0xffff, sregs_.cs.g = 0;
    sregs_.gdt = {0x8000, 0x3f, {}};
    sregs_.idt = {mode_ == Mode::kReal ? 0 : kIdt, 0x1ff, {}};
    sregs_.tr.base = kTss, sregs_.tr.limit = 0x67, sregs_.tr.type = 11, sregs_.tr.present = 1, sregs_.tr.selector = 0x30;
    sregs_.cr0 = mode_ == Mode::kReal ? 0x30 : mode_ == Mode::k64 ? 0x80010031 : 0x31;
    sregs_.cr2 = 0;
    sregs_.cr3 = 0x1000;
    sregs_.cr4 = mode_ == Mode::k64 ? 0x620 : 0;
    sregs_.efer = mode_ == Mode::k64 ? 0xd00 : 0;
  }

  const Backend& backend_;
  Mode mode_;
  Handle system_, vm_, vcpu_;
  uint8_t* ram_;
  kvm_run* run_;
  kvm_sregs sregs_{};
  std::vector<uint8_t> low_;
};

// Integer instructions that every x86-64 CPU has; LZCNT and TZCNT, which a host's emulator may take for BSR and BSF, have features.
bool integer(const Unit& unit, CodeMode mode) {
  for (const Unit::Piece& p : unit.pieces) {
    Insn insn;
    if (decode(p.bytes.data(), p.bytes.size(), mode, insn) != DecodeStatus::kOk || insn.encoding != Encoding::kLegacy || insn.feature) return false;
    if (insn.map == OpcodeMap::kOneByte && insn.opcode >= 0xd8 && insn.opcode <= 0xdf) return false;
    for (unsigned i = 0; i < insn.operand_count; i++) {
      const OperandKind k = insn.operands[i].kind;
      if (k == OperandKind::kMmx || k == OperandKind::kVector || k == OperandKind::kMask) return false;
    }
  }
  return true;
}

// What Linux's emulator (arch/x86/kvm/emulate.c) does otherwise than the manuals; the bare CPU judges these too, at CPL 3.
bool quirk(const Unit& unit, CodeMode mode) {
  for (const Unit::Piece& p : unit.pieces) {
    Insn insn;
    decode(p.bytes.data(), p.bytes.size(), mode, insn);
    // ENTER pushes rBP by the stack's width, not the operand's, and does not try the final top of the stack.
    if (insn.mnemonic == Mnemonic::kEnter) return true;
    // A NOP with a memory operand is as long with 67 as without.
    if (insn.mnemonic == Mnemonic::kNop && insn.has_modrm && insn.addrsize) return true;
    // CMPXCHG that finds another value in a 32-bit register clears its upper half.
    if (insn.mnemonic == Mnemonic::kCmpxchg && insn.modrm >= 0xc0 && insn.operand_size == 4 && mode == CodeMode::k64) return true;
    // AAD and AAM set SF and ZF by AX, not AL.
    if (insn.mnemonic == Mnemonic::kAad || insn.mnemonic == Mnemonic::kAam) return true;
    // PREFETCH of a register is #UD on AMD's CPUs, as 0F 0D is theirs.
    if (insn.map == OpcodeMap::k0F && insn.opcode == 0x0d && insn.modrm >= 0xc0) return true;
  }
  return false;
}

// Leaves the integer instructions whose flags are defined.
void keep_integer(RandomBlock& block, CodeMode mode) {
  uint32_t undefined = 0;
  std::erase_if(block.units, [&](const Unit& unit) {
    if (!integer(unit, mode) || quirk(unit, mode)) return true;
    uint32_t now = undefined;
    for (const Unit::Piece& p : unit.pieces) {
      Insn insn;
      decode(p.bytes.data(), p.bytes.size(), mode, insn);
      if (insn.flags_read & now) return true;
      now = (now & ~insn.flags_written) | undefined_flags_of(insn);
    }
    undefined = now;
    return false;
  });
}

std::string difference(const Outcome& kernel, const Outcome& soft, uint32_t ignored_flags) {
  std::string s;
  auto say = [&](const char* what, uint64_t a, uint64_t b) {
    char line[120];
    snprintf(line, sizeof line, "  %s %#lx, softkvm %#lx\n", what, a, b);
    if (a != b) s += line;
  };
  say("ran to its end", kernel.whole, soft.whole);
  if (kernel.whole != soft.whole) say("exit reason", kernel.reason, soft.reason);
  if (!kernel.whole) return s;
  static const char* const kNames[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"};
  for (unsigned i = 0; i < 17; i++) say(kNames[i], (&kernel.regs.rax)[i], (&soft.regs.rax)[i]);
  say("rflags", kernel.regs.rflags & ~uint64_t{ignored_flags}, soft.regs.rflags & ~uint64_t{ignored_flags});
  for (size_t i = 0; i < kernel.memory.size() && s.size() < 600; i++)
    if (kernel.memory[i] != soft.memory[i]) say(("memory at data + " + std::to_string(i)).c_str(), kernel.memory[i], soft.memory[i]), i |= 7;
  return s;
}

uint64_t number(const char* name, uint64_t otherwise) {
  const char* s = getenv(name);
  return s ? strtoull(s, nullptr, 0) : otherwise;
}

class RandomKvmBlocks : public ::testing::TestWithParam<Mode> {};

TEST_P(RandomKvmBlocks, EqualTheKernels) {
  if (!test::kernel_present()) GTEST_SKIP() << "no /dev/kvm";
  const Mode mode = GetParam();
  const CodeMode code_size = code_mode(mode);
  TestMachine any;  // what features the generator may use
  Guest kernel(test::kKernel, mode), soft(test::kSoftkvm, mode);
  const uint64_t first = number("VIREO_SEED", 1), blocks = number("VIREO_BLOCKS", 500);
  uint64_t compared = 0, instructions = 0, refused = 0, faulted = 0, failures = 0;
  BlockState in;
  for (uint64_t seed = first; seed < first + blocks && failures < number("VIREO_FAILURES", 5); seed++) {
    RandomBlock block(seed, *any.vcpu, code_size);
    keep_integer(block, code_size);
    auto compare = [&](const RandomBlock& b) -> std::string {
      const std::vector<uint8_t> code = b.assemble();
      random_state(in, seed, BlockSpace::kCode + b.offset - BlockState::code_base(code_size), code_size);
      const Outcome of_kernel = kernel.run(in, code);
      if (of_kernel.reason == KVM_EXIT_INTERNAL_ERROR) return refused++, "";
      const Outcome of_soft = soft.run(in, code);
      compared++;
      if (of_kernel.whole) instructions += b.units.size();
      else faulted++;
      return difference(of_kernel, of_soft, b.undefined_flags());
    };
    std::string what = compare(block);
    if (what.empty()) continue;
    for (bool again = true; again;) {  // made small
      again = false;
      for (size_t i = block.units.size(); i-- > 0 && block.units.size() > 1;) {
        RandomBlock less = block;
        less.units.erase(less.units.begin() + static_cast<std::ptrdiff_t>(i));
        const std::string still = compare(less);
        if (still.empty()) continue;
        block = less, what = still;
        again = true;
      }
    }
    failures++;
    std::string text = "seed " + std::to_string(seed) + ", ";
    for (const Unit& u : block.units) {
      text += u.name;
      for (const Unit::Piece& p : u.pieces) {
        text += "\n   ";
        for (uint8_t byte : p.bytes) text += " ", text += "0123456789abcdef"[byte >> 4], text += "0123456789abcdef"[byte & 15];
      }
      text += "\n";
    }
    ADD_FAILURE() << text << what;
  }
  std::cout << kModeNames[static_cast<unsigned>(mode)] << ", seeds from " << first << ": " << compared << " blocks compared, " << instructions
            << " instructions in those that ran to their end, " << faulted << " blocks that faulted, " << refused << " that /dev/kvm cannot run\n";
  EXPECT_GT(instructions, blocks) << "hardly anything was compared";
}

INSTANTIATE_TEST_SUITE_P(Modes, RandomKvmBlocks, ::testing::Values(Mode::kReal, Mode::k16, Mode::k32, Mode::k64),
                         [](const auto& i) { return std::string(std::array{"Real", "Of16BitCode", "Of32BitCode", "Of64BitCode"}[static_cast<unsigned>(i.param)]); });

}  // namespace
}  // namespace vireo::softkvm
