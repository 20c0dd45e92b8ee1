// SPDX-License-Identifier: Apache-2.0
// What every device must do, whatever it is: reset to the same state, survive any sequence of register accesses, and save, load and
// save again to the same bytes.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <memory>
#include <random>

#include "base/fake_clock.h"
#include "devices/acpi_pm.h"
#include "devices/apm.h"
#include "devices/archive_fake.h"
#include "devices/debug_console.h"
#include "devices/debug_exit.h"
#include "devices/fw_cfg.h"
#include "devices/hpet.h"
#include "devices/i8042.h"
#include "devices/pflash.h"
#include "devices/port92.h"
#include "devices/reset_control.h"
#include "devices/rtc.h"
#include "devices/test_device.h"
#include "devices/uart.h"

namespace vireo {
namespace {

struct NullLine final : IrqLine {
  void set(bool) override {}
};

struct NullMsi final : MsiSink {
  void send(uint64_t, uint32_t) override {}
};

struct World {
  FakeClock clock{1'000'000'000};
  NullLine line;
  NullMsi msi;
  std::array<std::byte, 4 * Pflash::kBlockSize> flash{};
};

struct Kind {
  const char* name;
  uint64_t region;
  std::function<std::unique_ptr<Device>(World&)> make;
};

const Kind kKinds[] = {
    {"uart", Uart::kPorts, [](World& w) { return std::make_unique<Uart>(Uart::Pins{w.line, nullptr}); }},
    {"rtc", Rtc::kPorts,
     [](World& w) { return std::make_unique<Rtc>(Rtc::Config{.start = 1'700'000'000}, Rtc::Pins{w.line, w.clock, w.clock}); }},
    {"i8042", 5, [](World& w) { return std::make_unique<I8042>(I8042::Pins{w.line, w.line, [] {}}); }},
    {"acpi_pm", AcpiPm::kPorts, [](World& w) { return std::make_unique<AcpiPm>(AcpiPm::Pins{w.line, w.clock, w.clock, [] {}}); }},
    {"hpet", Hpet::kSize,
     [](World& w) {
       return std::make_unique<Hpet>(Hpet::Pins{{&w.line, &w.line, &w.line, &w.line}, {&w.line, &w.line}, w.msi, w.clock, w.clock, [](bool) {}});
     }},
    {"reset_control", 1, [](World&) { return std::make_unique<ResetControl>([] {}); }},
    {"debug_exit", DebugExit::kPorts, [](World&) { return std::make_unique<DebugExit>([](int) {}); }},
    {"test_latch", 4, [](World&) { return std::make_unique<TestLatch>(); }},
    {"test_memory", TestMemory::kSize, [](World&) { return std::make_unique<TestMemory>(); }},
    {"fw_cfg", FwCfg::kPorts,
     [](World&) {
       return std::make_unique<FwCfg>(FwCfg::Pins{[](uint64_t, std::span<std::byte>) { return true; }, [](uint64_t, std::span<const std::byte>) { return true; }});
     }},
    {"pflash", 4 * Pflash::kBlockSize, [](World& w) { return std::make_unique<Pflash>(w.flash, Pflash::Pins{}); }},
    {"acpi_pm_smm", AcpiPm::kPorts, [](World& w) { return std::make_unique<AcpiPm>(AcpiPm::Pins{w.line, w.clock, w.clock, [] {}}, true); }},
    {"apm", Apm::kPorts, [](World&) { return std::make_unique<Apm>([] {}); }},
    {"port92", Port92::kPorts, [](World&) { return std::make_unique<Port92>([] {}); }},
    {"debug_console", DebugConsole::kPorts, [](World&) { return std::make_unique<DebugConsole>([](std::span<const std::byte>) {}); }},
};

class DeviceSuite : public testing::TestWithParam<Kind> {
 protected:
  MemoryArchive save(Device& device) {
    MemoryArchive archive;
    device.fields(archive);
    EXPECT_FALSE(archive.duplicate);
    return archive;
  }
  void disturb(World& world, Device& device, unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 5000; i++) {
      size_t size = 1u << random() % 3;
      uint64_t room = GetParam().region;
      if (size > room) size = 1;
      Access access{random() % (room - size + 1)};
      std::array<std::byte, 4> data;
      for (std::byte& b : data) b = std::byte(static_cast<uint8_t>(random()));
      if (random() % 2)
        device.read(access, std::span(data).first(size));
      else
        device.write(access, std::span(data).first(size));
      if (random() % 16 == 0) world.clock.advance(random() % 100'000'000);
    }
  }
};

TEST_P(DeviceSuite, SavedStateLoadsIntoAnotherOneIdentically) {
  World world;
  for (unsigned seed = 1; seed <= 4; seed++) {
    auto device = GetParam().make(world), other = GetParam().make(world);
    disturb(world, *device, seed);
    MemoryArchive first = save(*device);
    first.loading = true;
    other->fields(first);
    MemoryArchive second = save(*other);
    EXPECT_EQ(first.fields, second.fields) << "seed " << seed;
  }
}

class DeviceReset : public DeviceSuite {};
TEST_P(DeviceReset, ResetAfterUseEqualsResetBefore) {
  World world;
  auto device = GetParam().make(world);
  device->reset(ResetKind::kCold);
  MemoryArchive before = save(*device);
  disturb(world, *device, 7);
  device->reset(ResetKind::kCold);
  EXPECT_EQ(before.fields, save(*device).fields);
}

INSTANTIATE_TEST_SUITE_P(All, DeviceSuite, testing::ValuesIn(kKinds), [](const auto& info) { return std::string(info.param.name); });

// But for the clock, whose battery keeps its bytes.
std::vector<Kind> without_battery() {
  std::vector<Kind> kinds;
  for (const Kind& kind : kKinds)
    if (std::string(kind.name) != "rtc") kinds.push_back(kind);
  return kinds;
}
INSTANTIATE_TEST_SUITE_P(All, DeviceReset, testing::ValuesIn(without_battery()), [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vireo
