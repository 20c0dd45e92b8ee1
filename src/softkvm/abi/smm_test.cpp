// SPDX-License-Identifier: Apache-2.0
// System management mode through the ABI: KVM_SMI, the second address space, and code in memory that both spaces have. Where the kernel's
// KVM has SMM, it judges.
// Spec: KVM API, 4.98, 4.35 (address spaces), 8; AMD APM vol 2, 10.2 (save area), 10.3.
#include <algorithm>
#include <cstring>

#include "softkvm/abi/backend_test.h"

namespace vireo::softkvm::test {
namespace {

// SMRAM lies at the SMBASE of reset, in address space 1 only; below it both spaces have the same memory.
constexpr uint64_t kSmbase = 0x30000, kSmramSize = 0x10000;
constexpr unsigned kSpace1 = 1u << 16;

class Smm : public ::testing::TestWithParam<const Backend*> {
 protected:
  void SetUp() override {
    m_ = std::make_unique<Machine>(*GetParam());
    ASSERT_EQ(m_->vm(KVM_CHECK_EXTENSION, static_cast<uintptr_t>(KVM_CAP_X86_SMM)), 1);
    ASSERT_EQ(m_->vm(KVM_CHECK_EXTENSION, static_cast<uintptr_t>(KVM_CAP_MULTI_ADDRESS_SPACE)), 2);
    smram_ = static_cast<uint8_t*>(mmap(nullptr, kSmramSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_EQ(slot(kSpace1, 0, kSmbase, m_->memory), 0);
    ASSERT_EQ(slot(kSpace1 + 1, kSmbase, kSmramSize, smram_), 0);
  }
  void TearDown() override {
    m_.reset();
    if (smram_) munmap(smram_, kSmramSize);
  }
  int slot(unsigned number, uint64_t gpa, uint64_t size, uint8_t* host) {
    kvm_userspace_memory_region region{number, 0, gpa, size, reinterpret_cast<uintptr_t>(host)};
    return m_->vm(KVM_SET_USER_MEMORY_REGION, &region);
  }
  void handler(std::initializer_list<uint8_t> code) { std::copy(code.begin(), code.end(), smram_ + 0x8000); }
  // Runs to the next port write: its port and byte.
  std::pair<unsigned, unsigned> next_write() {
    EXPECT_EQ(m_->vcpu(KVM_RUN), 0);
    EXPECT_EQ(m_->run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
    return {m_->run->io.port, reinterpret_cast<uint8_t*>(m_->run)[m_->run->io.data_offset]};
  }
  template <class T>
  T saved(unsigned offset) {  // as the manual counts: from SMBASE + 0x8000
    T value;
    memcpy(&value, smram_ + 0x8000 + offset, sizeof value);
    return value;
  }
  bool in_smm() {
    kvm_vcpu_events events{};
    EXPECT_EQ(m_->vcpu(KVM_GET_VCPU_EVENTS, &events), 0);
    EXPECT_EQ(!!(m_->run->flags & KVM_RUN_X86_SMM), events.smi.smm != 0);
    return events.smi.smm;
  }

  std::unique_ptr<Machine> m_;
  uint8_t* smram_ = nullptr;
};

std::vector<const Backend*> backends() {
  std::vector<const Backend*> all{&kSoftkvm};
  if (kernel_present() && Machine(kKernel).vcpu(KVM_SMI) == 0) all.push_back(&kKernel);  // the kernel can be built without SMM
  return all;
}

INSTANTIATE_TEST_SUITE_P(On, Smm, ::testing::ValuesIn(backends()), [](const auto& info) { return info.param->name; });

using Write = std::pair<unsigned, unsigned>;

TEST_P(Smm, AnSmiRunsTheHandlerAndRsmGoesBack) {
  m_->real_mode(0x1000, {0xb0, 0x11, 0xe6, 0x80, 0xeb, 0xfa});  // mov al,11; out 80,al; jmp
  handler({0xb0, 0x5a, 0xe6, 0x81, 0x0f, 0xaa});                // mov al,5a; out 81,al; rsm
  EXPECT_EQ(next_write(), Write(0x80, 0x11));
  EXPECT_FALSE(in_smm());
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  EXPECT_EQ(next_write(), Write(0x81, 0x5a));
  EXPECT_TRUE(in_smm());
  EXPECT_EQ(saved<uint64_t>(0x7f78), 0x1004u);                 // RIP
  EXPECT_EQ(saved<uint64_t>(0x7ff8) & 0xff, 0x11u);            // RAX
  EXPECT_EQ(saved<uint32_t>(0x7f00), kSmbase);
  EXPECT_TRUE(std::all_of(m_->memory + kSmbase, m_->memory + kSmbase + kSmramSize, [](uint8_t b) { return b == 0; })) << "it is not SMRAM";
  kvm_regs regs;
  ASSERT_EQ(m_->vcpu(KVM_GET_REGS, &regs), 0);
  EXPECT_EQ(regs.rip >> 4, 0x8000u >> 4);
  EXPECT_EQ(next_write(), Write(0x80, 0x11));
  EXPECT_FALSE(in_smm());
}

TEST_P(Smm, AnSmiInSmmWaitsForRsm) {
  m_->real_mode(0x1000, {0xe6, 0x80, 0xeb, 0xfc});
  handler({0xe6, 0x81, 0x0f, 0xaa});
  next_write();
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  EXPECT_EQ(next_write().first, 0x81u);
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  EXPECT_EQ(next_write().first, 0x81u);
  EXPECT_EQ(next_write().first, 0x80u);
}

TEST_P(Smm, DevicesSeePlainAddresses) {
  m_->real_mode(0x1000, {0xe6, 0x80, 0xeb, 0xfc});
  // mov al,[500000]; mov [500004],al; rsm
  handler({0x67, 0xa0, 0x00, 0x00, 0x50, 0x00, 0x67, 0xa2, 0x04, 0x00, 0x50, 0x00, 0x0f, 0xaa});
  next_write();
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  ASSERT_EQ(m_->vcpu(KVM_RUN), 0);
  ASSERT_EQ(m_->run->exit_reason, static_cast<uint32_t>(KVM_EXIT_MMIO));
  EXPECT_EQ(m_->run->mmio.phys_addr, 0x500000u);
  m_->run->mmio.data[0] = 0x77;
  ASSERT_EQ(m_->vcpu(KVM_RUN), 0);
  ASSERT_EQ(m_->run->exit_reason, static_cast<uint32_t>(KVM_EXIT_MMIO));
  EXPECT_EQ(m_->run->mmio.phys_addr, 0x500004u);
  EXPECT_EQ(m_->run->mmio.data[0], 0x77);
  EXPECT_EQ(next_write().first, 0x80u);
}

// Code that has run, overwritten by its alias in the other space.
TEST_P(Smm, SmmOverwritesTheCodeThatItInterrupts) {
  m_->real_mode(0x1000, {0xb0, 0x11, 0xe6, 0x80, 0xeb, 0xfa});
  handler({0xc6, 0x06, 0x01, 0x10, 0x22, 0x0f, 0xaa});  // mov byte [1001],22; rsm
  EXPECT_EQ(next_write(), Write(0x80, 0x11));
  EXPECT_EQ(next_write(), Write(0x80, 0x11));
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  EXPECT_EQ(next_write(), Write(0x80, 0x22));
}

TEST_P(Smm, SmmCodeIsOverwrittenFromOutside) {
  const uint8_t shared[] = {0xb0, 0x33, 0xe6, 0x82, 0x0f, 0xaa};  // mov al,33; out 82,al; rsm
  memcpy(m_->memory + 0x2000, shared, sizeof shared);
  m_->real_mode(0x1000, {0xe6, 0x80, 0xc6, 0x06, 0x01, 0x20, 0x44, 0xe6, 0x83, 0xeb, 0xf5});  // out; mov byte [2001],44; out; jmp
  handler({0xea, 0x00, 0x20, 0x00, 0x00});                                                     // jmp 0:2000
  next_write();
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  EXPECT_EQ(next_write(), Write(0x82, 0x33));
  EXPECT_EQ(next_write().first, 0x83u);
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  EXPECT_EQ(next_write(), Write(0x82, 0x44));
}

// The same address is another memory in the other space, with another program.
TEST_P(Smm, TheSpacesKeepTheirCodeApart) {
  const uint8_t outside[] = {0xe6, 0x80, 0xeb, 0xfc}, inside[] = {0xe6, 0x81, 0x0f, 0xaa};
  memcpy(m_->memory + kSmbase + 0x8000, outside, sizeof outside);
  memcpy(smram_ + 0x8000, inside, sizeof inside);
  m_->real_mode(0x1000, {0xea, 0x00, 0x80, 0x00, 0x30});  // jmp 3000:8000
  for (int i = 0; i < 3; i++) {
    EXPECT_EQ(next_write().first, 0x80u);
    ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
    EXPECT_EQ(next_write().first, 0x81u);
  }
}

TEST_P(Smm, SlotsOfTheSpacesDoNotMeet) {
  EXPECT_EQ(slot(kSpace1 + 2, 0x10000, 0x1000, smram_), -EEXIST);
  EXPECT_EQ(slot(2 * kSpace1, 0x1000000, 0x1000, smram_), -EINVAL) << "there is no third space";
  EXPECT_EQ(slot(kSpace1 + 1, kSmbase, 0, smram_), 0);
  EXPECT_EQ(slot(kSpace1 + 1, kSmbase, 0, smram_), -EINVAL) << "it is gone";
}

// An SMI that comes inside an NMI's handler: whether RSM leads back into it is part of the state. Spec: Intel SDM vol 3, 32.8; api.rst, 4.31.
TEST_P(Smm, NmisStayBlockedOverAnSmiInsideTheirHandler) {
  m_->real_mode(0x1000, {0xe6, 0x80, 0xeb, 0xfc});
  handler({0xe6, 0x81, 0x0f, 0xaa});
  next_write();
  kvm_vcpu_events events{};
  auto get = [&] { ASSERT_EQ(m_->vcpu(KVM_GET_VCPU_EVENTS, &events), 0); };
  auto set = [&] { ASSERT_EQ(m_->vcpu(KVM_SET_VCPU_EVENTS, &events), 0); };
  get();
  events.nmi.masked = 1;
  set();
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  EXPECT_EQ(next_write().first, 0x81u);
  get();
  EXPECT_EQ(events.nmi.masked, 1);
  EXPECT_EQ(events.smi.smm_inside_nmi, 1);
  EXPECT_EQ(next_write().first, 0x80u);
  get();
  EXPECT_EQ(events.nmi.masked, 1);
  EXPECT_EQ(events.smi.smm_inside_nmi, 0);

  events.nmi.masked = 0;
  set();
  ASSERT_EQ(m_->vcpu(KVM_SMI), 0);
  EXPECT_EQ(next_write().first, 0x81u);
  get();
  EXPECT_EQ(events.smi.smm_inside_nmi, 0);
  events.smi.smm_inside_nmi = 1;  // as another machine has saved it
  set();
  EXPECT_EQ(next_write().first, 0x80u);
  get();
  EXPECT_EQ(events.nmi.masked, 1);
}

}  // namespace
}  // namespace vireo::softkvm::test
