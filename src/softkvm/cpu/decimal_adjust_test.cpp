// SPDX-License-Identifier: Apache-2.0
// The decimal adjustments against the bare CPU: every AX that matters and every CF and AF, run as 32-bit code of this process (Linux gives
// every 64-bit process the 32-bit user code segment 0x23).
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "softkvm/cpu/host_code_segment.h"
#include "softkvm/cpu/system_fake.h"

namespace vireo::softkvm {
namespace {

// In the block: +0 the saved RSP, +8 and +16 the far pointers there and back, then the code. The 32-bit part uses no stack.
asm(R"(
  .pushsection .rodata
  .code64
decimal_enter:                 # rdi: block
  push %rbx
  push %rbp
  mov %rsp, (%rdi)
  mov %rdi, %rbp
  mov %edx, %ecx               # count
  mov %esi, %esi               # inputs: ax, flags as LAHF gives them
  mov $0x2b, %eax
  mov %eax, %ds
  ljmp *8(%rbp)
  .code32
decimal_loop:
  mov (%esi), %eax
  mov %eax, %edx
  shr $8, %eax                 # bits 16-23, the flags, to AH
  sahf
  mov %edx, %eax
decimal_op:
  nop
  nop
  mov %ax, (%esi)
  lahf
  mov %ah, 2(%esi)
  lea 4(%esi), %esi
  loop decimal_loop
  ljmp *16(%ebp)
  .code64
decimal_leave:
  xor %eax, %eax
  mov %eax, %ds
  mov (%rbp), %rsp
  pop %rbp
  pop %rbx
  ret
decimal_end:
  .popsection
)");
extern "C" const uint8_t decimal_enter[], decimal_loop[], decimal_op[], decimal_leave[], decimal_end[];

struct Sample {
  uint16_t ax;
  uint8_t flags;
  uint8_t pad;
};

class BareCpu {
 public:
  BareCpu() {
    block_ = static_cast<uint8_t*>(mmap(nullptr, 4 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
    std::memcpy(block_ + 64, decimal_enter, static_cast<size_t>(decimal_end - decimal_enter));
    far_pointer(8, decimal_loop, 0x23);
    far_pointer(16, decimal_leave, 0x33);
  }
  ~BareCpu() { munmap(block_, 4 << 20); }
  void run(std::vector<uint8_t> op, std::vector<Sample>& samples) {
    uint8_t* at = block_ + 64 + (decimal_op - decimal_enter);
    at[0] = op[0];
    at[1] = op.size() > 1 ? op[1] : 0x90;
    uint8_t* data = block_ + 4096;
    ASSERT_LE(samples.size() * sizeof(Sample), (4u << 20) - 4096);
    std::memcpy(data, samples.data(), samples.size() * sizeof(Sample));
    reinterpret_cast<void (*)(uint8_t*, uint8_t*, size_t)>(block_ + 64)(block_, data, samples.size());
    std::memcpy(samples.data(), data, samples.size() * sizeof(Sample));
  }

 private:
  void far_pointer(unsigned at, const uint8_t* code, uint16_t selector) {
    uint32_t offset = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(block_ + 64 + (code - decimal_enter)));
    std::memcpy(block_ + at, &offset, 4);
    std::memcpy(block_ + at + 4, &selector, 2);
  }
  uint8_t* block_;
};

// `defined`: the flags the manual defines.
void compare(std::vector<uint8_t> op, uint8_t defined) {
  if (!host_runs_32_bit_code()) GTEST_SKIP() << "this host runs 64-bit programs only";
  std::vector<Sample> inputs;
  for (unsigned ax = 0; ax < 0x10000; ax += ax < 0x300 || ax >= 0xfe00 ? 1 : 37)
    for (unsigned f = 0; f < 4; f++) inputs.push_back({static_cast<uint16_t>(ax), static_cast<uint8_t>(2 | (f & 1 ? kCF : 0) | (f & 2 ? kAF : 0)), 0});
  std::vector<Sample> bare = inputs;
  BareCpu().run(op, bare);
  Machine m;
  m.protected_mode(3);
  for (size_t i = 0; i < inputs.size(); i++) {
    m.v.gpr[kRax] = inputs[i].ax;
    m.v.set_status_flags(inputs[i].flags);
    ASSERT_EQ(m.execute(op), Outcome::kNext);
    ASSERT_EQ(m.v.gpr[kRax] & 0xffff, bare[i].ax) << std::hex << inputs[i].ax << " flags " << int(inputs[i].flags);
    ASSERT_EQ(m.v.flag_ah & defined, bare[i].flags & defined) << std::hex << inputs[i].ax << " flags " << int(inputs[i].flags);
  }
}

constexpr uint8_t kSzp = kSF | kZF | kPF;

TEST(DecimalAdjust, DaaIsTheBareCpus) { compare({0x27}, kSzp | kCF | kAF); }
TEST(DecimalAdjust, DasIsTheBareCpus) { compare({0x2f}, kSzp | kCF | kAF); }
TEST(DecimalAdjust, AaaIsTheBareCpus) { compare({0x37}, kCF | kAF); }
TEST(DecimalAdjust, AasIsTheBareCpus) { compare({0x3f}, kCF | kAF); }
TEST(DecimalAdjust, AamIsTheBareCpus) { compare({0xd4, 10}, kSzp); }
TEST(DecimalAdjust, AadIsTheBareCpus) { compare({0xd5, 10}, kSzp); }
TEST(DecimalAdjust, AamByAnotherBase) { compare({0xd4, 7}, kSzp); }
TEST(DecimalAdjust, AadByAnotherBase) { compare({0xd5, 0x13}, kSzp); }

TEST(DecimalAdjust, AamByZeroIsDe) {
  Machine m;
  m.protected_mode(3);
  EXPECT_EQ(m.execute({0xd4, 0}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kDE);
}

TEST(DecimalAdjust, AreNotIn64BitMode) {
  Machine m;
  m.long_mode(3);
  for (uint8_t op : {0x27, 0x2f, 0x37, 0x3f}) {
    m.execute({op});
    EXPECT_EQ(m.v.fault.vector, kUD);
  }
}

}  // namespace
}  // namespace vireo::softkvm
