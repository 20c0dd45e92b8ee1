// SPDX-License-Identifier: Apache-2.0
// KVM_GET_STATS_FD read back as Documentation/virt/kvm/api.rst, 4.133, describes the file.
#include <pthread.h>
#include <sys/eventfd.h>

#include <atomic>
#include <ctime>
#include <map>
#include <string>
#include <thread>

#include "softkvm/abi/backend_test.h"

namespace vireo::softkvm::test {
namespace {

struct Described {
  uint32_t flags;
  int16_t exponent;
  uint16_t size;
  uint32_t offset;
};
struct StatsFile {
  explicit StatsFile(const Handle& of) : fd(of(KVM_GET_STATS_FD)) {
    EXPECT_GE(fd, 0);
    kvm_stats_header header{};
    EXPECT_EQ(::pread(fd, &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    std::string text(header.name_size, 0);
    EXPECT_EQ(::pread(fd, text.data(), text.size(), header.id_offset), static_cast<ssize_t>(text.size()));
    id = text.c_str();
    data = header.data_offset;
    const size_t size = sizeof(kvm_stats_desc) + header.name_size;
    EXPECT_GE(data, header.desc_offset + size * header.num_desc);
    for (uint32_t i = 0; i < header.num_desc; i++) {
      std::string bytes(size, 0);
      EXPECT_EQ(::pread(fd, bytes.data(), size, static_cast<off_t>(header.desc_offset + size * i)), static_cast<ssize_t>(size));
      Described d;
      std::memcpy(&d, bytes.data(), sizeof d);
      EXPECT_LE(d.flags & KVM_STATS_TYPE_MASK, static_cast<uint32_t>(KVM_STATS_TYPE_MAX));
      EXPECT_TRUE(table.emplace(bytes.substr(sizeof(kvm_stats_desc)).c_str(), d).second);
    }
  }
  ~StatsFile() { ::close(fd); }
  uint64_t operator[](const char* name) const {
    const auto found = table.find(name);
    uint64_t value = 0;
    if (found == table.end()) ADD_FAILURE() << name;
    else EXPECT_EQ(::pread(fd, &value, 8, static_cast<off_t>(data + found->second.offset)), 8);
    return value;
  }
  int fd;
  std::string id;
  uint32_t data = 0;
  std::map<std::string, Described> table;
};

class Stats : public ::testing::TestWithParam<const Backend*> {
 protected:
  void SetUp() override {
    if (GetParam() == &kKernel && !kernel_present()) GTEST_SKIP() << "no /dev/kvm";
  }
  const Backend& backend() { return *GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(On, Stats, ::testing::Values(&kSoftkvm, &kKernel), [](const auto& info) { return info.param->name; });

TEST_P(Stats, TheFilesNameTheirProcessAndVcpu) {
  Machine m(backend());
  EXPECT_EQ(StatsFile(m.vm).id, "kvm-" + std::to_string(::getpid()));
  EXPECT_EQ(StatsFile(m.vcpu).id, "kvm-" + std::to_string(::getpid()) + "/vcpu-0");
}

TEST_P(Stats, PortWritesAreCounted) {
  Machine m(backend());
  m.real_mode(0x1000, {0xe6, 0x80, 0xeb, 0xfc});  // out 80,al; jmp $-2
  StatsFile stats(m.vcpu);
  const uint64_t before = stats["io_exits"], all = stats["exits"];
  for (int i = 0; i < 5; i++) ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  // The kernel's module counts what the CPU intercepts, not what it emulates.
  if (&backend() == &kSoftkvm) {
    EXPECT_EQ(stats["io_exits"] - before, 5u);
  }
  EXPECT_GE(stats["exits"] - all, 5u);
}

TEST_P(Stats, TheFileIsForReadingOnly) {
  Machine m(backend());
  StatsFile stats(m.vcpu);
  EXPECT_EQ(::write(stats.fd, "x", 1), -1);
  EXPECT_EQ(::ftruncate(stats.fd, 0), -1);
}

TEST(SoftkvmStats, TheFilesOutliveTheMachine) {
  Machine m(kSoftkvm);
  m.real_mode(0x1000, {0xf4});
  StatsFile vcpu(m.vcpu), vm(m.vm);
  EXPECT_EQ(vm["vcpus"], 1u);
  EXPECT_EQ(vm["memory_slots"], 1u);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  kvm_userspace_memory_region gone{};
  ASSERT_EQ(m.vm(KVM_SET_USER_MEMORY_REGION, &gone), 0);
  EXPECT_EQ(vm["memory_slots"], 0u);
  m.vcpu = Handle();
  m.vm = Handle();
  EXPECT_EQ(vcpu["halt_exits"], 1u);
  EXPECT_EQ(vm["vcpus"], 1u);
}

TEST(SoftkvmStats, EventsThatTheGuestGetsAreCounted) {
  Machine m(kSoftkvm);
  m.memory[6 * 4 + 1] = 0x20;  // IVT entry 6: 0000:2000
  m.memory[0x2000] = 0xf4;
  m.real_mode(0x1000, {0x0f, 0x0b});  // ud2
  StatsFile stats(m.vcpu);
  ASSERT_EQ(m.vcpu(KVM_RUN), 0);
  ASSERT_EQ(m.run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  EXPECT_EQ(stats["exceptions"], 1u);
  EXPECT_EQ(stats["pf_guest"], 0u);
  EXPECT_EQ(stats["blocks_translated"], 2u);  // UD2's and HLT's
  EXPECT_EQ(stats["insns_translated"], 2u);
  EXPECT_EQ(StatsFile(m.vm)["code_cache_blocks"], 2u);
}


// What a long KVM_RUN does is seen while it runs.
TEST(SoftkvmStats, CountersMoveWhileKvmRunRuns) {
  Machine m(kSoftkvm);
  m.real_mode(0x1000, {0xe6, 0x80, 0xeb, 0xfc});
  int event = ::eventfd(0, EFD_CLOEXEC);
  kvm_ioeventfd doorbell{};
  doorbell.addr = 0x80, doorbell.len = 1, doorbell.fd = event, doorbell.flags = KVM_IOEVENTFD_FLAG_PIO;
  ASSERT_EQ(m.vm(KVM_IOEVENTFD, &doorbell), 0);
  StatsFile stats(m.vcpu);
  std::atomic<int> result{1};
  std::thread runner([&] { result = m.vcpu(KVM_RUN); });
  const time_t limit = ::time(nullptr) + 60;
  uint64_t seen = 0;
  for (unsigned moves = 0; moves < 5 && ::time(nullptr) < limit;) {
    const uint64_t now = stats["doorbells"];
    moves += now > seen;
    seen = now;
  }
  EXPECT_GE(seen, 5u);
  EXPECT_EQ(stats["exits"], 0u);
  EXPECT_EQ(stats["running"], 1u);
  while (result == 1) {
    interrupt_thread(runner.native_handle());
    ::usleep(1000);
  }
  runner.join();
  EXPECT_EQ(result, -EINTR);
  EXPECT_EQ(stats["signal_exits"], 1u);
  EXPECT_EQ(stats["running"], 0u);
  ::close(event);
}

}  // namespace
}  // namespace vireo::softkvm::test
