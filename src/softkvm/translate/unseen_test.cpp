// SPDX-License-Identifier: Apache-2.0
// Code that host code overwrites without a notice (softkvm.h, expect_unseen_writes): what runs after KVM_RUN was entered again is the new one.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <thread>

#include "softkvm/translate/engine.h"
#include "softkvm/translate/stored_code.h"
#include "softkvm/translate/switches.h"
#include "softkvm/translate/switches_off.h"
#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kFunctions = 0x400000;  // one a page
constexpr uint32_t kHalted = KVM_EXIT_HLT;

class Unseen : public testing::Test {
 protected:
  static void SetUpTestSuite() { Vm::expect_unseen_writes(); }

  // mov eax, VALUE; ret. Written behind the hypervisor's back.
  void function(uint64_t address, uint32_t value) {
    uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(code + 1, &value, 4);
    memcpy(machine.ram + address, code, sizeof code);
  }
  TestMachine machine;
};

GUEST_CODE(sum_of_calls,
           "xor edx, edx\n mov rbx, 0x400000\n mov ecx, [0x300000]\n"
           "1: call rbx\n add rdx, rax\n add rbx, 4096\n dec ecx\n jnz 1b\n"
           "mov [0x300008], rdx\n hlt")

// Each page is compared when it is entered the first time in a run.
TEST_F(Unseen, EachPageOfFewAndOfManyIsFoundChanged) {
  std::mt19937 random(1);
  for (uint32_t pages : {3u, 100u, 383u, 384u, 385u, 600u}) {
    std::vector<uint32_t> values(pages);
    for (uint32_t i = 0; i < pages; i++) function(kFunctions + i * 4096, values[i] = random());
    machine.at<uint32_t>(0x300000) = pages;
    for (int run = 0; run < 150; run++) {
      uint64_t sum = 0;
      for (uint32_t value : values) sum += value;
      machine.at(0x300008) = 0;
      // The first time as a new program; then nothing but the return address tells of anything.
      machine.vcpu->rip = TestMachine::kCode;
      ASSERT_EQ(run ? machine.go() : machine.run(sum_of_calls()), kHalted);
      ASSERT_EQ(machine.at(0x300008), sum) << pages << " pages, run " << run;
      for (unsigned change = random() % 3; change; change--) {
        const uint32_t i = random() % pages;
        function(kFunctions + i * 4096, values[i] = random());
      }
    }
  }
}

// ... and with the switch off no jump entry outlives a doubt.
TEST_F(Unseen, TheSwitchEmptiesTheJumpCaches) {
  uint64_t lookups[2];
  for (bool on : {true, false}) {
    SwitchesOff off(on ? "" : "doubted-jumps");
    TestMachine m;
    for (uint64_t i = 0; i < 50; i++) memcpy(m.ram + kFunctions + i * 4096, "\xb8\1\0\0\0\xc3", 6);
    m.at<uint32_t>(0x300000) = 50;
    ASSERT_EQ(m.run(sum_of_calls()), kHalted);
    const uint64_t before = m.vcpu->engine->counters.lookups;
    for (int run = 0; run < 50; run++) {
      m.vcpu->rip = TestMachine::kCode;
      ASSERT_EQ(m.go(), kHalted);
      ASSERT_EQ(m.at(0x300008), 50u);
    }
    lookups[on] = m.vcpu->engine->counters.lookups - before;
  }
  EXPECT_GE(lookups[false], 2500u);
  EXPECT_TRUE(machine.vm->off || lookups[true] < 100) << lookups[true];
}

// Adds up what functions of 16 bytes give.
GUEST_CODE(sum_of_many_calls,
           "xor edx, edx\n mov rbx, 0x400000\n mov ecx, [0x300000]\n"
           "1: call rbx\n add rdx, rax\n add rbx, 16\n dec ecx\n jnz 1b\n"
           "mov [0x300008], rdx\n hlt")

TEST_F(Unseen, MoreJumpEntriesThanTheLogHasRoomForAreDoubted) {
  constexpr uint32_t kMany = FillLog::kCapacity + 1000;
  for (uint32_t i = 0; i < kMany; i++) function(kFunctions + i * 16, 1);
  machine.at<uint32_t>(0x300000) = kMany;
  for (uint32_t run = 0; run < 20; run++) {
    machine.vcpu->rip = TestMachine::kCode;
    ASSERT_EQ(run ? machine.go() : machine.run(sum_of_many_calls()), kHalted);
    ASSERT_EQ(machine.at(0x300008), kMany + run);
    function(kFunctions + run * 7008, 2);
  }
}

// Two entries, one byte from each other: the second is the first one's RET.
GUEST_CODE(neighbours, "mov esi, 0x400000\n clc\n call rsi\n setc al\n inc rsi\n clc\n call rsi\n setc ah\n mov [0x300008], ax\n hlt")

TEST_F(Unseen, ADoubtedEntryIsNotItsNeighbours) {
  for (int run = 0; run < 10; run++) {
    const bool carry = run < 5;
    memcpy(machine.ram + kFunctions, carry ? "\xf9\xc3" : "\xf8\xc3", 2);  // stc or clc; ret
    machine.vcpu->rip = TestMachine::kCode;
    ASSERT_EQ(run ? machine.go() : machine.run(neighbours()), kHalted);
    EXPECT_EQ(machine.at<uint16_t>(0x300008), carry ? 1u : 0u);
  }
}

// An instruction on two pages, of which one or the other is overwritten.
GUEST_CODE(calls_over_an_edge, "mov esi, 0x400ffd\n call rsi\n mov [0x300008], eax\n hlt")

TEST_F(Unseen, EitherPageOfAnInstructionIsFoundChanged) {
  for (uint32_t run = 0; run < 20; run++) {
    const uint32_t value = run % 2 ? run << 24 | 0x1234 : 0x01001234 + run;
    function(kFunctions + 0xffd, value);
    machine.vcpu->rip = TestMachine::kCode;
    ASSERT_EQ(run ? machine.go() : machine.run(calls_over_an_edge()), kHalted);
    EXPECT_EQ(machine.at<uint32_t>(0x300008), value);
  }
}

// The second call is behind a doubt, and the page another one by then.
GUEST_CODE(doubted_invlpg, "call rsi\n mov ebx, eax\n hlt\n mov qword ptr [rdi], 0x800087\n invlpg [rsi]\n call rsi\n hlt")
GUEST_CODE(doubted_cr3, "call rsi\n mov ebx, eax\n hlt\n mov qword ptr [rdi], 0x800087\n mov rax, cr3\n mov cr3, rax\n call rsi\n hlt")

TEST_F(Unseen, ADoubtedEntryGoesWithItsMapping) {
  for (auto code : {doubted_invlpg(), doubted_cr3()}) {
    TestMachine m;
    memcpy(m.ram + 0x600000, "\xb8\1\0\0\0\xc3", 6);
    memcpy(m.ram + 0x800000, "\xb8\2\0\0\0\xc3", 6);
    m.vcpu->gpr[kRsi] = 0x600000, m.vcpu->gpr[kRdi] = 0x3018;
    ASSERT_EQ(m.run(code), kHalted);
    ASSERT_EQ(m.go(), kHalted);
    EXPECT_EQ(m.vcpu->gpr[kRbx], 1u);
    EXPECT_EQ(m.vcpu->gpr[kRax], 2u);
  }
}

// Reads a port, then calls what is at 4 MiB.
GUEST_CODE(asks_and_calls, "mov edx, [0x300000]\n in eax, dx\n mov rsi, 0x400000\n call rsi\n mov [0x300008], eax\n hlt")

class Asks : public Unseen {
 protected:
  // What the function says that is written before the answer, where it said 1 before; and whether the answer made the vCPU doubt its code.
  uint32_t new_value(uint32_t port, uint32_t answer, bool user_acts, bool& doubted) {
    TestMachine& m = machine;
    m.at<uint32_t>(0x300000) = port;
    auto begin = [&] {
      m.vcpu->rip = TestMachine::kCode;
      EXPECT_EQ(m.go(), static_cast<uint32_t>(KVM_EXIT_IO));
    };
    auto end = [&](uint32_t value) {
      memcpy(static_cast<uint8_t*>(m.page) + 4096, &value, sizeof value);
      EXPECT_EQ(m.go(), kHalted);
    };
    function(kFunctions, 1);
    begin(), end(0);
    EXPECT_EQ(m.at<uint32_t>(0x300008), 1u);
    begin();
    function(kFunctions, 2);
    m.vcpu->user_acted = user_acts;
    const uint64_t before = m.vcpu->engine->counters.code_doubts;
    end(answer);
    doubted = m.vcpu->engine->counters.code_doubts != before;
    return m.at<uint32_t>(0x300008);
  }
};

TEST_F(Asks, AllOnesOfNoPciDeviceTellNothingUnlessUserSpaceHasDoneMore) {
  memcpy(machine.ram + TestMachine::kCode, asks_and_calls().data(), asks_and_calls().size());
  bool doubted;
  for (uint32_t port : {0x70u, 0xcf8u, 0xcfau, 0xcfcu, 0xd00u}) {
    EXPECT_EQ(new_value(port, 0x12345678, false, doubted), 2u) << port;
    EXPECT_TRUE(doubted);
    EXPECT_EQ(new_value(port, 0xffffffff, true, doubted), 2u) << port;
    EXPECT_TRUE(doubted);
    new_value(port, 0xffffffff, false, doubted);
    EXPECT_EQ(doubted, port != 0xcfc) << port;
  }
}

GUEST_CODE(selects_a_register, "mov edx, 0xcf8\n mov eax, 0x80000000\n out dx, eax\n out dx, al\n mov edx, 0xcfc\n out dx, eax\n hlt")

TEST_F(Unseen, OnlyAWriteOfThePciAddressTellsNothing) {
  bool doubts[3];
  EXPECT_EQ(machine.run(selects_a_register()), static_cast<uint32_t>(KVM_EXIT_IO));
  for (bool& doubted : doubts) {
    const uint64_t before = machine.vcpu->engine->counters.code_doubts;
    machine.go();
    doubted = machine.vcpu->engine->counters.code_doubts != before;
  }
  EXPECT_FALSE(doubts[0]);
  EXPECT_TRUE(doubts[1]);
  EXPECT_TRUE(doubts[2]);
  EXPECT_EQ(machine.vcpu->run->exit_reason, kHalted);
}

// Far apart in one page, reached by a jump that is linked.
GUEST_CODE(linked_jump, "mov ecx, 1000\n 1: jmp 2f\n .skip 1500\n 2: mov eax, 11\n dec ecx\n jnz 1b\n mov [0x300008], eax\n hlt")

TEST_F(Unseen, WhatALinkedJumpLeadsToIsFoundChanged) {
  for (uint32_t value = 11; value < 200; value++) {
    if (value == 11) {
      ASSERT_EQ(machine.run(linked_jump()), kHalted);
    }
    machine.vcpu->rip = TestMachine::kCode;
    ASSERT_EQ(machine.go(), kHalted);
    EXPECT_EQ(machine.at<uint32_t>(0x300008), value);
    auto bytes = linked_jump();
    for (size_t i = 1000; i + 5 < bytes.size(); i++)
      if (bytes[i] == 0xb8 && bytes[i + 1] == 11) machine.ram[TestMachine::kCode + i + 1] = static_cast<uint8_t>(value + 1);
  }
}

// Calls what is at 4 MiB, waits for it to be overwritten, maps it anew and enters it where no block is yet, 2 KiB further.
GUEST_CODE(maps_anew,
           "mov rsi, 0x400000\n call rsi\n mov ebx, eax\n mov dword ptr [0x300000], 1\n 1: cmp dword ptr [0x300008], 0\n je 1b\n"
           "invlpg [rsi]\n lea rdx, [rsi + 2048]\n call rdx\n hlt")

TEST_F(Unseen, WhatAPageThatIsMappedAnewHeldBeforeIsGoneAsAWhole) {
  function(kFunctions, 1);
  std::thread device([&] {
    auto* flags = machine.ram + 0x300000;
    while (!__atomic_load_n(flags, __ATOMIC_ACQUIRE)) std::this_thread::yield();
    function(kFunctions, 2);
    const uint8_t back[] = {0xe9, 0xfb, 0xf7, 0xff, 0xff};  // jmp -2053
    memcpy(machine.ram + kFunctions + 2048, back, sizeof back);
    __atomic_store_n(flags + 8, 1, __ATOMIC_RELEASE);
  });
  EXPECT_EQ(machine.run(maps_anew()), kHalted);
  device.join();
  EXPECT_EQ(machine.vcpu->gpr[kRbx], 1u);
  EXPECT_EQ(machine.vcpu->gpr[kRax], 2u);
}

// Calls what is at 4 MiB and 2 KiB further, waits, maps the page anew and calls both again, the second one first.
GUEST_CODE(maps_known_code_anew,
           "mov rsi, 0x400000\n lea rdx, [rsi + 2048]\n call rdx\n call rsi\n mov ebx, eax\n mov dword ptr [0x300000], 1\n 1: cmp dword ptr [0x300008], 0\n je 1b\n"
           "invlpg [rsi]\n call rdx\n call rsi\n hlt")

TEST_F(Unseen, WhatAPageThatIsMappedAnewHeldBeforeIsGoneThoughItIsEnteredWhereItIsAsItWas) {
  function(kFunctions, 1);
  function(kFunctions + 2048, 7);
  std::thread device([&] {
    auto* flags = machine.ram + 0x300000;
    while (!__atomic_load_n(flags, __ATOMIC_ACQUIRE)) std::this_thread::yield();
    function(kFunctions, 2);
    __atomic_store_n(flags + 8, 1, __ATOMIC_RELEASE);
  });
  EXPECT_EQ(machine.run(maps_known_code_anew()), kHalted);
  device.join();
  EXPECT_EQ(machine.vcpu->gpr[kRbx], 1u);
  EXPECT_EQ(machine.vcpu->gpr[kRax], 2u);
}

// The flags of the addition are wanted, or not, by what comes behind the jump.
GUEST_CODE(flags_not_wanted, "mov al, 0xff\n add al, 1\n jmp 1f\n .skip 200\n 1: xor ecx, ecx\n nop\n mov [0x300008], ecx\n hlt")
GUEST_CODE(flags_wanted, "mov al, 0xff\n add al, 1\n jmp 1f\n .skip 200\n 1: sbb ecx, ecx\n nop\n mov [0x300008], ecx\n hlt")

TEST_F(Unseen, WhatFlagsWereThoughtDeadByIsFoundChanged) {
  ASSERT_EQ(flags_wanted().size(), flags_not_wanted().size());
  for (int turn = 0; turn < 3; turn++) {
    for (bool wanted : {false, true}) {
      auto code = wanted ? flags_wanted() : flags_not_wanted();
      memcpy(machine.ram + TestMachine::kCode, code.data(), code.size());
      machine.vcpu->rip = TestMachine::kCode;
      machine.vcpu->gpr[kRcx] = 5;
      ASSERT_EQ(machine.go(), kHalted);
      EXPECT_EQ(machine.at<uint32_t>(0x300008), wanted ? ~0u : 0u);
    }
  }
}

// A HLT, and behind it in the page a call of a function there.
GUEST_CODE(halts_and_calls, "hlt; call 1f; call 1f; hlt; .skip 1000; 1: mov eax, 1; test eax, eax; jz 2f; add ebx, eax; 2: ret")

// Blocks that have come from a file with another of their page are compared like it.
TEST_F(Unseen, CodeThatWasStoredAndHasNotRunYetIsFoundChanged) {
  char folder[] = "/tmp/vireo-code-XXXXXX";
  ASSERT_TRUE(StoredCode::keep(mkdtemp(folder), 64u << 20).has_value());
  for (int run = 0; run < 2; run++) {
    TestMachine m;
    if (m.vm->stored) {
      m.vcpu->engine->stored = m.vm->stored->blocks_for(*m.vcpu);
      m.vcpu->engine->stored_known = true;
      m.vm->stored->wait_until_read();
    }
    // More than 64 blocks, as a writing needs.
    for (uint64_t i = 0; i < 80; i++) memcpy(m.ram + kFunctions + i * 4096, "\xb8\1\0\0\0\xc3", 6);
    m.at<uint32_t>(0x300000) = 80;
    ASSERT_EQ(m.run(sum_of_calls()), kHalted);
    const auto code = halts_and_calls();
    memcpy(m.ram + 0x500000, code.data(), code.size());
    m.vcpu->rip = 0x500000;
    ASSERT_EQ(m.go(), kHalted);
    const uint64_t restored = m.vcpu->engine->counters.blocks_restored;
    if (run == 1) {
      // Its function gives 3 now: nobody tells.
      const size_t at = code.size() - std::size("\xb8\1\0\0\0\x85\xc0\x74\2\1\xc3\xc3") + 2;
      ASSERT_EQ(m.ram[0x500000 + at - 1], 0xb8);
      m.ram[0x500000 + at] = 3;
    }
    m.vcpu->rip = 0x500001;
    m.vcpu->gpr[kRbx] = 0;
    ASSERT_EQ(m.go(), kHalted);
    EXPECT_EQ(m.vcpu->gpr[kRbx], run == 1 ? 6u : 2u);
    EXPECT_GE(restored, run == 1 && !(m.vm->off & kSwitchStoredCode) ? 84u : 0u);
  }
  StoredCode::keep_nothing();
  std::filesystem::remove_all(folder);
}

// A page of functions that jump on in their page: pieces of 64 bytes, each adds a number to EAX and goes to a later one, or returns.
class Pieces {
 public:
  static constexpr unsigned kPieces = 16;
  Pieces(uint8_t* ram, unsigned pages, std::mt19937& random) : ram_(ram), random_(random), all_(pages * kPieces) {
    for (unsigned i = 0; i < all_.size(); i++) change(i);
  }
  // Without a notice.
  void change(unsigned i) {
    const unsigned at = i % kPieces, left = kPieces - 1 - at;
    all_[i] = {static_cast<uint32_t>(random_()), left && random_() % 3 ? 1 + static_cast<uint32_t>(random_()) % left : 0};
    uint8_t code[10] = {0x05, 0, 0, 0, 0, 0xc3};  // add eax, VALUE; ret
    memcpy(code + 1, &all_[i].value, 4);
    if (const uint32_t further = all_[i].further * 64 - 10; all_[i].further) {
      code[5] = 0xe9;  // jmp
      memcpy(code + 6, &further, 4);
    }
    memcpy(ram_ + address(i), code, sizeof code);
  }
  void change_any() { change(static_cast<unsigned>(random_() % all_.size())); }
  uint32_t sum_from(unsigned i) const {
    uint32_t sum = all_[i].value;
    while (all_[i].further) sum += all_[i += all_[i].further].value;
    return sum;
  }
  static uint64_t address(unsigned i) { return kFunctions + i / kPieces * 4096 + i % kPieces * 64; }
  unsigned any() { return static_cast<unsigned>(random_() % all_.size()); }

 private:
  struct Piece {
    uint32_t value;
    uint32_t further;  // pieces; 0: it returns
  };
  uint8_t* ram_;
  std::mt19937& random_;
  std::vector<Piece> all_;
};

// RSI: addresses to call, RCX: how many, RDI: where the sum goes.
GUEST_CODE(sum_of_pieces, "xor eax, eax\n 1: call [rsi]\n add rsi, 8\n dec ecx\n jnz 1b\n mov [rdi], eax\n hlt")

// What is called mostly stays the same, so that doubts are settled, and now and then is something else, so that jumps are linked to what was made long ago.
class Calls {
 public:
  Calls(TestMachine& m, Vcpu& vcpu, Pieces& pieces, uint64_t list) : machine_(m), vcpu_(vcpu), pieces_(pieces), list_(list) {}
  void choose() {
    which_.resize(60);
    for (unsigned i = 0; i < which_.size(); i++) machine_.at(list_ + 8 + i * 8) = Pieces::address(which_[i] = pieces_.any());
  }
  // False: KVM_RUN has not ended with HLT.
  bool run() {
    vcpu_.rip = TestMachine::kCode;
    vcpu_.gpr[kRsi] = list_ + 8, vcpu_.gpr[kRcx] = which_.size(), vcpu_.gpr[kRdi] = list_;
    return vcpu_.run_guest() == 0 && vcpu_.run->exit_reason == kHalted;
  }
  uint32_t sum() const { return machine_.at<uint32_t>(list_); }
  uint32_t expected() const {
    uint32_t sum = 0;
    for (unsigned i : which_) sum += pieces_.sum_from(i);
    return sum;
  }

 private:
  TestMachine& machine_;
  Vcpu& vcpu_;
  Pieces& pieces_;
  uint64_t list_;
  std::vector<unsigned> which_;
};

TEST_F(Unseen, ChangesOfCodeThatLinkedJumpsLeadToAreFoundWhetherDoubtsAreSettledOrNot) {
  for (const char* off : {"", "settled-doubts", "links"}) {
    SwitchesOff switches(off);
    TestMachine m;
    std::mt19937 random(7);
    Pieces pieces(m.ram, 50, random);
    Calls calls(m, *m.vcpu, pieces, 0x300000);
    memcpy(m.ram + TestMachine::kCode, sum_of_pieces().data(), sum_of_pieces().size());
    for (int run = 0; run < 3000; run++) {
      if (run % 40 == 0) calls.choose();
      if (random() % 4 == 0) pieces.change_any();
      if (random() % 50 == 0)
        for (int i = 0; i < 100; i++) pieces.change_any();
      ASSERT_TRUE(calls.run());
      ASSERT_EQ(calls.sum(), calls.expected()) << "run " << run << ", off: " << off;
    }
  }
}

// A TestMachine's other vCPU, as its first one is at the beginning.
class SecondVcpu {
 public:
  explicit SecondVcpu(TestMachine& m) : machine_(m) {
    vcpu = Vcpu::create(*m.vm, 1, static_cast<kvm_run*>(page_));
    {
      std::lock_guard lock(m.vm->vcpus_mutex);
      m.vm->vcpus.push_back(vcpu.get());
    }
    vcpu->cpuid = m.vcpu->cpuid;
    for (unsigned i = 0; i < std::size(vcpu->segment); i++) vcpu->segment[i] = m.vcpu->segment[i];
    vcpu->cr0 = m.vcpu->cr0, vcpu->cr3 = m.vcpu->cr3, vcpu->cr4 = m.vcpu->cr4, vcpu->efer = m.vcpu->efer, vcpu->xcr0 = m.vcpu->xcr0;
    vcpu->mp_state = 0;
    vcpu->gpr[kRsp] = TestMachine::kStackTop - 0x10000;
    vcpu->set_rflags(2);
    vcpu->state_changed();
  }
  ~SecondVcpu() {
    {
      std::lock_guard lock(machine_.vm->vcpus_mutex);
      machine_.vm->vcpus.pop_back();
    }
    vcpu.reset();
    munmap(page_, 12288);
  }
  SecondVcpu(const SecondVcpu&) = delete;
  SecondVcpu& operator=(const SecondVcpu&) = delete;

  std::unique_ptr<Vcpu> vcpu;

 private:
  TestMachine& machine_;
  void* page_ = mmap(nullptr, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
};

// One vCPU links jumps that the other has run through.
TEST_F(Unseen, ChangesAreFoundByEachOfTwoVcpus) {
  TestMachine& m = machine;
  std::mt19937 random(8);
  Pieces pieces(m.ram, 50, random);
  memcpy(m.ram + TestMachine::kCode, sum_of_pieces().data(), sum_of_pieces().size());
  SecondVcpu second(m);
  Calls calls[] = {{m, *m.vcpu, pieces, 0x300000}, {m, *second.vcpu, pieces, 0x310000}};
  for (int round = 0; round < 2000; round++) {
    if (round % 40 == 0) calls[0].choose();
    if (round % 56 == 0) calls[1].choose();
    if (random() % 3 == 0) pieces.change_any();
    if (random() % 50 == 0)
      for (int i = 0; i < 100; i++) pieces.change_any();
    bool other = false;
    std::thread thread([&] { other = calls[1].run(); });
    const bool ran = calls[0].run();
    thread.join();
    ASSERT_TRUE(ran && other);
    for (const Calls& c : calls) ASSERT_EQ(c.sum(), c.expected()) << "round " << round << ", vCPU " << (&c - calls);
  }
}

// At 4 MiB: goes to 1 KiB further in its page, if RDI says so; what it looks at there for its flags is not what is overwritten. The first vCPU has been there, and jumps there from here when the second one has been here.
GUEST_CODE(goes_further, "cmp dword ptr [rdi], 0\n jne 1f\n mov eax, 5\n ret\n .skip 1009\n 1: xor ecx, ecx\n .skip 128, 0x90\n mov eax, 1\n ret")
GUEST_CODE(links_late,
           "mov rsi, 0x400400\n call rsi\n mov dword ptr [0x300000], 1\n 1: cmp dword ptr [0x300008], 0\n je 1b\n"
           "mov rdi, 0x300000\n mov rsi, 0x400000\n call rsi\n mov dword ptr [0x300010], 1\n hlt")
GUEST_CODE(goes_by_the_link,
           "mov rdi, 0x300100\n mov rsi, 0x400000\n call rsi\n mov ebx, eax\n mov dword ptr [0x300008], 1\n 1: cmp dword ptr [0x300010], 0\n je 1b\n"
           "mov rdi, 0x300000\n call rsi\n hlt")

// A link that one vCPU makes to what it need not know to be overwritten does not lead another one there, which does have to.
TEST_F(Unseen, ALinkLeadsNobodyToWhatOnlyItsMakerMayRun) {
  SecondVcpu second(machine);
  memcpy(machine.ram + kFunctions, goes_further().data(), goes_further().size());
  memcpy(machine.ram + TestMachine::kCode + 0x1000, goes_by_the_link().data(), goes_by_the_link().size());
  // It comes to the page for the first time, and makes what is at its beginning.
  second.vcpu->rip = TestMachine::kCode + 0x1000;
  machine.at(0x300010) = 1;
  EXPECT_EQ(second.vcpu->run_guest(), 0);
  machine.at(0x300008) = machine.at(0x300010) = 0;
  std::thread first([&] { EXPECT_EQ(machine.run(links_late()), kHalted); });
  while (!__atomic_load_n(machine.ram + 0x300000, __ATOMIC_ACQUIRE)) std::this_thread::yield();
  ASSERT_EQ(machine.ram[kFunctions + 1154], 0xb8);
  machine.ram[kFunctions + 1154 + 1] = 2;
  second.vcpu->rip = TestMachine::kCode + 0x1000;
  EXPECT_EQ(second.vcpu->run_guest(), 0);
  EXPECT_EQ(second.vcpu->run->exit_reason, kHalted);
  first.join();
  EXPECT_EQ(second.vcpu->gpr[kRbx], 5u);
  EXPECT_EQ(second.vcpu->gpr[kRax], 2u);
}

GUEST_CODE(calls_in_another_slot, "xor edx, edx\n mov ebx, 0x1000000\n mov ecx, 50\n 1: call rbx\n add edx, eax\n add rbx, 4096\n dec ecx\n jnz 1b\n hlt")

// What is compared at the beginning of KVM_RUN may go at the same moment, slot and memory: who takes the slot away may then unmap it.
TEST_F(Unseen, SlotsGoWhileDoubtsAreSettled) {
  constexpr size_t kSize = 50 * 4096;
  constexpr uint64_t kGpa = 0x1000000;
  const uint8_t code[] = {0xb8, 1, 0, 0, 0, 0xc3};  // mov eax, 1; ret
  auto map = [&](void* at) {
    auto* place = static_cast<uint8_t*>(mmap(at, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0));
    for (size_t i = 0; i < kSize; i += 4096) memcpy(place + i, code, sizeof code);
    return place;
  };
  uint8_t* const place = map(nullptr);
  kvm_userspace_memory_region region{1, 0, kGpa, kSize, reinterpret_cast<uint64_t>(place)};
  ASSERT_EQ(machine.vm->set_memory_region(region), 0);
  memcpy(machine.ram + TestMachine::kCode, calls_in_another_slot().data(), calls_in_another_slot().size());
  std::atomic<bool> over{false};
  unsigned halts = 0;
  std::thread vcpu([&] {
    while (!over) {
      machine.vcpu->rip = TestMachine::kCode;
      machine.vcpu->gpr[kRsp] = TestMachine::kStackTop;
      if (machine.go() != kHalted) continue;  // the slot was not there
      EXPECT_EQ(machine.vcpu->gpr[kRdx], 50u);
      halts++;
    }
  });
  for (int round = 0; round < 1000; round++) {
    usleep(300);
    region.memory_size = 0;
    EXPECT_EQ(machine.vm->set_memory_region(region), 0);
    munmap(place, kSize);
    region.memory_size = kSize;
    EXPECT_EQ(map(place), place);
    EXPECT_EQ(machine.vm->set_memory_region(region), 0);
  }
  over = true;
  vcpu.join();
  EXPECT_GT(halts, 0u);
  region.memory_size = 0;
  machine.vm->set_memory_region(region);
  munmap(place, kSize);
}

// What is looked at is what may run: with the switch off the page as a whole.
TEST_F(Unseen, CodeThatNothingLeadsToIsNotLookedAtButWithTheSwitchOff) {
  for (bool on : {true, false}) {
    SwitchesOff off(on ? "" : "settled-doubts");
    TestMachine m;
    std::mt19937 random(9);
    Pieces pieces(m.ram, 50, random);
    memcpy(m.ram + TestMachine::kCode, sum_of_pieces().data(), sum_of_pieces().size());
    auto run = [&](unsigned piece) {
      m.at(0x300008) = Pieces::address(piece);
      m.vcpu->rip = TestMachine::kCode;
      m.vcpu->gpr[kRsi] = 0x300008, m.vcpu->gpr[kRcx] = 1, m.vcpu->gpr[kRdi] = 0x300000;
      ASSERT_EQ(m.go(), kHalted);
      ASSERT_EQ(m.at<uint32_t>(0x300000), pieces.sum_from(piece));
    };
    const unsigned last = Pieces::kPieces - 1, first = 0;  // of one page: nothing leads from one to the other as long as the first returns
    while (pieces.sum_from(first) == pieces.sum_from(last) || m.ram[Pieces::address(first) + 5] != 0xc3) pieces.change(first);
    run(first), run(last);
    const uint64_t before = m.vm->counters->code_pages_invalidated;
    pieces.change(first);
    run(last);
    EXPECT_EQ(m.vm->counters->code_pages_invalidated - before, m.vm->off & kSwitchSettledDoubts ? 1u : 0u);
    run(first);
    EXPECT_EQ(m.vm->counters->code_pages_invalidated - before, 1u);
  }
}

// Behind each doubt that is not settled, twice as many are as before: as long as what is sure comes back, and is much.
TEST(SureCode, SettlesDoubtsOfCodeThatRunsAgainAndAgain) {
  auto settled_in_a_row = [](SureCode& sure, std::vector<PageSource>& pages, unsigned used) {
    for (unsigned i = 0; i < used; i++) sure.add(pages[i], 1);
    unsigned row = 0;
    while (sure.to_be_settled(0)) row++;
    sure.clear();
    return row;
  };
  std::vector<PageSource> pages(400);
  for (unsigned i = 0; i < pages.size(); i++) pages[i].number = i;
  auto sure = std::make_unique<SureCode>();
  for (unsigned expected : {1u, 3u, 7u, 15u, 15u}) EXPECT_EQ(settled_in_a_row(*sure, pages, 100), expected);
  EXPECT_EQ(settled_in_a_row(*sure, pages, 10), 0u);  // little: each page by itself
  EXPECT_EQ(settled_in_a_row(*sure, pages, 400), 7u);
  EXPECT_EQ(settled_in_a_row(*sure, pages, 50), 1u);  // most of it has not come back
  // More and more is used.
  for (unsigned i = 0; i < 50; i++) sure->add(pages[i], 1);
  EXPECT_TRUE(sure->to_be_settled(0));
  for (unsigned i = 50; i < 101; i++) sure->add(pages[i], 1);
  EXPECT_FALSE(sure->to_be_settled(0));
  sure->clear();
  // Another vCPU has linked a jump, to what this one may not have looked at.
  for (unsigned i = 0; i < 50; i++) sure->add(pages[i], 1);
  EXPECT_TRUE(sure->to_be_settled(0));
  EXPECT_FALSE(sure->to_be_settled(1));
  sure->clear();
  for (unsigned i = 0; i < 50; i++) sure->add(pages[i], 1);
  EXPECT_TRUE(sure->to_be_settled(1));
}

}  // namespace
}  // namespace vireo::softkvm
