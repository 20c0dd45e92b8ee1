// SPDX-License-Identifier: Apache-2.0
// MSRs: what is reserved, who may write. Expected values: Intel SDM vol 4, vol 3 11.11, 11.12, 17.17.3.
#include <gtest/gtest.h>

#include "softkvm/cpu/msr_index.h"
#include "softkvm/cpu/msrs.h"
#include "softkvm/cpu/system_fake.h"

namespace vireo::softkvm {
namespace {

using namespace msr_index;

bool write(Machine& m, uint32_t index, uint64_t value) { return write_msr(m.v, index, value, false); }
uint64_t read(Machine& m, uint32_t index) {
  uint64_t value = 0xdead;
  EXPECT_TRUE(read_msr(m.v, index, value, false)) << std::hex << index;
  return value;
}

TEST(Msr, AddressesMustBeCanonical) {
  Machine m;
  m.long_mode(0);
  for (uint32_t index : {kFsBase, kGsBase, kKernelGsBase, kLstar, kCstar, kSysenterEip, kSysenterEsp}) {
    EXPECT_FALSE(write(m, index, 0x0000800000000000)) << std::hex << index;
    EXPECT_TRUE(write(m, index, 0xffff800000000000)) << std::hex << index;
    EXPECT_EQ(read(m, index), 0xffff800000000000u);
  }
  EXPECT_EQ(m.v.segment[kFS].base, 0xffff800000000000u);
  m.set_feature(kCpuidLa57);  // what the CPU could have counts, not what CR4 has
  EXPECT_TRUE(write(m, kLstar, 0x0000800000000000));
}

TEST(Msr, SysenterOnAmdKeeps32Bits) {
  Machine m;
  m.long_mode(0);
  m.v.vendor_is_amd = true;
  EXPECT_TRUE(write(m, kSysenterEip, 0x123456789));
  EXPECT_EQ(read(m, kSysenterEip), 0x23456789u);
}

TEST(Msr, EferHoldsToCpuidAndPaging) {
  Machine m;
  m.long_mode(0);
  EXPECT_FALSE(write(m, kEfer, kEferLme | kEferSvme));
  EXPECT_FALSE(write(m, kEfer, kEferSce));  // LME while paging
  EXPECT_TRUE(write(m, kEfer, kEferLme | kEferNx));
  EXPECT_EQ(m.v.efer, kEferLme | kEferLma | kEferNx);  // LMA is not written
  m.set_feature(kCpuidNx, false);
  EXPECT_FALSE(write(m, kEfer, kEferLme | kEferNx));
}

TEST(Msr, PatAndMtrrTypes) {
  Machine m;
  m.long_mode(0);
  EXPECT_TRUE(write(m, kPat, 0x0007010600070106));
  EXPECT_FALSE(write(m, kPat, 2));
  EXPECT_FALSE(write(m, kPat, 3ull << 56));
  EXPECT_FALSE(write(m, kPat, 8));
  EXPECT_TRUE(write(m, kMtrrDefType, 0xc06));
  EXPECT_FALSE(write(m, kMtrrDefType, 0x1000));
  EXPECT_FALSE(write(m, kMtrrDefType, 2));
  EXPECT_TRUE(write(m, kMtrrFix4k7, 0x0606060606060606));
  EXPECT_EQ(m.v.msr.mtrr_fixed[10], 0x0606060606060606u);
  EXPECT_FALSE(write(m, kMtrrFix64k, 7));
  EXPECT_TRUE(write(m, kMtrrPhysbase0, 0x80000006));
  EXPECT_FALSE(write(m, kMtrrPhysbase0, 1ull << 40));
  EXPECT_TRUE(write(m, 0x20f, 0xff80000800));
  EXPECT_FALSE(write(m, 0x20f, 0x400));
  EXPECT_FALSE(write(m, kMtrrCap, 0));
  EXPECT_EQ(read(m, kMtrrCap), 0x508u);
}

TEST(Msr, TscAndAdjustMoveTogether) {
  Machine m;
  m.long_mode(0);
  m.tsc = 5000;
  EXPECT_TRUE(write(m, kTsc, 100));
  EXPECT_EQ(guest_tsc(m.v), 100u);
  EXPECT_EQ(read(m, kTscAdjust), static_cast<uint64_t>(100 - 5000));
  EXPECT_TRUE(write(m, kTscAdjust, 0));
  EXPECT_EQ(guest_tsc(m.v), 5000u);
}

TEST(Msr, MachineCheckBanks) {
  Machine m;
  m.long_mode(0);
  m.v.msr.mcg_cap = 10 | 1 << 8;
  EXPECT_TRUE(write(m, kMc0Ctl, ~0ull));
  EXPECT_FALSE(write(m, kMc0Ctl, 5));
  EXPECT_FALSE(write(m, kMc0Ctl + 1, 1));  // a status can only be cleared
  EXPECT_TRUE(write(m, kMc0Ctl + 1, 0));
  EXPECT_FALSE(write(m, kMc0Ctl + 40, 0));  // bank 10
  EXPECT_FALSE(write(m, kMcgCap, 0));
  EXPECT_TRUE(write(m, kMcgCtl, ~0ull));
}

TEST(Msr, SpeculationControls) {
  Machine m;
  m.long_mode(0);
  EXPECT_TRUE(write(m, kSpecCtrl, 1));
  EXPECT_FALSE(write(m, kSpecCtrl, 8));
  EXPECT_TRUE(write(m, kPredCmd, 1));
  uint64_t value;
  EXPECT_FALSE(read_msr(m.v, kPredCmd, value, false));  // write-only
  EXPECT_FALSE(write(m, kArchCapabilities, 0));
  EXPECT_TRUE(write_msr(m.v, kArchCapabilities, kArchCapabilitiesValue, true));
  EXPECT_EQ(read(m, kArchCapabilities), kArchCapabilitiesValue);
}

// Spec: api.rst, KVM_CAP_ENFORCE_PV_FEATURE_CPUID: "otherwise a guest may use the paravirtual features regardless of what has been exposed".
TEST(Msr, ParavirtualOnesAreThereUnlessCpuidIsEnforced) {
  Machine m;
  m.long_mode(0);
  for (uint32_t& w : m.cpuid.words) w = 0;
  for (uint32_t index : {kSystemTimeOld, kKvmSystemTime, kKvmStealTime}) {
    m.v.paravirtual_enforced = false;
    EXPECT_TRUE(write(m, index, 0x1001)) << std::hex << index;
    EXPECT_EQ(read(m, index), 0x1001u);
    m.v.paravirtual_enforced = true;
    EXPECT_FALSE(write(m, index, 0x2001)) << std::hex << index;
  }
  m.v.paravirtual_enforced = false;
  EXPECT_FALSE(write(m, kKvmPvEoi, 0x1001));  // nobody would look at it
}

TEST(Msr, UnknownIsRefused) {
  Machine m;
  m.long_mode(0);
  uint64_t value;
  for (uint32_t index : {0x12345678u, 0x480u, 0xc0010114u, 0x38fu}) {
    EXPECT_FALSE(read_msr(m.v, index, value, false)) << std::hex << index;
    EXPECT_FALSE(write(m, index, 0));
  }
}

TEST(Msr, EveryListedOneCanBeSavedAndRestored) {
  Machine m;
  m.long_mode(0);
  m.v.msr.mcg_cap = 10 | 1 << 8;
  reset_cpu(m.v);
  for (uint32_t index : msr_index_list()) {
    uint64_t value;
    EXPECT_TRUE(read_msr(m.v, index, value, true)) << std::hex << index;
    EXPECT_TRUE(write_msr(m.v, index, value, true)) << std::hex << index << " " << value;
  }
  for (uint32_t index : msr_feature_index_list()) {
    uint64_t value;
    EXPECT_TRUE(read_feature_msr(index, value)) << std::hex << index;
  }
}

TEST(Rdmsr, LeavesToUserSpaceWhereAsked) {
  Machine m;
  m.long_mode(0);
  m.v.gpr[kRcx] = 0x12345678;
  EXPECT_EQ(m.execute({0x0f, 0x32}), Outcome::kFault);
  m.v.msr_exit_reasons = KVM_MSR_EXIT_REASON_UNKNOWN;
  ASSERT_EQ(m.execute({0x0f, 0x32}), Outcome::kExit);
  EXPECT_EQ(m.run.exit_reason, static_cast<uint32_t>(KVM_EXIT_X86_RDMSR));
  EXPECT_EQ(m.run.msr.index, 0x12345678u);
  m.run.msr.data = 0x1122334455667788;
  ASSERT_EQ(m.execute({0x0f, 0x32}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRax], 0x55667788u);
  EXPECT_EQ(m.v.gpr[kRdx], 0x11223344u);
  m.filtered_msrs.insert(kLstar);
  m.v.gpr[kRcx] = kLstar;
  EXPECT_EQ(m.execute({0x0f, 0x30}), Outcome::kFault);  // filtered, and no exit asked for
  m.v.msr_exit_reasons = KVM_MSR_EXIT_REASON_FILTER;
  ASSERT_EQ(m.execute({0x0f, 0x30}), Outcome::kExit);
  EXPECT_EQ(m.run.msr.reason, static_cast<uint32_t>(KVM_MSR_EXIT_REASON_FILTER));
  m.run.msr.error = 1;
  EXPECT_EQ(m.execute({0x0f, 0x30}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kGP);
}

}  // namespace
}  // namespace vireo::softkvm
