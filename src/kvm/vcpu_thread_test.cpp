// SPDX-License-Identifier: Apache-2.0
// Small real-mode guests on every hypervisor this machine has.
#include "kvm/vcpu_thread.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <condition_variable>
#include <cstring>
#include <mutex>

#include "kvm/system.h"
#include "kvm/variable_structs.h"

namespace vireo::kvm {
namespace {

constexpr uint64_t kRam = 1 << 20;
constexpr uint64_t kCode = 0x1000;

std::vector<const Api*> hypervisors() {
  std::vector<const Api*> all;
  if (System::open(kernel_api())) all.push_back(&kernel_api());
  if (soft_api()) all.push_back(soft_api());
  return all;
}

struct Recorder final : ExitHandler {
  void port_read(uint16_t port, std::span<std::byte> data) override { data[0] = std::byte{static_cast<uint8_t>(port)}; }
  void port_write(uint16_t port, std::span<const std::byte> data) override {
    std::lock_guard lock(mutex);
    ports.emplace_back(port, std::to_integer<uint8_t>(data[0]));
    changed.notify_all();
  }
  void mmio_read(uint64_t, std::span<std::byte> data) override { data[0] = std::byte{0x77}; }
  void mmio_write(uint64_t address, std::span<const std::byte> data) override {
    std::lock_guard lock(mutex);
    writes.emplace_back(address, std::to_integer<uint8_t>(data[0]));
  }
  void stopped(Vcpu&, StopReason why, const std::string&) override {
    std::lock_guard lock(mutex);
    reason = why;
    changed.notify_all();
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::pair<uint16_t, uint8_t>> ports;
  std::vector<std::pair<uint64_t, uint8_t>> writes;
  std::optional<StopReason> reason;
};

class VcpuThreadTest : public testing::TestWithParam<const Api*> {
 protected:
  void SetUp() override {
    memory = mmap(nullptr, kRam, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    system = std::move(*System::open(*GetParam()));
    auto made = system->create_vm();
    ASSERT_TRUE(made) << made.error().message;
    vm = std::move(*made);
    ASSERT_TRUE(vm->set_tss_address(0xfffbd000));
    ASSERT_TRUE(vm->set_memory(0, 0, kRam, memory));
  }
  void TearDown() override {
    thread.reset();
    vcpu.reset();
    vm.reset();
    munmap(memory, kRam);
  }
  void load(std::initializer_list<uint8_t> code) {
    memcpy(static_cast<uint8_t*>(memory) + kCode, code.begin(), code.size());
    auto made = vm->create_vcpu(0);
    ASSERT_TRUE(made) << made.error().message;
    vcpu = std::move(*made);
    auto sregs = vcpu->sregs();
    sregs->cs.base = 0;
    sregs->cs.selector = 0;
    ASSERT_TRUE(vcpu->set_sregs(*sregs));
    kvm_regs regs{};
    regs.rip = kCode;
    regs.rsp = 0x8000;
    regs.rflags = 2;
    ASSERT_TRUE(vcpu->set_regs(regs));
    thread = std::make_unique<VcpuThread>(*vcpu, recorder);
    ASSERT_TRUE(thread->start());
  }
  void* memory = nullptr;
  std::unique_ptr<System> system;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
  Recorder recorder;
  std::unique_ptr<VcpuThread> thread;
};

TEST_P(VcpuThreadTest, PortAccessesReachTheHandlerInOrder) {
  // in al,0x42; out 0x80,al; mov al,1; out 0x81,al; jmp $
  load({0xe4, 0x42, 0xe6, 0x80, 0xb0, 0x01, 0xe6, 0x81, 0xeb, 0xfe});
  thread->resume();
  std::unique_lock lock(recorder.mutex);
  recorder.changed.wait(lock, [&] { return recorder.ports.size() == 2; });
  EXPECT_EQ(recorder.ports[0], (std::pair<uint16_t, uint8_t>(0x80, 0x42)));
  EXPECT_EQ(recorder.ports[1], (std::pair<uint16_t, uint8_t>(0x81, 0x01)));
}

TEST_P(VcpuThreadTest, MmioIsReadAndWritten) {
  // mov ax,0xffff; mov ds,ax; mov al,[0x10]; inc al; mov [0x14],al; out 0x80,al; jmp $: 0xffff:0x10 is the first byte past RAM
  load({0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa0, 0x10, 0x00, 0xfe, 0xc0, 0xa2, 0x14, 0x00, 0xe6, 0x80, 0xeb, 0xfe});
  thread->resume();
  std::unique_lock lock(recorder.mutex);
  recorder.changed.wait(lock, [&] { return recorder.ports.size() == 1; });
  EXPECT_EQ(recorder.ports[0].second, 0x78);
  ASSERT_EQ(recorder.writes.size(), 1u);
  EXPECT_EQ(recorder.writes[0], (std::pair<uint64_t, uint8_t>(0x100004, 0x78)));
}

TEST_P(VcpuThreadTest, ASpinningGuestCanBePausedAndResumed) {
  // inc bx; out 0x80,al; jmp back
  load({0x43, 0xe6, 0x80, 0xeb, 0xfb});
  for (int round = 0; round < 3; round++) {
    thread->resume();
    {
      std::unique_lock lock(recorder.mutex);
      size_t before = recorder.ports.size();
      recorder.changed.wait(lock, [&] { return recorder.ports.size() > before + 2; });
    }
    thread->request_pause();
    thread->wait_paused();
    // A pause has no half-done instruction: each output was counted first, and none is open.
    auto regs = vcpu->regs();
    ASSERT_TRUE(regs);
    uint64_t done = recorder.ports.size();
    if (regs->rip == kCode) {
      EXPECT_EQ(regs->rbx, done);
    } else {
      EXPECT_TRUE(regs->rbx == done || regs->rbx == done + 1);
    }
  }
}

TEST_P(VcpuThreadTest, APauseAskedForBeforeTheThreadHasResumedEnds) {
  load({0xeb, 0xfe});
  for (int round = 0; round < 200; round++) {
    thread->resume();
    thread->request_pause();
    thread->wait_paused();
    ASSERT_TRUE(thread->paused());
  }
}

TEST_P(VcpuThreadTest, AHaltedVcpuCanBePausedAndEnded) {
  load({0xe6, 0x80, 0xf4, 0xeb, 0xfd});
  thread->resume();
  {
    std::unique_lock lock(recorder.mutex);
    recorder.changed.wait(lock, [&] { return !recorder.ports.empty(); });
  }
  thread->request_pause();
  thread->wait_paused();
  thread->resume();
  thread.reset();
}

TEST_P(VcpuThreadTest, ATripleFaultIsAShutdown) {
  // lidt of an empty table, then an undefined instruction: the double fault finds no gate either.
  load({0x0f, 0x01, 0x1e, 0x00, 0x20, 0x0f, 0x0b});
  thread->resume();
  std::unique_lock lock(recorder.mutex);
  recorder.changed.wait(lock, [&] { return recorder.reason.has_value(); });
  EXPECT_EQ(*recorder.reason, StopReason::kShutdown);
}

TEST_P(VcpuThreadTest, StateSavedIsStateSet) {
  load({0xf4});
  auto indices = system->msr_indices();
  ASSERT_TRUE(indices);
  auto state = vcpu->state(*indices);
  ASSERT_TRUE(state) << state.error().message;
  auto set = vcpu->set_state(*state);
  ASSERT_TRUE(set) << set.error().message;
  auto again = vcpu->state(*indices);
  ASSERT_TRUE(again);
  EXPECT_EQ(memcmp(&state->regs, &again->regs, sizeof state->regs), 0);
  EXPECT_EQ(memcmp(&state->sregs, &again->sregs, sizeof state->sregs), 0);
  EXPECT_EQ(state->xsave, again->xsave);
}

// A reset switches the MTRRs off (Intel SDM vol 3, 12.11.5) and clears IA32_DEBUGCTL.
TEST_P(VcpuThreadTest, TheStateFromBeforeTakesMemoryTypesBack) {
  load({0xf4});
  auto indices = system->msr_indices();
  ASSERT_TRUE(indices);
  auto state = vcpu->state(*indices);
  ASSERT_TRUE(state);
  const std::pair<uint32_t, uint64_t> values[] = {{0x2ff, 0xc06},          {0x200, 0x80000000},         {0x201, 0x80000800},
                                                  {0x250, 0x0606060606060606}, {0x26f, 0x0505050505050505}, {0x1d9, 2}};
  for (auto [index, value] : values) (void)vcpu->set_msr(index, value);
  ASSERT_EQ(vcpu->msr(0x2ff).value_or(0), 0xc06u);
  ASSERT_TRUE(vcpu->set_state(*state));
  for (auto [index, value] : values) EXPECT_EQ(vcpu->msr(index).value_or(0), 0u) << std::hex << index;
}

INSTANTIATE_TEST_SUITE_P(All, VcpuThreadTest, testing::ValuesIn(hypervisors()), [](const auto& info) { return std::string(info.param->name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(VcpuThreadTest);

TEST(VariableStructs, RequestNumbersAreThoseOfC) {
  // As strace and every C program show them: size in bits 16 to 29.
  EXPECT_EQ(kGetSupportedCpuid, 0xc008ae05u);
  EXPECT_EQ(kSetCpuid2, 0x4008ae90u);
  EXPECT_EQ(kGetMsrIndexList, 0xc004ae02u);
  EXPECT_EQ(kGetMsrs, 0xc008ae88u);
  EXPECT_EQ(kSetMsrs, 0x4008ae89u);
  EXPECT_EQ(kGetXsave2, 0x9000aecfu);
}

}  // namespace
}  // namespace vireo::kvm
