// SPDX-License-Identifier: Apache-2.0
// What a flush of everything may leave (mmu/flush.cpp) and what large pages may grant (mmu/known_areas.h): each test fails where one of their conditions is left
// out. Spec: Intel SDM vol 3, 4.10.2.3 (what a CPU may hold), 4.10.4 (what is invalidated), 4.8 (accessed and dirty).
#include <gtest/gtest.h>

#include "softkvm/mmu/known_areas.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kP = 1, kRw = 2, kUs = 4, kA = 0x20, kD = 0x40, kLarge = 0x80, kG = 0x100, kNx = 1ull << 63;
constexpr uint64_t kAll = kP | kRw | kG;
constexpr uint64_t kHere = 0x40000000, kArea = 2u << 20;  // linear
constexpr uint64_t kFirst = 0x600000, kSecond = 0x800000;  // physical

GUEST_CODE(kept_read, "mov rax, [rsi]; hlt")
GUEST_CODE(kept_write, "mov [rsi], rax; hlt")
GUEST_CODE(kept_call, "call rsi; hlt")

// CPL 0 with global pages. Each page from kFirst on has a function at its start that gives the page's number.
class KeptMachine : public FaultMachine {
 public:
  static constexpr uint64_t kDirectory = 0x20000, kPages = 0x22000, kCallee = 0x21000;

  KeptMachine() {
    for (uint64_t page = kFirst; page < kRam; page += 4096) at(page) = 0xc300000000b8 | page >> 12 << 8;  // mov eax, n; ret
    at(0x2000 + 8) = kDirectory | 7;
    vcpu->segment[kCS] = Segment{0, 0xffffffff, 8, 0xa09b, false};
    for (unsigned s : {kES, kSS, kDS, kFS, kGS}) vcpu->segment[s] = Segment{0, 0xffffffff, 16, 0xc093, false};
    vcpu->cpl = 0;
    vcpu->cr4 |= kCr4Pge;
    vcpu->gpr[kRsp] = kStackTop;
    vcpu->state_changed();
  }
  // The entry of the large page at `linear`, or that of its page of 4 KiB.
  uint64_t& large(uint64_t linear) { return at(kDirectory + (linear - kHere) / kArea * 8); }
  uint64_t& small(uint64_t linear) {
    large(kHere) = kPages | kP | kRw | kUs | kA;
    return at(kPages + (linear >> 12 & 511) * 8);
  }

  // The vector of a fault, or 0.
  unsigned go_to(std::span<const uint8_t> code, uint64_t linear) {
    memcpy(ram + kCode, code.data(), code.size());
    vm->notice_write(ram + kCode, code.size());
    vcpu->rip = kCode;
    vcpu->gpr[kRsi] = linear;
    vcpu->gpr[kRsp] = kStackTop;
    vcpu->halted = false;
    EXPECT_EQ(go(), uint32_t{KVM_EXIT_HLT});
    if (vcpu->rip < kHandlers || vcpu->rip > kHandlers + 512) return 0;
    return static_cast<unsigned>((vcpu->rip - kHandlers) / 16);
  }
  // The number of the page that is seen there; 0: a page fault.
  uint64_t read(uint64_t linear) { return go_to(kept_read(), linear) ? 0 : vcpu->gpr[kRax] >> 8 & 0xffff; }
  uint64_t call(uint64_t linear) { return go_to(kept_call(), linear) ? 0 : vcpu->gpr[kRax]; }
  bool write(uint64_t linear) {
    vcpu->gpr[kRax] = 1;
    return go_to(kept_write(), linear) == 0;
  }
  void flush() { flush_tlb(*vcpu, false, true); }
  void load_cr3() { switch_address_space(*vcpu, false); }
};

constexpr uint64_t number(uint64_t page) { return page >> 12; }

// With kHere mapped by a large page and by one of 4 KiB: `test(machine, entry)`, where `size` is what the entry has beside the address.
template <class F>
void with_either(F test) {
  for (bool large : {true, false}) {
    SCOPED_TRACE(large ? "large" : "small");
    KeptMachine m;
    uint64_t& entry = large ? m.large(kHere) : m.small(kHere);
    const uint64_t size = large ? kLarge : 0;
    entry = kFirst | kAll | size;
    test(m, entry, size);
  }
}

TEST(Kept, WhatIsMappedElsewhereIsNot) {
  with_either([](KeptMachine& m, uint64_t& entry, uint64_t size) {
    for (int round = 0; round < 3; round++) {
      EXPECT_EQ(m.read(kHere), number(kFirst));
      EXPECT_EQ(m.call(kHere), number(kFirst));
      m.flush();  // twice: by what the first has left
      EXPECT_EQ(m.call(kHere), number(kFirst));
      entry = kSecond | kAll | size;
      m.flush();
      EXPECT_EQ(m.read(kHere), number(kSecond));
      EXPECT_EQ(m.call(kHere), number(kSecond));
      entry = kFirst | kAll | size;
      flush_tlb(*m.vcpu, false);
    }
  });
}

TEST(Kept, WhatIsNotGlobalAnyMoreGoesWithTheAddressSpace) {
  with_either([](KeptMachine& m, uint64_t& entry, uint64_t size) {
    EXPECT_EQ(m.read(kHere), number(kFirst));
    EXPECT_EQ(m.call(kHere), number(kFirst));
    entry &= ~kG;
    m.flush();
    entry = (kSecond | kAll | size) & ~kG;
    m.load_cr3();
    EXPECT_EQ(m.read(kHere), number(kSecond));
    EXPECT_EQ(m.call(kHere), number(kSecond));
  });
}

TEST(Kept, AreNoRightsThatHaveGone) {
  with_either([](KeptMachine& m, uint64_t& entry, uint64_t) {
    EXPECT_TRUE(m.write(kHere + 8));
    entry &= ~kRw;
    m.flush();
    EXPECT_FALSE(m.write(kHere + 8));
    EXPECT_EQ(m.call(kHere), number(kFirst));
    entry |= kNx;
    m.flush();
    EXPECT_EQ(m.call(kHere), 0u);
    EXPECT_EQ(m.read(kHere), number(kFirst));
    entry &= ~kP;
    m.flush();
    EXPECT_EQ(m.read(kHere), 0u);
  });
}

TEST(Kept, AccessedAndDirtyAreSetAgain) {
  with_either([](KeptMachine& m, uint64_t& entry, uint64_t) {
    EXPECT_TRUE(m.write(kHere + 8));
    entry &= ~kD;
    m.flush();
    EXPECT_TRUE(m.write(kHere + 8));
    EXPECT_TRUE(entry & kD);
    entry &= ~kA;
    m.flush();
    EXPECT_FALSE(entry & kA);  // a flush is no access
    m.read(kHere);
    EXPECT_TRUE(entry & kA);
    m.call(kHere);
    entry &= ~kA;
    m.flush();
    m.call(kHere);
    EXPECT_TRUE(entry & kA);
  });
}

// What stays can still be dropped: by INVLPG of any address in the page, and by a flush of another kind.
TEST(Kept, IsDroppedByAnotherFlush) {
  for (auto drop : {+[](Vcpu& v) { flush_tlb_page(v, kHere + 0x5000); }, +[](Vcpu& v) { flush_tlb(v, false); }}) {
    with_either([drop](KeptMachine& m, uint64_t& entry, uint64_t size) {
      const uint64_t seen = kHere + (size ? 0x3000 : 0);  // of a large page, another part
      if (!size) m.small(kHere + 0x5000) = 0;
      EXPECT_EQ(m.read(seen), number(kFirst + seen - kHere));
      EXPECT_EQ(m.call(seen), number(kFirst + seen - kHere));
      m.flush();
      entry = kSecond | kAll | size;
      drop(*m.vcpu);
      if (!size) flush_tlb_page(*m.vcpu, kHere);
      EXPECT_EQ(m.read(seen), number(kSecond + seen - kHere));
      EXPECT_EQ(m.call(seen), number(kSecond + seen - kHere));
      if (size) {
        EXPECT_EQ(m.read(kHere + 0x9000), number(kSecond + 0x9000));  // not seen before
        EXPECT_EQ(m.call(kHere + 0x9000), number(kSecond + 0x9000));
      }
    });
  }
}

// The books of the keys that are used begin anew with a flush: an entry that hangs on one is not kept.
TEST(Kept, NothingThatHangsOnAKey) {
  with_either([](KeptMachine& m, uint64_t& entry, uint64_t) {
    entry |= kUs | 3ull << 59;
    m.vcpu->cr4 |= kCr4Pke;
    m.vcpu->state_changed();
    EXPECT_EQ(m.read(kHere), number(kFirst));
    m.flush();
    change_keys(*m.vcpu, true, 1u << 6);  // access disable
    EXPECT_EQ(m.read(kHere), 0u);
  });
}

// An area that was read grants a write where D was set, and to whom the page belongs.
TEST(Kept, AnAreaGrantsWhatAWalkWould) {
  KeptMachine m;
  uint64_t& entry = m.large(kHere);
  entry = kFirst | kAll | kLarge;
  EXPECT_EQ(m.read(kHere), number(kFirst));
  EXPECT_FALSE(entry & kD);
  EXPECT_TRUE(m.write(kHere + 0x1008));
  EXPECT_TRUE(entry & kD);
  EXPECT_EQ(m.at(kFirst + 0x1008), 1u);
  for (auto code : {kept_read(), kept_call()}) {
    m.vcpu->segment[kCS] = Segment{0, 0xffffffff, 0x2b, 0xa0fb, false};
    for (unsigned s : {kES, kSS, kDS, kFS, kGS}) m.vcpu->segment[s] = Segment{0, 0xffffffff, 0x23, 0xc0f3, false};
    m.vcpu->cpl = 3;
    update_mode(*m.vcpu);
    EXPECT_EQ(m.go_to(code, kHere + 0x2000), unsigned{kPFv});
  }
}

// A large page that the page tables have no more for what is asked is asked of them: a fault's cause may have gone without a flush.
TEST(Kept, AnAreaRefusesNothing) {
  KeptMachine m;
  uint64_t& entry = m.large(kHere);
  entry = (kFirst | kAll | kLarge) & ~kRw;
  EXPECT_EQ(m.read(kHere), number(kFirst));
  entry |= kRw;
  EXPECT_TRUE(m.write(kHere + 0x1008));
}

// More areas than are kept, and than have room beside each other.
TEST(Kept, AreasThatHaveMadeRoomAreForgotten) {
  for (uint64_t step : {kArea, 64 * kArea}) {
    KeptMachine m;
    // 512 directories, all of them this one.
    for (unsigned i = 1; i < 512; i++) m.at(0x2000 + i * 8) = KeptMachine::kDirectory | 7;
    auto map = [&](uint64_t page) {
      for (unsigned i = 0; i < 512; i++) m.at(KeptMachine::kDirectory + i * 8) = page | kAll | kLarge;
    };
    for (int round = 0; round < 3; round++) {
      map(kFirst);
      flush_tlb(*m.vcpu, false);
      for (uint64_t i = 0; i < 200; i++) EXPECT_EQ(m.read(kHere + i * step), number(kFirst));
      for (uint64_t i = 0; i < 200; i++) EXPECT_EQ(m.call(kHere + i * step + 0x1000), number(kFirst + 0x1000));
      if (round) m.flush();
      map(kSecond);
      m.flush();
      for (uint64_t i = 0; i < 200; i++) EXPECT_EQ(m.read(kHere + i * step), number(kSecond)) << i;
      for (uint64_t i = 0; i < 200; i++) EXPECT_EQ(m.call(kHere + i * step + 0x1000), number(kSecond + 0x1000)) << i;
    }
  }
}

// Jump entries whose page's fetch entry has made room for another's.
TEST(Kept, JumpsAreToWherePagesWere) {
  const uint64_t other = kHere + kFetchEntries * 4096ull;  // has the same place
  for (bool changed : {false, true}) {
    KeptMachine m;
    m.large(other) = kSecond | kAll | kLarge;
    m.small(kHere) = kFirst | kAll;
    EXPECT_EQ(m.call(kHere), number(kFirst));
    EXPECT_EQ(m.call(other), number(kSecond));
    if (changed) {
      // Without a flush: both may be what is seen. By the new one there is a jump entry, too.
      m.small(kHere) = (kSecond + 0x1000) | kAll;
      memcpy(m.ram + kSecond + 0x1040, m.ram + kSecond + 0x1000, 8);
      EXPECT_EQ(m.call(kHere + 0x40), number(kSecond + 0x1000));
    } else {
      m.small(kHere) = (kSecond + 0x1000) | kAll;
    }
    m.flush();
    EXPECT_EQ(m.call(kHere), number(kSecond + 0x1000));
  }
}

// More of them than are remembered.
TEST(Kept, ManyJumpsAreToWherePagesWere) {
  KeptMachine m;
  const uint64_t other = kHere + kFetchEntries * 4096ull;
  m.large(other) = kSecond | kAll | kLarge;
  for (unsigned i = 0; i < 200; i++) m.small(kHere + i * 4096) = (kFirst + i * 4096) | kAll;
  for (unsigned i = 0; i < 200; i++) EXPECT_EQ(m.call(kHere + i * 4096), number(kFirst + i * 4096));
  for (unsigned i = 0; i < 200; i++) EXPECT_EQ(m.call(other + i * 4096), number(kSecond + i * 4096));
  for (unsigned i = 150; i < 200; i++) m.small(kHere + i * 4096) = (kSecond + i * 4096) | kAll;
  m.flush();
  for (unsigned i = 0; i < 200; i++) EXPECT_EQ(m.call(kHere + i * 4096), number((i < 150 ? kFirst : kSecond) + i * 4096));
}

// ... and whose area has, too.
TEST(Kept, JumpsAreToWhereAreasWere) {
  KeptMachine m;
  for (unsigned i = 0; i < 512; i++) m.large(kHere + i * kArea) = kFirst | kAll | kLarge;
  for (unsigned i = 0; i < 100; i++) EXPECT_EQ(m.call(kHere + i * kArea), number(kFirst));
  m.large(kHere) = kSecond | kAll | kLarge;
  m.flush();
  EXPECT_EQ(m.call(kHere), number(kSecond));
}

// A large page becomes pages of 4 KiB, of which some are elsewhere.
TEST(Kept, PartsOfWhatWasALargePage) {
  KeptMachine m;
  m.large(kHere) = kFirst | kAll | kLarge;
  for (unsigned i = 0; i < 100; i++) EXPECT_EQ(m.call(kHere + i * 4096), number(kFirst + i * 4096));
  for (unsigned i = 0; i < 100; i++) EXPECT_EQ(m.read(kHere + i * 4096), number(kFirst + i * 4096));
  for (unsigned i = 0; i < 512; i++) m.small(kHere + i * 4096) = ((i % 3 ? kFirst : kSecond) + i * 4096) | kAll | kA;
  m.flush();
  for (unsigned i = 0; i < 100; i++) EXPECT_EQ(m.read(kHere + i * 4096), number((i % 3 ? kFirst : kSecond) + i * 4096));
  for (unsigned i = 0; i < 100; i++) EXPECT_EQ(m.call(kHere + i * 4096), number((i % 3 ? kFirst : kSecond) + i * 4096));
  for (unsigned i = 0; i < 512; i++) m.small(kHere + i * 4096) = (kSecond + i * 4096) | kAll | kA;
  m.flush();
  for (unsigned i = 0; i < 100; i++) EXPECT_EQ(m.call(kHere + i * 4096), number(kSecond + i * 4096));
}

// A page's jump entries may be by two ways where the page tables were changed and nothing flushed; a flush leaves none that is not as they say.
TEST(Kept, AJumpByAnotherWayThanTheAreasIsNot) {
  KeptMachine m;
  m.large(kHere) = kFirst | kAll | kLarge;
  EXPECT_EQ(m.call(kHere + 0x1000), number(kFirst + 0x1000));  // the area is known
  for (unsigned i = 0; i < 512; i++) m.small(kHere + i * 4096) = (kSecond + i * 4096) | kAll | kA;
  ASSERT_TRUE(fill_fetch(*m.vcpu, kHere, true));  // as where a block is made
  EXPECT_EQ(m.call(kHere), number(kSecond));
  m.large(kHere) = kFirst | kAll | kLarge | kA;
  m.flush();
  EXPECT_EQ(m.call(kHere), number(kFirst));

  // The page's fetch entry, which was the area's, has made room for another's.
  const uint64_t other = kHere + kFetchEntries * 4096ull;
  m.large(other) = kSecond | kAll | kLarge;
  EXPECT_EQ(m.call(other), number(kSecond));
  for (unsigned i = 0; i < 512; i++) m.small(kHere + i * 4096) = (kSecond + i * 4096) | kAll | kA;
  ASSERT_TRUE(fill_fetch(*m.vcpu, kHere, true));
  m.flush();
  EXPECT_EQ(m.call(kHere), number(kSecond));
}

// The same where it is seen that the page has changed, before a flush.
TEST(Kept, AJumpByAnOlderFetchEntryIsNot) {
  KeptMachine m;
  m.small(kHere) = kFirst | kAll;
  EXPECT_EQ(m.call(kHere), number(kFirst));
  m.small(kHere) = kSecond | kAll;
  ASSERT_TRUE(fill_fetch(*m.vcpu, kHere, true));
  m.flush();
  EXPECT_EQ(m.call(kHere), number(kSecond));
}

TEST(KnownAreas, TellWhenOneWasLost) {
  KnownAreas areas;
  areas.add({kHere, kFirst, false});
  areas.add({kHere, kFirst, true});  // D was set
  EXPECT_FALSE(areas.lost());
  ASSERT_NE(areas.find(kHere + 0x1234), nullptr);
  EXPECT_EQ(areas.find(kHere + 0x1234)->gpa(kHere + 0x1234), kFirst + 0x1234);
  EXPECT_EQ(areas.find(kHere + kArea), nullptr);
  areas.add({kHere, kSecond, true});
  EXPECT_TRUE(areas.lost());
  areas.clear();
  EXPECT_FALSE(areas.lost());
  EXPECT_EQ(areas.find(kHere), nullptr);
  for (unsigned i = 0; i < KnownAreas::kMost; i++) areas.add({kHere + i * kArea, kFirst, true});
  EXPECT_FALSE(areas.lost());
  areas.drop(kHere + 5 * kArea);
  EXPECT_TRUE(areas.keep_if([](const KnownArea& area) { return area.writable(); }));
  areas.add({kHere + 100 * kArea, kFirst, true});
  EXPECT_FALSE(areas.lost());
  areas.add({kHere + 101 * kArea, kFirst, true});
  EXPECT_TRUE(areas.lost());
}

// A page that is none of all address spaces any more when it is fetched from again, by a walk that drops nothing.
TEST(Kept, JumpsIntoAPageThatHasLostItsGAndIsMappedElsewhereAreNot) {
  KeptMachine m;
  m.small(kHere) = kFirst | kAll;
  EXPECT_EQ(m.call(kHere), number(kFirst));
  m.small(kHere) &= ~kG;
  EXPECT_TRUE(fill_fetch(*m.vcpu, kHere, true));
  m.small(kHere) = kSecond | kAll;
  m.flush();
  EXPECT_EQ(m.call(kHere), number(kSecond));
}

// A page fault drops what is kept of its page, also of the large one that was there before (SDM vol 3, 4.10.4.1): whoever maps it then needs no INVLPG.
TEST(Kept, NothingOfAPageThatAFaultWasOfIs) {
  KeptMachine m;
  m.large(kHere) = kFirst | kP | kG | kLarge;  // may be read
  EXPECT_EQ(m.read(kHere + 4096), number(kFirst) + 1);
  m.large(kHere) = 0;
  EXPECT_FALSE(m.write(kHere + 4096));
  m.small(kHere + 4096) = kSecond | kAll;
  EXPECT_EQ(m.read(kHere + 4096), number(kSecond));
}

}  // namespace
}  // namespace vireo::softkvm
