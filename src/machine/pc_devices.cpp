// SPDX-License-Identifier: Apache-2.0
#include "machine/pc_devices.h"

#include <sys/mman.h>

#include "base/log.h"
#include "devices/apm.h"
#include "devices/debug_exit.h"
#include "devices/fw_cfg.h"
#include "devices/port92.h"
#include "devices/test_device.h"
#include "machine/machine.h"

namespace vireo {
namespace {

constexpr uint64_t kCom1 = 0x3f8, kI8042 = 0x60, kRtc = 0x70, kResetControl = 0xcf9, kFwCfg = 0x510, kPort92 = 0x92, kApm = 0xb2;
constexpr uint64_t kMiB = 1 << 20;

// RAM sizes where firmware looks for them: 0x15 KiB below 640, 0x17 and 0x30 KiB above 1 MiB, 0x34 units of 64 KiB above 16 MiB,
// 0x5b units of 64 KiB above 4 GiB, 0x5f processors behind the first.
std::vector<std::pair<uint8_t, uint8_t>> memory_bytes(const GuestMemory& memory, unsigned cpus) {
  std::vector<std::pair<uint8_t, uint8_t>> bytes;
  auto put = [&](uint8_t index, uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; i++) bytes.emplace_back(index + i, static_cast<uint8_t>(value >> 8 * i));
  };
  uint64_t low = memory.regions()[0].size, high = memory.regions().size() > 1 ? memory.regions()[1].size : 0;
  uint64_t above1 = low > kMiB ? std::min<uint64_t>((low - kMiB) >> 10, 65535) : 0;
  uint64_t above16 = low > 16 * kMiB ? std::min<uint64_t>((low - 16 * kMiB) >> 16, 65535) : 0;
  put(0x15, 640, 2);
  put(0x17, above1, 2);
  put(0x30, above1, 2);
  put(0x34, above16, 2);
  put(0x5b, high >> 16, 3);
  put(0x14, 0x06, 1);      // equipment: coprocessor, pointing device
  put(0x38, 0x40, 1);      // PC firmware's order of boot devices, a nibble each from 0x3d on: disk, CD, network
  put(0x3d, 0x32, 1);
  put(0x5f, std::min(cpus, 256u) - 1, 1);
  return bytes;
}

}  // namespace

Result<std::unique_ptr<PcDevices>> PcDevices::create(Machine& machine, CharBackend* serial, PcOptions options) {
  std::unique_ptr<PcDevices> devices(new PcDevices(machine, std::move(options)));
  TRY_VOID(devices->build(serial));
  return devices;
}

Result<> PcDevices::build(CharBackend* serial) {
  Machine& m = machine_;
  auto reset_line = [&m] { m.request_reset(); };
  uart_ = std::make_unique<Uart>(Uart::Pins{.irq = m.irq(4), .host = serial});
  rtc_line_ = std::make_unique<GatedLine>(m.irq(8));
  rtc_ = std::make_unique<Rtc>(Rtc::Config{.start = m.config().rtc_start, .nvram = memory_bytes(m.memory(), m.config().cpus)},
                               Rtc::Pins{*rtc_line_, m.loop(), m.loop(), [this] { pm_->rtc_alarm(); }});
  i8042_ = std::make_unique<I8042>(I8042::Pins{m.irq(1), m.irq(12), reset_line, [&m](bool open) { m.low_memory().set(LowMemory::Gate::kKeyboard, open); }});
  AcpiPm::Pins pm{m.irq(kSci), m.loop(), m.loop(), [&m] { m.request_power_off(); }};
  if (options_.suspend) pm.suspend = [&m] { m.request_suspend(); }, pm.wake = [&m] { m.request_wake(); };
  pm_ = std::make_unique<AcpiPm>(std::move(pm), options_.smi != nullptr);
  reset_control_ = std::make_unique<ResetControl>(reset_line);
  TRY_VOID(m.ports().add(kCom1, Uart::kPorts, *uart_));
  TRY_VOID(m.ports().add(kRtc, Rtc::kPorts, *rtc_));
  TRY_VOID(m.ports().add(kI8042, 1, *i8042_, I8042::kData));
  TRY_VOID(m.ports().add(kI8042 + I8042::kCommand, 1, *i8042_, I8042::kCommand));
  map_pm(kPmBase);
  // The PCI address register lies around it on boards that have one; those pass the byte on themselves.
  if (m.config().board == MachineConfig::BoardKind::kMicrovm) TRY_VOID(m.ports().add(kResetControl, 1, *reset_control_));
  others_.push_back(std::make_unique<Port92>(reset_line, [&m](bool open) { m.low_memory().set(LowMemory::Gate::kFast, open); }));
  TRY_VOID(m.ports().add(kPort92, Port92::kPorts, *others_.back()));
  if (options_.smi) {
    others_.push_back(std::make_unique<Apm>([this] {
      if (pm_->apm_command()) options_.smi();
    }));
    TRY_VOID(m.ports().add(kApm, Apm::kPorts, *others_.back()));
  }
  if (m.config().debug_exit) {
    others_.push_back(std::make_unique<DebugExit>([&m](int status) { m.request_end(status); }));
    TRY_VOID(m.ports().add(*m.config().debug_exit, DebugExit::kPorts, *others_.back()));
  }
  if (m.config().hpet) TRY_VOID(build_hpet());
  if (m.config().test_device) TRY_VOID(build_test_devices());
  return {};
}

Result<> PcDevices::build_hpet() {
  Machine& m = machine_;
  Hpet::Pins pins{.lines = {}, .legacy = {&m.irq(0), &m.irq(8)}, .msi = m.msi(), .clock = m.loop(), .timers = m.loop(), .replace_legacy = [this](bool replaced) {
    rtc_line_->join(!replaced);
    if (auto done = machine_.vm().replace_pit(replaced); !done) log(LogLevel::kError, "HPET: %s", done.error().message.c_str());
  }};
  for (unsigned i = 0; i < Hpet::kPins; i++) pins.lines[i] = &m.irq(Hpet::kFirstPin + i);
  hpet_ = std::make_unique<Hpet>(std::move(pins));
  return m.mmio().add(Hpet::kAddress, Hpet::kSize, *hpet_);
}

void PcDevices::map_pm(std::optional<uint16_t> base) {
  if (pm_at_ == base) return;
  if (pm_at_) machine_.ports().remove(*pm_at_);
  pm_at_.reset();
  // Put over another device it is nowhere, as a BAR is.
  if (base && machine_.ports().add(*base, AcpiPm::kPorts, *pm_)) pm_at_ = base;
}

Result<> PcDevices::build_test_devices() {
  Machine& m = machine_;
  others_.push_back(std::make_unique<TestLatch>());
  TRY_VOID(m.ports().add(0xe0, 4, *others_.back()));
  TRY_VOID(m.ports().add(0xe8, 4, *others_.back()));
  others_.push_back(std::make_unique<TestFlush>([&m](uint64_t page) {
    auto bytes = m.memory().range(GuestAddress{page & ~0xfffull}, 0x1000);
    if (bytes.empty()) return;
    mprotect(bytes.data(), bytes.size(), PROT_NONE);
    mprotect(bytes.data(), bytes.size(), PROT_READ | PROT_WRITE);
  }));
  TRY_VOID(m.ports().add(0xe4, 4, *others_.back()));
  std::vector<IrqLine*> lines;
  for (unsigned gsi = 0; gsi < IrqLines::kGsis; gsi++) lines.push_back(&m.irq(gsi));
  others_.push_back(std::make_unique<TestIrqLines>(lines));
  TRY_VOID(m.ports().add(0x2000, lines.size(), *others_.back()));
  others_.push_back(std::make_unique<TestMemory>());
  TRY_VOID(m.mmio().add(0xff000000, TestMemory::kSize, *others_.back()));
  if (m.config().firmware) return {};  // has a fw_cfg of its own
  auto fw_cfg = std::make_unique<FwCfg>();
  fw_cfg->set<uint64_t>(FwCfg::kRamSize, m.config().memory.size);
  fw_cfg->set<uint16_t>(FwCfg::kCpuCount, static_cast<uint16_t>(m.config().cpus));
  fw_cfg->set<uint16_t>(FwCfg::kMaxCpus, static_cast<uint16_t>(m.config().cpus));
  fw_cfg->set<uint64_t>(0x11, m.config().memory.size);  // test kernels read their memory limit here
  others_.push_back(std::move(fw_cfg));
  return m.ports().add(kFwCfg, FwCfg::kPorts, *others_.back());
}

void PcDevices::reset(ResetKind kind) {
  Bus& ports = machine_.ports();
  for (Device* device : {static_cast<Device*>(uart_.get()), static_cast<Device*>(rtc_.get()), static_cast<Device*>(i8042_.get()),
                         static_cast<Device*>(pm_.get()), static_cast<Device*>(reset_control_.get())}) {
    auto lock = ports.lock(*device);
    device->reset(kind);
  }
  if (hpet_) {
    auto lock = machine_.mmio().lock(*hpet_);
    hpet_->reset(kind);
  }
  for (auto& device : others_) {
    auto lock = ports.lock(*device);
    device->reset(kind);
  }
}

aml::Bytes PcDevices::describe(uint16_t pm_base) {
  using namespace aml;
  return join({device("COM1", join({name("_HID", eisa_id("PNP0501")), name("_UID", integer(1)), name("_STA", integer(0xf)),
                                    name("_CRS", resources({io_ports(kCom1, 8), irq_legacy(4)}))})),
               device("RTC", join({name("_HID", eisa_id("PNP0B00")), name("_CRS", resources({io_ports(kRtc, 2), irq_legacy(8)}))})),
               device("KBD", join({name("_HID", eisa_id("PNP0303")), name("_STA", integer(0xf)),
                                   name("_CRS", resources({io_ports(0x60, 1), io_ports(0x64, 1), irq_legacy(1)}))})),
               device("MOU", join({name("_HID", eisa_id("PNP0F13")), name("_STA", integer(0xf)), name("_CRS", resources({irq_legacy(12)}))})),
               device("MB", join({name("_HID", eisa_id("PNP0C02")), name("_CRS", resources({io_ports(pm_base, AcpiPm::kPorts)}))}))});
}

aml::Bytes PcDevices::sleep_states(bool suspend) {
  using namespace aml;
  auto state = [](const char* label, uint8_t type) { return name(label, package({integer(type), integer(type), integer(0), integer(0)})); };
  return join({suspend ? state("_S3", AcpiPm::kSuspendToRam) : Bytes{}, state("_S5", AcpiPm::kSoftOff)});
}

std::vector<MemoryMapEntry> PcDevices::memory_map(const GuestMemory& memory) {
  std::vector<MemoryMapEntry> map;
  const MemoryRegion& low = memory.regions()[0];
  map.push_back({0, std::min<uint64_t>(low.size, 0x9fc00), MemoryMapEntry::kRam});
  map.push_back({0x9fc00, 0x100000 - 0x9fc00, MemoryMapEntry::kReserved});
  if (low.size > kMiB) map.push_back({kMiB, low.size - kMiB, MemoryMapEntry::kRam});
  for (size_t i = 1; i < memory.regions().size(); i++)
    map.push_back({raw(memory.regions()[i].start), memory.regions()[i].size, MemoryMapEntry::kRam});
  return map;
}

}  // namespace vireo
