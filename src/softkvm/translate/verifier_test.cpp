// SPDX-License-Identifier: Apache-2.0
// The verifier takes what the translator emits, and refuses a block broken in any one way. The broken instructions' bytes are from the
// Intel SDM, vol 2.
#include "softkvm/translate/verifier.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "softkvm/cpu/decoder.h"
#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/emitter.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint32_t kOffset = 0x1000, kMode = kModeCode64 | kModeFlatData | kModeFlatCode | kViewSupervisor << kModeViewShift;

uint32_t tlb(size_t array, unsigned view = kViewSupervisor) {
  return static_cast<uint32_t>(ENGINE + offsetof(Engine, tlb) + view * sizeof(TlbView) + array);
}
uint32_t jump(size_t member) {
  return static_cast<uint32_t>(ENGINE + offsetof(Engine, jump) + kViewSupervisor * sizeof(JumpEntry) * kJumpEntries + member);
}

// A block put together as the translator does, with room for mistakes.
class Draft {
 public:
  explicit Draft(uint32_t mode = kMode, uint32_t offset = kOffset) : mode(mode), offset(offset), out(room, offset) {
    out.bytes({0x4d, 0x8d, 0x94, 0x23, 0xf0, 0xff, 0xff, 0xff});  // lea r10, [r11 - 16]
    out.store(VCPU_PAGE_BASE, kScratch1);
    if (!(mode & kModeStep)) {
      out.bytes({0x65, 0x83, 0x3c, 0x25});  // cmp dword gs:[attention], 0
      out.u32(VCPU_ATTENTION);
      out.u8(0);
      uint32_t away = out.jcc(5);
      later.push_back([this, away] {
        out.resolve(away, out.here());
        out.jump_stub(STUB_POLL);
      });
    }
    linked_entry = out.here();
  }
  void address() { out.lea(kScratch0, kRdi, 0xff, 1, 8); }
  struct Check {
    unsigned size = 8;
    bool read = true, write = false;
    int32_t limit = -1;             // of the compare, if not the right one
    unsigned condition = 7, shift = 12;
    uint8_t rorx = 0;               // else by RORX, of so many bits ...
    uint8_t rotated = 0xd3;         // ... with this ModRM byte: r10, r11
    unsigned view = kViewSupervisor;
    uint32_t descriptor = 0;        // if not the right one
    bool undescribed = false;       // ... or none
    std::function<void()> between = {};  // before the stub of a miss
  };
  void check(Check c) {
    uint32_t tags = tlb(c.write ? offsetof(TlbView, write) : offsetof(TlbView, read), c.view);
    if (c.rorx) {
      out.bytes({0xc4, 0x43, 0xfb, 0xf0, c.rotated, c.rorx});
    } else {
      out.move(kScratch1, kScratch0);
      out.bytes({0x49, 0xc1, 0xea, static_cast<uint8_t>(c.shift)});  // shr r10, 12
    }
    out.bytes({0x45, 0x0f, 0xb7, 0xd2});                           // movzx r10d, r10w
    out.gs_indexed(0x33, kScratch0, kScratch1, tags);
    out.bytes({0x49, 0x81, 0xfb});
    out.u32(c.limit >= 0 ? static_cast<uint32_t>(c.limit) : 4096 - c.size);
    uint32_t miss = out.jcc(c.condition);
    out.gs_indexed(0x03, kScratch0, kScratch1, tlb(offsetof(TlbView, addend), c.view));
    uint32_t back = out.here();
    uint32_t descriptor = c.descriptor ? c.descriptor : access_descriptor(16, c.size, c.read, c.write, kDS);
    later.push_back([=, this] {
      out.resolve(miss, out.here());
      if (c.between) c.between();
      out.call_stub(STUB_MISS);
      if (!c.undescribed) out.move_imm(kScratch1, descriptor);
      out.jmp_to(back);
    });
  }
  // A check by a register's recent page, with another's in the descriptor.
  void recent(unsigned key, unsigned described) {
    auto page = [](unsigned of) {
      return static_cast<uint32_t>(ENGINE + offsetof(Engine, recent) + (kViewSupervisor * 2 * kRecentKeys + of) * sizeof(RecentPage));
    };
    address();
    out.gs(0x33, kScratch0, page(key) + offsetof(RecentPage, tag));
    out.bytes({0x49, 0x81, 0xfb});
    out.u32(4096 - 8);
    const uint32_t miss = out.jcc(7);
    out.gs(0x03, kScratch0, page(key) + offsetof(RecentPage, addend));
    const uint32_t back = out.here();
    const uint64_t both = access_descriptor(16, 8, true, false, kSS) | static_cast<uint64_t>(page(described)) << 32;
    later.push_back([=, this] {
      out.resolve(miss, out.here());
      out.call_stub(STUB_RECENT + 2 * kViewSupervisor);
      out.move_imm64(kScratch1, both);
      out.jmp_to(back);
    });
  }
  // The check of a group of accesses of `span` bytes, of which the first are `size`.
  struct Group {
    unsigned span = 32, size = 8, delta = 0;
    bool write = false, first_writes = false;
    unsigned condition = 4;
    uint32_t what = 0;  // if not the right one
  };
  void group(Group g) {
    uint32_t tags = tlb(g.write ? offsetof(TlbView, write) : offsetof(TlbView, read));
    address();
    out.move(kScratch1, kScratch0);
    out.bytes({0x49, 0xc1, 0xea, 12, 0x45, 0x0f, 0xb7, 0xd2});
    out.gs_indexed(0x33, kScratch0, kScratch1, tags);
    out.bytes({0x49, 0x81, 0xfb});
    out.u32(4096 - g.span);
    uint32_t miss = out.jcc(7);
    out.gs_indexed(0x03, kScratch0, kScratch1, tlb(offsetof(TlbView, addend)));
    uint32_t back = out.here();
    const uint32_t what = g.what ? g.what : g.span | g.delta << kGroupDeltaShift | kNoRecent << kGroupRecentShift | (g.write ? kGroupWrite : 0);
    const uint64_t both = access_descriptor(16, g.size, !g.first_writes, g.first_writes, kDS) | static_cast<uint64_t>(what) << 32;
    later.push_back([=, this] {
      out.resolve(miss, out.here());
      out.call_stub(STUB_GROUP);
      out.move_imm64(kScratch1, both);
      link(out.patchable_jcc(g.condition), STUB_LINK_SLOT);
      out.jmp_to(back);
    });
  }
  void group() { group({}); }
  void keep(unsigned slot) { out.store(kept(slot), kScratch0); }
  void again(unsigned slot) { out.load(kScratch0, kept(slot)); }
  static uint32_t kept(unsigned slot) { return static_cast<uint32_t>(ENGINE + offsetof(Engine, group) + slot * 8); }
  void load_behind(uint8_t bytes) { guest({0x49, 0x8b, 0x43, bytes}); }   // mov rax, [r11 + bytes]
  void store_behind(uint8_t bytes) { guest({0x49, 0x89, 0x43, bytes}); }  // mov [r11 + bytes], rax
  void checked(Check c) { address(), check(c); }
  void checked() { checked({}); }
  void note() { side.push_back({out.here(), 16, 0, 0, {}}); }
  void guest(std::initializer_list<uint8_t> bytes) { note(), out.bytes(bytes); }
  void load() { guest({0x49, 0x8b, 0x03}); }   // mov rax, [r11]
  void store() { guest({0x49, 0x89, 0x03}); }  // mov [r11], rax
  void record(CalloutRecord made, unsigned misplaced = 0) {
    out.bytes({0x4c, 0x8d, 0x1d});
    uint32_t rel = out.here();
    out.u32(0);
    out.call_stub(STUB_CALLOUT);
    later.push_back([=, this] {
      while (out.here() % 8) out.u8(0xcc);
      for (unsigned i = 0; i < misplaced; i++) out.u8(0xcc);
      out.resolve(rel, out.here());
      out.put(&made, sizeof made);
    });
  }
  static CalloutRecord cpuid() {
    CalloutRecord r{16, static_cast<uint32_t>(Callout::kSystem), {}};
    const uint8_t bytes[] = {0x0f, 0xa2};
    EXPECT_EQ(decode(bytes, 2, CodeMode::k64, r.insn), DecodeStatus::kOk);
    return r;
  }
  void linear() {
    out.load(kScratch0, VCPU_PAGE_BASE);
    out.lea(kScratch0, kScratch0, 0xff, 1, 32);
  }
  void lookup() { linear(), out.jump_stub(STUB_LOOKUP); }
  void indirect(std::function<void()> between = {}, uint8_t rorx = 0) {
    linear();
    // mov r10, r11; shr r10, 16, or rorx r10, r11, 16; xor r10d, r11d; movzx r10d, r10w; shl r10d, 4
    if (rorx) out.bytes({0xc4, 0x43, 0xfb, 0xf0, 0xd3, rorx});
    else out.move(kScratch1, kScratch0), out.bytes({0x49, 0xc1, 0xea, 16});
    out.bytes({0x45, 0x31, 0xda, 0x45, 0x0f, 0xb7, 0xd2, 0x41, 0xc1, 0xe2, 4});
    out.bytes({0x65, 0x4d, 0x3b, 0x9a});                       // cmp r11, gs:[r10 + tag]
    out.u32(jump(offsetof(JumpEntry, tag)));
    uint32_t miss = out.jcc(5);
    if (between) between();
    out.bytes({0x65, 0x41, 0xff, 0xa2});                       // jmp gs:[r10 + code]
    out.u32(jump(offsetof(JumpEntry, code)));
    later.push_back([this, miss] {
      out.resolve(miss, out.here());
      out.jump_stub(STUB_LOOKUP);
    });
  }
  void link(uint32_t at, unsigned by = STUB_LINK) {
    later.push_back([this, at, by] {
      uint32_t stub = out.here();
      out.resolve(at, stub);
      sites.push_back({at, stub, FlagsIn::kHost, by == STUB_LINK_SLOT, 32});
      out.call_stub(by);
    });
  }
  void link() { link(out.patchable_jmp()); }
  void close() {
    for (size_t i = 0; i < later.size(); i++) later[i]();
    later.clear();
  }
  EmittedBlock block() {
    close();
    return {room, out.size(), offset, offset, {linked_entry, linked_entry, linked_entry}, mode, 0x5010, side, sites};
  }

  alignas(8) uint8_t room[4096] = {};
  uint32_t mode, offset, linked_entry;
  Emitter out;
  std::vector<SideEntry> side;
  std::vector<LinkSite> sites;
  std::vector<std::function<void()>> later;
};

std::string verdict(Draft& draft) {
  auto got = verify_block(draft.block());
  return got ? "passed" : rule_text(got.error().rule);
}
// The verdict on a block that has `piece` in it and ends well.
std::string verdict(std::function<void(Draft&)> piece, uint32_t mode = kMode) {
  Draft draft(mode);
  piece(draft);
  if (mode & kModeStep) draft.linear(), draft.out.jump_stub(STUB_STEP_DONE);
  else draft.lookup();
  return verdict(draft);
}
std::string verdict_of(std::initializer_list<uint8_t> bytes) {
  return verdict([&](Draft& d) { d.guest(bytes); });
}
#define EXPECT_RULE(rule, ...) EXPECT_EQ(verdict(__VA_ARGS__), rule_text(rule))

TEST(Verifier, TakesEveryShapeThatTheTranslatorEmits) {
  EXPECT_EQ(verdict([](Draft&) {}), "passed");
  EXPECT_EQ(verdict([](Draft& d) { d.checked(), d.load(); }), "passed");
  EXPECT_EQ(verdict([](Draft& d) { d.checked({.rorx = 12}), d.load(); }), "passed");
  EXPECT_EQ(verdict([](Draft& d) { d.checked({.write = true}), d.store(); }), "passed");
  EXPECT_EQ(verdict([](Draft& d) { d.record(Draft::cpuid()); }), "passed");
  EXPECT_EQ(verdict([](Draft& d) { d.out.save_flags(), d.out.restore_flags(); }), "passed");
  Draft indirect;
  indirect.indirect();
  EXPECT_EQ(verdict(indirect), "passed");
  Draft linked;
  linked.link(linked.out.patchable_jcc(4));
  linked.link();
  EXPECT_EQ(verdict(linked), "passed");
  EXPECT_EQ(verdict([](Draft& d) {
    d.address(), d.out.move_imm(kScratch1, access_descriptor(16, 8, true, false, kDS)), d.out.call_stub(STUB_ACCESS), d.load();
  }, kMode | kModeStep), "passed");
}

TEST(Verifier, TakesADisplacedRegisterWhereItLies) {
  EXPECT_EQ(verdict([](Draft& d) { d.out.gs(0x01, kRax, VCPU_GPR + 9 * 8); }), "passed");                // add gs:[slot], rax
  EXPECT_EQ(verdict([](Draft& d) { d.out.gs(0x3b, kRax, VCPU_GPR + 11 * 8, false); }), "passed");        // cmp eax, gs:[slot]
  EXPECT_EQ(verdict([](Draft& d) { d.out.gs(0x8a, kRax, VCPU_GPR + 10 * 8, false); }), "passed");        // mov al, gs:[slot]
  EXPECT_EQ(verdict([](Draft& d) { d.out.gs(0xd3, 4, VCPU_GPR + 9 * 8); }), "passed");                   // shl gs:[slot], cl
  EXPECT_EQ(verdict([](Draft& d) { d.out.gs(0xc7, 0, VCPU_GPR + 9 * 8), d.out.u32(1); }), "passed");     // mov gs:[slot], 1
  EXPECT_EQ(verdict([](Draft& d) { d.out.gs(0xf7, 4, VCPU_GPR + 9 * 8); }), "passed");                   // mul gs:[slot]
  EXPECT_EQ(verdict([](Draft& d) { d.address(), d.out.gs(0x03, kScratch0, VCPU_FS_BASE), d.check({}), d.load(); }), "passed");
}

TEST(Verifier, RefusesWhatIsNoInstruction) { EXPECT_EQ(verdict_of({0x06}), rule_text(Rule::kUndecodable)); }

TEST(Verifier, RefusesPrivilegedAndKernelEntries) {
  const std::initializer_list<uint8_t> forbidden[] = {
      {0x0f, 0x05},              // syscall
      {0x0f, 0x34},              // sysenter
      {0xcd, 0x80},              // int 0x80
      {0xcc},                    // int3
      {0xf1},                    // int1
      {0xf4},                    // hlt
      {0xfa},                    // cli
      {0xfd},                    // std
      {0xfc},                    // cld
      {0x9d},                    // popf
      {0x9c},                    // pushf
      {0x50},                    // push rax
      {0x5b},                    // pop rbx
      {0xc9},                    // leave
      {0xc3},                    // ret
      {0xcf},                    // iret
      {0xcb},                    // retf
      {0xe4, 0x10},              // in al, 0x10
      {0xee},                    // out dx, al
      {0x8e, 0xd8},              // mov ds, eax
      {0x8c, 0xd8},              // mov eax, ds
      {0x0f, 0xa2},              // cpuid
      {0x0f, 0x31},              // rdtsc
      {0x0f, 0x01, 0xf9},        // rdtscp
      {0x0f, 0x01, 0xd0},        // xgetbv
      {0x0f, 0x01, 0xef},        // wrpkru
      {0x0f, 0x01, 0xee},        // rdpkru
      {0x0f, 0x01, 0xf8},        // swapgs
      {0x0f, 0x01, 0xcb},        // stac
      {0x0f, 0x22, 0xd8},        // mov cr3, rax
      {0x0f, 0x30},              // wrmsr
      {0xf3, 0x0f, 0xae, 0xc0},  // rdfsbase eax
      {0xf3, 0x48, 0x0f, 0xae, 0xd0},  // wrfsbase rax
      {0xf3, 0x48, 0x0f, 0xae, 0xd8},  // wrgsbase rax
      {0x0f, 0xc7, 0xf0},        // rdrand eax
      {0xf3, 0x0f, 0xc7, 0xf8},  // rdpid rax
      {0xf3, 0x90},              // pause
      {0xc6, 0xf8, 0x00},        // xabort 0
      {0xc7, 0xf8, 0, 0, 0, 0},  // xbegin
      {0x0f, 0x0b},              // ud2, not behind a call-out
      {0x0f, 0x00, 0xd8},        // ltr ax
      {0x0f, 0x03, 0xc1},        // lsl eax, ecx
      {0xa4},                    // movsb
      {0xf3, 0xaa},              // rep stosb
      {0xd7},                    // xlat
      {0xf3, 0x0f, 0x1e, 0xc8},  // rdssp eax
      {0xe8, 0, 0, 0, 0},        // call rel32
      {0xff, 0xe0},              // jmp rax
      {0xff, 0xd0},              // call rax
  };
  for (auto& bytes : forbidden) {
    std::string name;
    for (uint8_t b : bytes) name += "0123456789abcdef"[b >> 4], name += "0123456789abcdef"[b & 15];
    EXPECT_EQ(verdict_of(bytes), rule_text(Rule::kForbidden)) << name;
  }
  // Those with a memory operand, on an address that has been checked for them.
  const std::initializer_list<uint8_t> with_memory[] = {
      {0x41, 0x0f, 0xae, 0x03},        // fxsave [r11]
      {0x41, 0x0f, 0xae, 0x2b},        // xrstor [r11]
      {0x41, 0x0f, 0xc7, 0x23},        // xsavec [r11]
      {0x41, 0xd9, 0x33},              // fnstenv [r11]
      {0x41, 0xdd, 0x23},              // frstor [r11]
      {0x41, 0x0f, 0x01, 0x13},        // lgdt [r11]
      {0x41, 0x0f, 0x01, 0x3b},        // invlpg [r11]
      {0x41, 0x8e, 0x1b},              // mov ds, [r11]
      {0x41, 0xff, 0x33},              // push [r11]
      {0x41, 0x8f, 0x03},              // pop [r11]
      {0x49, 0x0f, 0xa3, 0x03},        // bt [r11], rax: reaches anywhere
      {0x41, 0xff, 0x2b},              // jmp far [r11]
      {0x49, 0x0f, 0x38, 0xf6, 0x03},  // wrss [r11], rax
  };
  for (auto& bytes : with_memory) {
    std::string got = verdict([&](Draft& d) { d.checked({.size = 1024 - 512, .write = true}), d.guest(bytes); });
    EXPECT_TRUE(got == rule_text(Rule::kForbidden) || got == rule_text(Rule::kUndecodable)) << got << " " << int(bytes.begin()[2]);
  }
}

TEST(Verifier, RefusesPrefixes) {
  EXPECT_RULE(Rule::kPrefix, [](Draft& d) { d.checked(), d.guest({0x64, 0x49, 0x8b, 0x03}); });  // fs:
  EXPECT_RULE(Rule::kPrefix, [](Draft& d) { d.checked(), d.guest({0x67, 0x49, 0x8b, 0x03}); });
  EXPECT_RULE(Rule::kPrefix, [](Draft& d) { d.checked(), d.guest({0x2e, 0x49, 0x8b, 0x03}); });
  EXPECT_RULE(Rule::kPrefix, [](Draft& d) { d.guest({0x65, 0x48, 0x01, 0xc8}); });                // gs: without memory
  EXPECT_RULE(Rule::kPrefix, [](Draft& d) { d.checked({.write = true}), d.guest({0xf2, 0xf0, 0x49, 0x01, 0x03}); });  // xacquire
}

TEST(Verifier, RefusesOtherSlots) {
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.load(kRax, ENGINE_HOST_RSP); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.load(kRax, ENGINE_SELF); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.store(ENGINE_STUBS, kRax); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.load(kRax, ENGINE_STUBS); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.store(VCPU_RIP, kRax); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.store(VCPU_MODE, kRax); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.load(kRax, VCPU_GPR + 9 * 8 + 4); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.store(VCPU_GPR + 3 * 8, kRax); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.store(VCPU_PAGE_BASE, kRax); });  // behind the entry
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.gs(0x01, kRax, VCPU_GPR + 8 * 8); });             // add to what is in a register
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.gs(0x01, kRax, VCPU_GPR + 9 * 8 + 1); });         // ... to parts of two
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.gs(0x01, kRax, VCPU_PAGE_BASE); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.gs(0x01, kRax, VCPU_GPR + 9 * 8, false); });      // leaves the upper half
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.gs(0x88, kRax, VCPU_GPR + 9 * 8, false); });      // mov, of a byte
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.gs(0x87, kRax, VCPU_GPR + 9 * 8); });             // xchg locks
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.note(), d.out.gs(0xf7, 6, VCPU_GPR + 9 * 8); });      // div may fault
  EXPECT_RULE(Rule::kPrefix, [](Draft& d) { d.out.u8(0xf0), d.out.gs(0x01, kRax, VCPU_GPR + 9 * 8); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.bytes({0x65, 0x48, 0x0f, 0xa3, 0x04, 0x25}), d.out.u32(VCPU_GPR + 9 * 8); });  // bt
  EXPECT_RULE(Rule::kHostAddress, [](Draft& d) { d.checked(), d.out.gs(0x01, kScratch0, VCPU_GPR + 9 * 8); });
  EXPECT_RULE(Rule::kUndefined, [](Draft& d) { d.out.gs(0x01, kScratch0, VCPU_GPR + 9 * 8); });
  EXPECT_RULE(Rule::kHostStack, [](Draft& d) { d.out.gs(0x03, 4, VCPU_GPR + 9 * 8); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.load(kScratch0, VCPU_GS_BASE); });                // is only added ...
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.address(), d.out.gs(0x03, kScratch0, VCPU_KERNEL_GS_BASE); });
  EXPECT_RULE(Rule::kHostAddress, [](Draft& d) { d.checked(), d.out.gs(0x03, kScratch0, VCPU_GS_BASE); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.checked({.view = kViewUser}), d.load(); });  // another view's TLB
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.out.bytes({0x65, 0xff, 0x14, 0x25}), d.out.u32(ENGINE_HELPERS); });  // call of a helper
}

TEST(Verifier, RefusesUncheckedMemory) {
  EXPECT_RULE(Rule::kUnchecked, [](Draft& d) { d.guest({0x48, 0x8b, 0x07}); });             // mov rax, [rdi]
  EXPECT_RULE(Rule::kUnchecked, [](Draft& d) { d.address(), d.load(); });                   // the check left out
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.checked(), d.guest({0x49, 0x8b, 0x43, 0x08}); });          // [r11 + 8]
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.checked({.size = 16}), d.guest({0x49, 0x8b, 0x43, 0xf8}); });  // [r11 - 8]
  EXPECT_RULE(Rule::kUnchecked, [](Draft& d) { d.checked(), d.guest({0x49, 0x8b, 0x04, 0x03}); });        // [r11 + rax]
  EXPECT_RULE(Rule::kUnchecked, [](Draft& d) { d.guest({0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}); });         // [0]
  EXPECT_RULE(Rule::kUnchecked, [](Draft& d) { d.checked(), d.record(Draft::cpuid()), d.load(); });       // a call lies between
  EXPECT_RULE(Rule::kUnchecked, [](Draft& d) { d.checked(), d.load(), d.out.lea(kScratch0, kRdi, 0xff, 1, 8), d.load(); });
  EXPECT_RULE(Rule::kUnchecked, [](Draft& d) { d.guest({0x66, 0x0f, 0xf7, 0xc1}); });       // maskmovdqu to the guest's rDI
}

TEST(Verifier, TakesAccessesInAGroup) {
  EXPECT_EQ(verdict([](Draft& d) { d.group(), d.load(), d.load_behind(8), d.load_behind(24); }), "passed");
  EXPECT_EQ(verdict([](Draft& d) { d.group({.write = true}), d.load_behind(8), d.store_behind(24); }), "passed");
  EXPECT_EQ(verdict([](Draft& d) { d.group(), d.keep(2), d.load(), d.checked(), d.load(), d.again(2), d.load_behind(16); }), "passed");
}

TEST(Verifier, RefusesWhatIsNotInTheGroup) {
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.group(), d.load_behind(25); });
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.group(), d.load_behind(0xf8); });                                 // [r11 - 8]
  EXPECT_RULE(Rule::kRights, [](Draft& d) { d.group(), d.load(), d.store_behind(8); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.group({.condition = 5}), d.load(); });                               // 1 taken for an address
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.group({.span = 32, .size = 8, .delta = 25}), d.load(); });           // the first one is not in it
  EXPECT_RULE(Rule::kRights, [](Draft& d) { d.group({.first_writes = true}), d.load(); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.group({.what = 32 | kRecentKeys << kGroupRecentShift}), d.load(); });  // no such recent page
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.group({.what = 16 | kNoRecent << kGroupRecentShift}), d.load_behind(16); });
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.group(), d.load(), d.again(2), d.load(); });                         // nothing was kept
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.address(), d.keep(2); });                                            // a guest's value
  EXPECT_RULE(Rule::kSlot, [](Draft& d) { d.group(), d.keep(2), d.load(), d.record(Draft::cpuid()), d.again(2), d.load(); });
}

TEST(Verifier, RefusesAccessesWiderThanTheirCheck) {
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.checked({.size = 4}), d.load(); });
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.checked({.limit = 4096 - 4}), d.load(); });
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.checked({.descriptor = access_descriptor(16, 4, true, false, kDS)}), d.load(); });
  EXPECT_RULE(Rule::kTooWide, [](Draft& d) { d.checked(), d.guest({0x41, 0x0f, 0x10, 0x03}); });  // movups xmm0, [r11]
}

TEST(Verifier, RefusesAccessesOfAnotherKind) {
  EXPECT_RULE(Rule::kRights, [](Draft& d) { d.checked(), d.store(); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.checked({.descriptor = access_descriptor(16, 8, false, true, kDS)}), d.load(); });
  EXPECT_RULE(Rule::kRights, [](Draft& d) { d.checked({.read = false, .write = true}), d.guest({0x49, 0x01, 0x03}); });  // add [r11], rax
}

TEST(Verifier, RefusesBrokenTableLookups) {
  EXPECT_RULE(Rule::kTlbIndex, [](Draft& d) { d.checked({.shift = 11}), d.load(); });
  EXPECT_RULE(Rule::kTlbIndex, [](Draft& d) { d.checked({.rorx = 11}), d.load(); });
  Draft rotated, too_little;
  rotated.indirect({}, kJumpBits);
  EXPECT_EQ(verdict(rotated), "passed");
  too_little.indirect({}, kJumpBits - 1);
  EXPECT_NE(verdict(too_little), "passed");
  EXPECT_RULE(Rule::kTlbIndex, [](Draft& d) { d.out.move(kScratch1, kRsi), d.checked({.rorx = 12, .rotated = 0xd2}), d.load(); });  // of r10
  EXPECT_RULE(Rule::kTlbIndex, [](Draft& d) {  // the index of another address
    d.out.lea(kScratch0, kRsi, 0xff, 1, 0);
    d.out.bytes({0xc4, 0x43, 0xfb, 0xf0, 0xd3, 12, 0x45, 0x0f, 0xb7, 0xd2});
    d.address();
    d.out.gs_indexed(0x33, kScratch0, kScratch1, tlb(offsetof(TlbView, read)));
  });
  EXPECT_RULE(Rule::kTlbIndex, [](Draft& d) { d.checked({.condition = 6}), d.load(); });  // the miss taken for the hit
  EXPECT_RULE(Rule::kTlbIndex, [](Draft& d) {  // the index of another address
    d.out.lea(kScratch0, kRsi, 0xff, 1, 0);
    d.out.move(kScratch1, kScratch0);
    d.out.bytes({0x49, 0xc1, 0xea, 12, 0x45, 0x0f, 0xb7, 0xd2});
    d.address();
    d.out.gs_indexed(0x33, kScratch0, kScratch1, tlb(offsetof(TlbView, read)));
  });
  EXPECT_RULE(Rule::kTlbIndex, [](Draft& d) {  // the addend without the compare
    d.address();
    d.out.move(kScratch1, kScratch0);
    d.out.bytes({0x49, 0xc1, 0xea, 12, 0x45, 0x0f, 0xb7, 0xd2});
    d.out.gs_indexed(0x33, kScratch0, kScratch1, tlb(offsetof(TlbView, read)));
    d.out.gs_indexed(0x03, kScratch0, kScratch1, tlb(offsetof(TlbView, addend)));
    d.load();
  });
  Draft clobbered;  // flags changed between compare and jump
  clobbered.indirect([&] { clobbered.out.bytes({0x48, 0x01, 0xc8}); });
  EXPECT_RULE(Rule::kTlbIndex, clobbered);
}

TEST(Verifier, RefusesRipRelativeOperands) {
  EXPECT_RULE(Rule::kRipRelative, [](Draft& d) { d.guest({0x48, 0x8b, 0x05, 0, 0, 0, 0}); });  // mov rax, [rip]
  EXPECT_RULE(Rule::kRipRelative, [](Draft& d) { d.out.bytes({0x48, 0x8d, 0x05, 0, 0, 0, 0}); });  // lea rax, [rip]
  EXPECT_RULE(Rule::kRipRelative, [](Draft& d) { d.out.bytes({0x4c, 0x8d, 0x15, 0, 0, 0, 0}); });  // lea r10, [rip]: no site
}

TEST(Verifier, RefusesTheHostsStack) {
  EXPECT_RULE(Rule::kHostStack, [](Draft& d) { d.guest({0x48, 0x83, 0xc4, 0x08}); });        // add rsp, 8
  EXPECT_RULE(Rule::kHostStack, [](Draft& d) { d.guest({0x48, 0x89, 0xe0}); });              // mov rax, rsp
  EXPECT_RULE(Rule::kHostStack, [](Draft& d) { d.guest({0x48, 0x8b, 0x04, 0x24}); });        // mov rax, [rsp]
  EXPECT_RULE(Rule::kHostStack, [](Draft& d) { d.out.bytes({0x48, 0x8d, 0x04, 0x24}); });    // lea rax, [rsp]
  EXPECT_RULE(Rule::kHostStack, [](Draft& d) { d.out.bytes({0x48, 0x94}); });                // xchg rax, rsp
  EXPECT_RULE(Rule::kHostStack, [](Draft& d) { d.guest({0x66, 0x48, 0x0f, 0x7e, 0xc4}); });  // movq rsp, xmm0
}

TEST(Verifier, RefusesHostAddressesAsData) {
  EXPECT_RULE(Rule::kHostAddress, [](Draft& d) { d.checked(), d.guest({0x4c, 0x01, 0xd8}); });   // add rax, r11
  EXPECT_RULE(Rule::kHostAddress, [](Draft& d) { d.checked(), d.out.store(VCPU_GPR + 9 * 8, kScratch0); });
  EXPECT_RULE(Rule::kHostAddress, [](Draft& d) { d.checked(), d.out.move(kRax, kScratch0); });   // and leaves with it
  EXPECT_RULE(Rule::kHostAddress, [](Draft& d) { d.checked(), d.out.lea(kRax, kScratch0, 0xff, 1, 1); });
  EXPECT_RULE(Rule::kHostAddress, [](Draft& d) { d.checked(), d.guest({0x66, 0x41, 0x89, 0xc3}); });  // mov r11w, ax
}

TEST(Verifier, RefusesUndefinedScratchRegisters) {
  EXPECT_RULE(Rule::kUndefined, [](Draft& d) { d.guest({0x4c, 0x01, 0xd0}); });  // add rax, r10
  EXPECT_RULE(Rule::kUndefined, [](Draft& d) { d.out.move(kRax, kScratch0); });  // what another block left in r11
  EXPECT_RULE(Rule::kUndefined, [](Draft& d) {  // written on one way only
    uint32_t over = d.out.jcc(4);
    d.out.load_gpr(kScratch1, 10);
    d.out.resolve(over, d.out.here());
    d.out.move(kRax, kScratch1);
  });
}

TEST(Verifier, RefusesBranchesOutOfTheBlock) {
  EXPECT_RULE(Rule::kTarget, [](Draft& d) { d.out.jmp_to(kOffset + 0x10000); });
  EXPECT_RULE(Rule::kTarget, [](Draft& d) { d.out.resolve(d.out.jcc(4), kOffset - 8); });
}

TEST(Verifier, RefusesJumpsIntoInstructions) {
  EXPECT_RULE(Rule::kBoundary, [](Draft& d) {
    uint32_t over = d.out.jcc(4);
    d.out.resolve(over, d.out.here() + 2);
    d.out.bytes({0x48, 0xb8, 0x0f, 0x05, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90});  // mov rax, imm64 that hides a syscall
  });
}

TEST(Verifier, RefusesLoops) {
  EXPECT_RULE(Rule::kLoop, [](Draft& d) {
    uint32_t top = d.out.here();
    d.out.bytes({0x48, 0x01, 0xc8});
    d.out.resolve(d.out.jcc(5), top);
  });
}

TEST(Verifier, RefusesStubsWithWrongRegisters) {
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.out.call_stub(STUB_CALLOUT); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.out.call_stub(STUB_LOOKUP); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.out.call_stub(9); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.checked({.undescribed = true}), d.load(); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.checked({.between = [&] { d.out.move(kScratch1, kRax); }}), d.load(); });  // another entry
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.checked({.between = [&] { d.address(); }}), d.load(); });                 // an address without a tag
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.recent(kRbp, kRsp), d.load(); });                                        // the tag of another register's page
  EXPECT_EQ(verdict([](Draft& d) { d.recent(kRsp, kRsp), d.load(); }), "passed");
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.linear(), d.out.jump_stub(STUB_STEP_DONE); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.linear(), d.out.jump_stub(STUB_LINK); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.out.call_stub(STUB_LINK); });  // of no jump
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.checked(), d.out.jump_stub(STUB_LOOKUP); });  // with a host address
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.linear(), d.out.jump_stub(STUB_LOOKUP_BRANCH); });  // of no branch
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.linear(), d.out.move_imm(kScratch1, 16), d.out.jump_stub(STUB_LOOKUP_BRANCH); });
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.address(), d.out.call_stub(STUB_ACCESS); });  // without a descriptor
  EXPECT_RULE(Rule::kStub, [](Draft& d) { d.linear(), d.out.jump_stub(STUB_LOOKUP); }, kMode | kModeStep);
}

TEST(Verifier, RefusesBrokenRecords) {
  auto with = [](std::function<void(CalloutRecord&)> change, unsigned misplaced = 0) {
    CalloutRecord r = Draft::cpuid();
    change(r);
    return verdict([&](Draft& d) { d.record(r, misplaced); });
  };
  EXPECT_EQ(with([](auto&) {}), "passed");
  EXPECT_EQ(with([](auto& r) { r.what = 99; }), rule_text(Rule::kRecord));
  EXPECT_EQ(with([](auto& r) { r.page_offset = 4096; }), rule_text(Rule::kRecord));
  EXPECT_EQ(with([](auto& r) { r.insn.form = Form::kPlain; }), rule_text(Rule::kRecord));
  EXPECT_EQ(with([](auto& r) { r.insn.length = 0; }), rule_text(Rule::kRecord));
  EXPECT_EQ(with([](auto&) {}, 4), rule_text(Rule::kRecord));
}

TEST(Verifier, RefusesToRunOffTheEnd) {
  Draft off;  // its poll goes nowhere, so that nothing stands behind the last instruction
  off.later.clear();
  off.out.bytes({0x48, 0x01, 0xc8});
  off.out.resolve(off.linked_entry - 4, off.linked_entry);
  EXPECT_RULE(Rule::kRunsOff, off);
}

TEST(Verifier, RefusesBytesThatAreNeverReached) {
  Draft d;
  d.lookup();
  d.out.bytes({0x0f, 0x05});
  EXPECT_RULE(Rule::kUnreached, d);
}

TEST(Verifier, RefusesMissingSideEntries) {
  EXPECT_RULE(Rule::kSideTable, [](Draft& d) { d.checked(), d.out.bytes({0x49, 0x8b, 0x03}); });
  EXPECT_RULE(Rule::kSideTable, [](Draft& d) { d.out.bytes({0x48, 0xf7, 0xf1}); });  // div rcx
  EXPECT_RULE(Rule::kSideTable, [](Draft& d) { d.out.bytes({0x0f, 0x58, 0xc1}); });  // addps xmm0, xmm1
  EXPECT_RULE(Rule::kSideTable, [](Draft& d) { d.guest({0x48, 0x01, 0xc8}), d.side[0].host++; });
}

TEST(Verifier, RefusesBrokenLinkSites) {
  auto site = [](std::function<void(Draft&)> change) {
    Draft d;
    d.link();
    d.close();
    change(d);
    return verdict(d);
  };
  EXPECT_EQ(site([](Draft&) {}), "passed");
  EXPECT_EQ(site([](Draft& d) { d.sites[0].target = 4096; }), rule_text(Rule::kLinkSite));
  EXPECT_RULE(Rule::kLinkSite, [](Draft& d) {  // to a stub for something else
    const uint32_t at = d.out.patchable_jmp();
    d.later.push_back([&d, at] {
      const uint32_t stub = d.out.here();
      d.out.resolve(at, stub);
      d.sites.push_back({at, stub, FlagsIn::kHost, false, 32});
      d.lookup();
    });
  });
  Draft misplaced;
  while (misplaced.out.here() % 4 != 0) misplaced.out.u8(0x90);
  misplaced.link(misplaced.out.jmp());  // its rel32 is on an odd address
  EXPECT_RULE(Rule::kLinkSite, misplaced);
}

TEST(Verifier, RefusesBrokenEntries) {
  Draft d;
  d.lookup();
  d.linked_entry += 0x1000;
  EXPECT_RULE(Rule::kEntry, d);
  Draft inside;
  inside.out.bytes({0x48, 0x01, 0xc8});
  inside.lookup();
  inside.linked_entry++;
  EXPECT_RULE(Rule::kBoundary, inside);
}

TEST(Verifier, ChecksWhatJumpsAreLinkedTo) {
  Draft d(kMode, 0);
  d.link();
  EmittedBlock emitted = d.block();
  const uint8_t* cache = d.room;
  Block from{}, target{};
  from.gpa = 0x5010, from.mode = kMode, from.indirect_entry = 0, from.linked_entry.fill(d.linked_entry), from.valid = true;
  from.code_end = static_cast<uint32_t>(emitted.size);
  target.gpa = 0x5020, target.mode = kMode, target.indirect_entry = 0x2000, target.linked_entry = {0x2010, 0x2020, 0x2030}, target.code_end = 0x2100;
  target.valid = true;
  const LinkSite site = d.sites[0];
  auto link = [&](const Block* to, uint32_t destination) {
    auto wrong = verify_link(cache, site.at, &from, to, destination, site);
    return std::string(wrong ? rule_text(wrong->rule) : "passed");
  };
  EXPECT_EQ(link(&target, 0x2010), "passed");
  EXPECT_EQ(link(nullptr, site.unlinked), "passed");
  EXPECT_EQ(link(&target, 0x2000), rule_text(Rule::kLink));  // the indirect entry
  EXPECT_EQ(link(&target, 0x2011), rule_text(Rule::kLink));
  EXPECT_EQ(link(&target, 0x2020), rule_text(Rule::kLink));  // the entry for flags elsewhere
  EXPECT_EQ(link(nullptr, 0x2010), rule_text(Rule::kLink));
  target.valid = false;
  EXPECT_EQ(link(&target, 0x2010), rule_text(Rule::kLink));
  target.valid = true, target.mode = kMode ^ kModeTs;
  EXPECT_EQ(link(&target, 0x2010), rule_text(Rule::kLink));
  target.mode = kMode, target.gpa = 0x6020;
  EXPECT_EQ(link(&target, 0x2010), rule_text(Rule::kLink));
  target.gpa = 0x5020, target.straddle = 3;
  EXPECT_EQ(link(&target, 0x2010), rule_text(Rule::kLink));
  auto elsewhere = verify_link(cache, 8, &from, &target, 0x2010, site);
  ASSERT_TRUE(elsewhere);
  EXPECT_EQ(elsewhere->rule, Rule::kLinkSite);
}

TEST(Verifier, TellsWhereAndWhat) {
  Draft d;
  d.checked();
  d.load();
  d.out.bytes({0x0f, 0x05});
  d.lookup();
  EmittedBlock block = d.block();
  auto got = verify_block(block);
  ASSERT_FALSE(got);
  std::string text = describe(block, got.error());
  EXPECT_NE(text.find("block of guest 0x5010"), text.npos) << text;
  EXPECT_NE(text.find(": 0f 05: an instruction that may not stand in a block"), text.npos) << text;
}

// Takes a draft into a cache, as run_guest() does with what was translated.
Block* take_in(CodeCache& cache, uint64_t gpa, const std::function<void(Draft&)>& piece) {
  uint32_t at;
  uint8_t* room = cache.begin(at);
  Draft draft(kMode, at);
  piece(draft);
  const EmittedBlock emitted = draft.block();
  memcpy(room, emitted.code, emitted.size);
  Block block{};
  block.gpa = gpa, block.mode = kMode, block.indirect_entry = at, block.linked_entry.fill(draft.linked_entry);
  block.guest_begin = gpa & 0xfff, block.guest_end = (gpa & 0xfff) + 16;
  return cache.finish(block, emitted.size, draft.side, draft.sites, 0);
}

TEST(CodeCache, LinksJumpsOnlyInsideOnePhysicalPage) {
  VmCounters counters{};
  std::unique_ptr<CodeCache> cache(CodeCache::create(1 << 20, counters));
  uint32_t site = 0;
  take_in(*cache, 0x5010, [&](Draft& d) { d.link(), d.close(), site = d.sites[0].at; });
  auto end = [](Draft& d) { d.lookup(); };
  Block* near = take_in(*cache, 0x5020, end);
  Block* far = take_in(*cache, 0x6020, end);
  auto goes_to = [&] {
    int32_t rel;
    memcpy(&rel, cache->executable(site), 4);
    return site + 4 + static_cast<uint32_t>(rel);
  };
  const uint32_t unlinked = goes_to();
  cache->link(site, *far, nullptr);
  EXPECT_EQ(goes_to(), unlinked);
  cache->link(site, *near, nullptr);
  EXPECT_EQ(goes_to(), near->linked_entry[0]);
  cache->drop(*near);
  EXPECT_EQ(goes_to(), unlinked);
}

#ifdef VIREO_VERIFY_BLOCKS
TEST(CodeCacheDeathTest, TakesNoBlockThatTheVerifierRefuses) {
  VmCounters counters{};
  std::unique_ptr<CodeCache> cache(CodeCache::create(1 << 20, counters));
  EXPECT_DEATH(take_in(*cache, 0x5010, [](Draft& d) { d.out.bytes({0x0f, 0x05}), d.lookup(); }),
               "verifier: block of guest 0x5010 .*: 0f 05: an instruction that may not stand in a block");
  EXPECT_EQ(cache->verified().blocks, 0u);
}

TEST(CodeCache, EveryBlockThatRunsHasBeenVerified) {
  TestMachine machine;
  const uint8_t code[] = {0x48, 0x31, 0xc0, 0xb9, 3, 0, 0, 0, 0x48, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xf9, 0xf4};  // a loop and HLT
  machine.run(code);
  EXPECT_EQ(machine.vcpu->gpr[kRax], 6u);
  EXPECT_EQ(machine.vm->code->verified().blocks, machine.vcpu->engine->counters.blocks_translated);
  EXPECT_GT(machine.vm->code->verified().links, 0u);
}
#else
TEST(CodeCache, VerifiesNothingWhereTheVerifierIsNotBuiltIn) {
  VmCounters counters{};
  std::unique_ptr<CodeCache> cache(CodeCache::create(1 << 20, counters));
  take_in(*cache, 0x5010, [](Draft& d) { d.lookup(); });
  EXPECT_EQ(cache->verified().blocks, 0u);
}
#endif

// A real block with one instruction's bytes changed to each of the forbidden ones at every place where an instruction starts.
TEST(Verifier, FindsASyscallAnywhereInATranslatedBlock) {
  TestMachine machine;
  const uint8_t code[] = {0x48, 0x8b, 0x07, 0x48, 0x01, 0x46, 0x08, 0x53, 0x5b, 0x0f, 0xa2, 0x75, 0xf3, 0xc3};
  uint8_t page[4096] = {};
  memcpy(page + 16, code, sizeof code);
  std::vector<uint8_t> room(kBlockRoom);
  BlockNotes notes;
  Block made{};
  PageCopy copy(page);
  Source source{copy, 16, 0x5010, nullptr, machine.vcpu->mode};
  const size_t used = translate(*machine.vcpu, source, room.data(), kOffset, made, notes);
  EmittedBlock block{room.data(),       used,      kOffset,  made.indirect_entry, made.linked_entry,
                     made.mode,         made.gpa,  notes.all_side(), notes.all_sites()};
  auto count = verify_block(block);
  ASSERT_TRUE(count) << describe(block, count.error());
  EXPECT_GT(*count, machine.vm->off ? 10u : 50u);
  unsigned places = 0;
  size_t record = used;
  for (size_t at = 0; at + 2 <= record;) {
    Insn insn;
    if (room[at] == 0xcc || decode(room.data() + at, used - at, CodeMode::k64, insn) != DecodeStatus::kOk) break;  // in front of the record
    if (insn.mnemonic == Mnemonic::kLea && insn.rip_relative && insn.operands[0].reg == kScratch0)  // its address
      record = at + insn.length + static_cast<size_t>(insn.displacement);
    uint8_t kept[2] = {room[at], room[at + 1]};
    room[at] = 0x0f, room[at + 1] = 0x05;
    EXPECT_FALSE(verify_block(block)) << "at +" << at;
    room[at] = kept[0], room[at + 1] = kept[1];
    at += insn.length, places++;
  }
  EXPECT_GT(places, machine.vm->off ? 5u : 30u);
}

// Some changes are harmless (a guest register named instead of another), so what is asked is that it ends and stays in its bounds.
TEST(Verifier, EndsOnBlocksWithATurnedBit) {
  std::mt19937 random(1);
  Draft d;
  d.checked();
  d.load();
  d.record(Draft::cpuid());
  d.link();
  EmittedBlock block = d.block();
  ASSERT_TRUE(verify_block(block));
  unsigned refused = 0;
  for (unsigned i = 0; i < 20000; i++) {
    const size_t bit = random() % (block.size * 8);
    d.room[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    refused += !verify_block(block);
    d.room[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
  }
  EXPECT_GT(refused, 0u);
  EXPECT_TRUE(verify_block(block));
}

}  // namespace
}  // namespace vireo::softkvm
