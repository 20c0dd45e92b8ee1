// SPDX-License-Identifier: Apache-2.0
// Near branches to where no code can be: #GP is the branch's own, and rSP is as before it. Spec: SDM vol 2, CALL, JMP, RET, Jcc, LOOP: the target is checked
// before anything is committed. An AMD CPU (family 26) leaves RIP and RSP so, too.
#include <gtest/gtest.h>

#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kNoCode = 0x0000800000000000;  // the first address that is not canonical

// What the frame of #GP says.
struct Frame {
  uint64_t rip, rsp;
};
class BranchMachine : public FaultMachine {
 public:
  Frame fault_of(std::span<const uint8_t> code, unsigned vector = kGP) {
    EXPECT_EQ(vector_of(code), vector);
    const uint64_t frame = vcpu->gpr[kRsp];  // error code, RIP, CS, RFLAGS, RSP, SS
    return {at(frame + 8), at(frame + 32)};
  }
  void use_57_bits() {
    at(0x5000) = 0x1007;
    vcpu->cr3 = 0x5000;
    vcpu->cr4 |= kCr4La57;
    vcpu->linear_bits = 57;
    vcpu->state_changed();
  }
};

// Of code whose last instruction is the branch.
void expect_refused(std::span<const uint8_t> code, unsigned length, uint64_t rsp, uint64_t rax = kNoCode, bool wide = false) {
  BranchMachine m;
  if (wide) m.use_57_bits();
  m.vcpu->gpr[kRax] = rax;
  const Frame frame = m.fault_of(code);
  EXPECT_EQ(frame.rip, TestMachine::kCode + code.size() - length);
  EXPECT_EQ(frame.rsp, rsp);
}

GUEST_CODE(jump_register, "jmp rax")
GUEST_CODE(jump_displaced, "mov r11, rax; jmp r11")
GUEST_CODE(jump_memory, "mov edi, 0x300000; mov [rdi], rax; jmp [rdi]")
TEST(NearBranch, AJumpThatIsNotCanonicalFaultsAtTheJump) {
  expect_refused(jump_register(), 2, TestMachine::kStackTop);
  expect_refused(jump_displaced(), 3, TestMachine::kStackTop);
  expect_refused(jump_memory(), 2, TestMachine::kStackTop);
}

GUEST_CODE(call_register, "call rax")
GUEST_CODE(call_memory, "push rax; call [rsp]")
TEST(NearBranch, ACallThatIsNotCanonicalFaultsAtTheCallAndLeavesRsp) {
  expect_refused(call_register(), 2, TestMachine::kStackTop);
  expect_refused(call_memory(), 3, TestMachine::kStackTop - 8);
}

GUEST_CODE(plain_return, "push rax; ret")
GUEST_CODE(return_and_pop, "push rax; ret 0x18")
GUEST_CODE(return_and_pop_most, "push rax; ret 0xffff")
TEST(NearBranch, AReturnThatIsNotCanonicalFaultsAtTheReturnAndLeavesRsp) {
  expect_refused(plain_return(), 1, TestMachine::kStackTop - 8);
  expect_refused(return_and_pop(), 3, TestMachine::kStackTop - 8);
  expect_refused(return_and_pop_most(), 3, TestMachine::kStackTop - 8);
}

GUEST_CODE(stepped_jump, "push 0x302; popfq; jmp rax")
GUEST_CODE(stepped_return, "push rax; push 0x302; popfq; ret 8")
TEST(NearBranch, IsRefusedInTheSameWayUnderSingleStepping) {
  expect_refused(stepped_jump(), 2, TestMachine::kStackTop);
  expect_refused(stepped_return(), 3, TestMachine::kStackTop - 8);
}

TEST(NearBranch, With57BitsOtherAddressesAreNotCanonical) {
  constexpr uint64_t kNoCode57 = 0x0100000000000000;
  expect_refused(jump_register(), 2, TestMachine::kStackTop, kNoCode57, true);
  expect_refused(call_register(), 2, TestMachine::kStackTop, kNoCode57, true);
  expect_refused(return_and_pop(), 3, TestMachine::kStackTop - 8, kNoCode57, true);
  // What was none is an address there, of a page that is absent: the branch is done.
  BranchMachine m;
  m.use_57_bits();
  m.vcpu->gpr[kRax] = kNoCode;
  const Frame frame = m.fault_of(call_register(), kPFv);
  EXPECT_EQ(frame.rip, kNoCode);
  EXPECT_EQ(frame.rsp, TestMachine::kStackTop - 8);
  EXPECT_EQ(m.vcpu->cr2, kNoCode);
}

// Branches that are taken well before one is not: the lookups in between leave nothing behind.
GUEST_CODE(many, "mov ecx, 100; lea rbx, [rip + 2f]; 1: call rbx; dec ecx; jnz 1b; push rax; 2: ret")
TEST(NearBranch, IsRefusedAlsoWhereTheSameReturnHasWorked) {
  expect_refused(many(), 1, TestMachine::kStackTop - 8);
}

// The last page of the lower half: what is beyond it is not canonical.
class EdgeMachine : public BranchMachine {
 public:
  static constexpr uint64_t kEdge = 0x00007ffffffff000;
  EdgeMachine() {
    at(0x1000 + 255 * 8) = 0x4007;
    at(0x4000 + 511 * 8) = 0x5007;
    at(0x5000 + 511 * 8) = 0x10007;
    at(0x10000 + 511 * 8) = 0x11007;
  }
  // Runs code that ends `behind` bytes before the page's end.
  Frame fault_at_edge(std::span<const uint8_t> code, unsigned behind = 0) {
    const uint64_t offset = 4096 - code.size() - behind;
    memcpy(ram + 0x11000 + offset, code.data(), code.size());
    vm->notice_write(ram + 0x11000, 4096);
    vcpu->rip = kEdge + offset;
    vcpu->state_changed();
    EXPECT_EQ(go(), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(vcpu->rip, kHandlers + kGP * 16 + 1);
    const uint64_t frame = vcpu->gpr[kRsp];
    return {at(frame + 8), at(frame + 32)};
  }
};

GUEST_CODE(edge_jump, ".byte 0xeb, 0x20, 0x90, 0x90")
GUEST_CODE(edge_jump_if, ".byte 0x39, 0xc0, 0x74, 0x20, 0x90, 0x90")  // cmp eax, eax; je
GUEST_CODE(edge_call, ".byte 0xe8, 0x20, 0, 0, 0, 0x90, 0x90")
GUEST_CODE(edge_loop, ".byte 0xe2, 0x20, 0x90, 0x90")
GUEST_CODE(edge_rcx_zero, ".byte 0x31, 0xc9, 0xe3, 0x20, 0x90, 0x90")  // xor ecx, ecx; jrcxz
GUEST_CODE(edge_nothing, "nop; nop")
TEST(NearBranch, RelativeOnesFaultAtTheBranchToo) {
  constexpr uint64_t kEnd = EdgeMachine::kEdge + 4096;
  for (bool step : {false, true}) {
    auto refused = [&](std::span<const uint8_t> code, unsigned from_end) {
      EdgeMachine m;
      m.vcpu->gpr[kRcx] = 5;
      engine_of(*m.vcpu).step_next = step;  // the first instruction runs in step mode
      const Frame frame = m.fault_at_edge(code);
      EXPECT_EQ(frame.rip, kEnd - from_end) << step;
      EXPECT_EQ(frame.rsp, TestMachine::kStackTop) << step;
      return m.vcpu->gpr[kRcx];
    };
    refused(edge_jump(), 4);
    refused(edge_jump_if(), 4);
    refused(edge_call(), 7);
    EXPECT_EQ(refused(edge_loop(), 4), 5u);
    refused(edge_rcx_zero(), 4);
    refused(edge_nothing(), 0);  // it is the next instruction that is nowhere
  }
}

}  // namespace
}  // namespace vireo::softkvm
