// SPDX-License-Identifier: Apache-2.0
// GS base of a thread that calls KVM_RUN. Spec: arch_prctl(2).
#include "softkvm/translate/host_gs_base.h"

#include <asm/prctl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

uint64_t gs_base() {
  uint64_t base = 0;
  syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
  return base;
}
void set_gs_base(const void* base) { syscall(SYS_arch_prctl, ARCH_SET_GS, base); }

GUEST_CODE(count_up, "inc dword ptr [0x300000]; hlt")

TEST(HostGsBase, IsTheVcpusWhateverTheThreadDoesWithIt) {
  std::thread([] {  // a thread of its own: it starts with zero
    TestMachine one, other;
    alignas(4096) static uint8_t own[8192];
    const void* const bases[] = {nullptr, nullptr, own, own, nullptr, reinterpret_cast<const void*>(0x10000), nullptr};
    uint32_t runs = 0;
    for (const void* base : bases) {
      if (base || runs > 1) set_gs_base(base);
      for (TestMachine* m : {&one, &other, &other}) ASSERT_EQ(m->run(count_up()), unsigned{KVM_EXIT_HLT});
      ++runs;
      EXPECT_EQ(one.at<uint32_t>(TestMachine::kData), runs);
      EXPECT_EQ(other.at<uint32_t>(TestMachine::kData), 2 * runs);
      if (base) {
        EXPECT_EQ(gs_base(), reinterpret_cast<uint64_t>(base));
      }
    }
    set_gs_base(nullptr);
  }).join();
}

TEST(HostGsBase, IsSetAgainWhereTheThreadChangesItBetweenRunsOfTheSameVcpu) {
  std::thread([] {
    TestMachine m;
    for (int i = 0; i < 3; i++) {
      ASSERT_EQ(m.run(count_up()), unsigned{KVM_EXIT_HLT});
      ASSERT_EQ(m.run(count_up()), unsigned{KVM_EXIT_HLT});
      set_gs_base(nullptr);  // the first reading through it faults
      ASSERT_EQ(m.run(count_up()), unsigned{KVM_EXIT_HLT});
      set_gs_base(m.ram);  // reading through it finds something else
      ASSERT_EQ(m.run(count_up()), unsigned{KVM_EXIT_HLT});
      EXPECT_EQ(gs_base(), reinterpret_cast<uint64_t>(m.ram));
      set_gs_base(nullptr);
    }
    EXPECT_EQ(m.at<uint32_t>(TestMachine::kData), 12u);
  }).join();
}

}  // namespace
}  // namespace vireo::softkvm
