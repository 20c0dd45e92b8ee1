// SPDX-License-Identifier: Apache-2.0
#include "machine/q35.h"

#include "base/log.h"
#include "machine/lpc_bridge.h"
#include "machine/machine.h"
#include "machine/smbios.h"
#include "virtio/pci.h"

namespace vireo {
Result<std::unique_ptr<Q35>> Q35::create(Machine& machine, CharBackend* serial) {
  std::unique_ptr<Q35> board(new Q35(machine));
  TRY_VOID(board->build(serial));
  return board;
}

Result<> Q35::build(CharBackend* serial) {
  const auto& firmware = machine_.config().firmware;
  if (machine_.has_system_management()) system_management_ = TRY(SystemManagement::create(machine_));
  std::function<void()> smi;
  if (system_management_) smi = [this] { system_management_->interrupt(); };
  pc_ = TRY(PcDevices::create(machine_, serial, {.suspend = !firmware, .smi = std::move(smi)}));
  auto irq = [this](unsigned n) -> IrqLine& { return machine_.irq(n); };
  pirqs_ = std::make_unique<PirqRouter>([irq](unsigned n) -> IrqLine& { return irq(kFirstPin + n); }, irq);
  PciRoot::MemorySlots slots{[this] { return machine_.new_memory_slot(); },
                             [this](unsigned slot, uint64_t start, uint64_t size, std::byte* host) { return machine_.set_memory(slot, start, size, host); }};
  pci_ = std::make_unique<PciRoot>(machine_.ports(), machine_.mmio(), machine_.doorbells(), pc_->reset_control(), std::move(slots));
  TRY_VOID(pci_->map());
  if (firmware) firmware_ = TRY(Firmware::create(machine_, *firmware, [this] { return acpi(); }));
  HostBridge::Pins host{.ecam = [this](std::optional<HostBridge::Ecam> ecam) {
    place([&](Placement& p) { p.ecam = ecam; });
    pci_->map_ecam(ecam ? ecam->start : 0, ecam ? ecam->size : 0);
  }};
  if (firmware)
    host.pam = [this](std::span<const uint8_t, HostBridge::kPamRegisters> registers) {
      auto lock = machine_.mmio().lock(firmware_->shadow());
      if (auto set = firmware_->shadow().set(registers); !set) log(LogLevel::kError, "BIOS area: %s", set.error().message.c_str());
    };
  if (system_management_) {
    system_management_->describe(firmware_->items());
    host.smram = [this](const HostBridge::Smram& smram) { system_management_->set(smram); };
  }
  LpcBridge::Pins lpc{[this](std::optional<uint16_t> base) {
                        if (base) place([&](Placement& p) { p.pm_base = *base; });
                        pc_->map_pm(base);
                      },
                      *pirqs_};
  if (system_management_) lpc.smi_lock = [this](bool locked) { pc_->pm().lock_smi(locked); };
  std::optional<uint64_t> ecam;
  std::optional<uint16_t> pm_base;
  if (!firmware) ecam = kEcam, pm_base = PcDevices::kPmBase;
  auto bridge = std::make_unique<HostBridge>(ecam, std::move(host));
  bridge->reset(ResetKind::kCold);  // tells the pins
  TRY_VOID(pci_->add(0, 0, std::move(bridge)));
  auto south = std::make_unique<LpcBridge>(pm_base, std::move(lpc));
  south->reset(ResetKind::kCold);
  TRY_VOID(pci_->add(kLpcSlot, 0, std::move(south)));
  if (machine_.config().vga) display_ = TRY(DisplayAdapter::create(machine_, *pci_, kVgaSlot, *machine_.config().vga));
  return {};
}

Result<> Q35::add(std::unique_ptr<virtio::Device> device, std::vector<std::byte> rom) {
  for (unsigned slot = 1; slot < kLpcSlot; slot++) {
    if (pci_->occupied(slot)) continue;
    auto transport = virtio::Pci::create(std::move(device), {machine_.memory(), {&machine_.msi(), &pirqs_->input(slot % kLinks)}, std::move(rom)});
    return pci_->add(slot, 0, std::move(transport));
  }
  return fail(ErrorKind::kInvalid, "--board q35: no PCI slot is free");
}

void Q35::reset(ResetKind kind) {
  pci_->reset(kind);
  pc_->reset(kind);
  if (firmware_) firmware_->reset(kind);
  if (system_management_) system_management_->reset();
  if (kind == ResetKind::kWake) assign_pci();
}

uint64_t Q35::high_window() const {
  const MemoryRegion& last = machine_.memory().regions().back();
  uint64_t end = std::max<uint64_t>(raw(last.start) + last.size, 1ull << 32);
  return (end + kHighWindowSize - 1) & ~(kHighWindowSize - 1);
}

aml::Bytes Q35::describe(const Placement& placement) const {
  using namespace aml;
  auto link_name = [](unsigned link) { return std::string("LNK") + static_cast<char>('A' + link); };
  std::vector<Bytes> routes;
  for (unsigned slot = 0; slot < PciRoot::kSlots; slot++)
    for (unsigned pin = 0; pin < 4; pin++)
      routes.push_back(package({integer(uint64_t{slot} << 16 | 0xffff), integer(pin), path("\\_SB." + link_name((slot + pin) % kLinks)), integer(0)}));
  Bytes links;
  for (unsigned link = 0; link < kLinks; link++) {
    Bytes setting = resources({interrupt(16 + link, true, false, true)});
    links = join({links, device(link_name(link), join({name("_HID", eisa_id("PNP0C0F")), name("_UID", integer(link)), name("_PRS", setting),
                                                       name("_CRS", setting), method("_SRS", 1, {}), method("_DIS", 0, {}),
                                                       name("_STA", integer(0xb))}))});
  }
  // Everything above the low memory but the configuration space's own addresses, and what firmware has put above 4 GiB.
  std::vector<Bytes> windows{word_window(Window::kBus, 0, kLastBus), io_ports(0xcf8, 8), word_window(Window::kIo, 0, 0xcf7), word_window(Window::kIo, 0xd00, 0xffff),
                             dword_window(0xa0000, 0xbffff)};
  uint32_t below = firmware_ ? kLowMemoryLimit : kWindow;
  if (placement.ecam && placement.ecam->start + placement.ecam->size > below && placement.ecam->start <= kWindowEnd) {
    if (placement.ecam->start > below) windows.push_back(dword_window(below, static_cast<uint32_t>(placement.ecam->start - 1)));
    below = static_cast<uint32_t>(std::min<uint64_t>(placement.ecam->start + placement.ecam->size, kWindowEnd));
  }
  if (below < kWindowEnd) windows.push_back(dword_window(below, kWindowEnd));
  uint64_t high = high_window(), high_end = high + kHighWindowSize;
  if (auto bars = pci_->high_bars(); firmware_ && bars.end) {
    high = std::min(high, bars.start & ~(kHighWindowSize - 1));
    high_end = std::max(high_end, (bars.end + kHighWindowSize - 1) & ~(kHighWindowSize - 1));
  }
  // Firmware puts BARs there that cannot be prefetched from.
  windows.push_back(qword_window(high, high_end - 1, !firmware_));
  Bytes root = device(
      "PCI0",
      join({name("_HID", eisa_id("PNP0A08")), name("_CID", eisa_id("PNP0A03")), name("_SEG", integer(0)), name("_BBN", integer(0)),
            name("_UID", integer(0)),
            // Before the routes each bridge asks what the system understands; everything it asks for is granted as it is.
            method("_OSC", 4, return_value({0x6b})),
            name("_CRS", resources(windows)),
            name("_PRT", package(routes)), device("LPC", name("_ADR", integer(kLpcSlot << 16)))}));
  // The configuration space's own addresses, so that no device is put there.
  Bytes ecam;
  if (placement.ecam)
    ecam = device("ECAM", join({name("_HID", eisa_id("PNP0C02")), name("_UID", integer(2)),
                                name("_CRS", resources({memory32(static_cast<uint32_t>(placement.ecam->start), static_cast<uint32_t>(placement.ecam->size))}))}));
  Bytes hpet;
  if (machine_.config().hpet)
    hpet = device("HPET", join({name("_HID", eisa_id("PNP0103")), name("_UID", integer(0)), name("_CRS", resources({memory32(Hpet::kAddress, Hpet::kSize)}))}));
  return join({scope("\\_SB", join({links, root, ecam, hpet, PcDevices::describe(placement.pm_base)})), PcDevices::sleep_states(!firmware_)});
}

void Q35::assign_pci() {
  uint64_t high = high_window();
  pci_->assign({kIoWindow, uint64_t{kIoWindowEnd} + 1, kWindow, uint64_t{kWindowEnd} + 1, high, high + kHighWindowSize},
               [](unsigned slot) { return static_cast<uint8_t>(gsi_of(slot)); });
}

AcpiConfig Q35::acpi() const {
  const Placement placed = placement();
  AcpiConfig acpi{.cpus = machine_.config().cpus, .pm_base = placed.pm_base, .sci = PcDevices::kSci, .numa = machine_.numa()};
  if (placed.ecam) acpi.ecam = AcpiConfig::Ecam{placed.ecam->start, kLastBus};
  acpi.vga = display_ != nullptr;
  acpi.hpet = machine_.config().hpet;
  acpi.dsdt = describe(placed);
  return acpi;
}

Result<BootEnvironment> Q35::prepare_boot() {
  auto map = PcDevices::memory_map(machine_.memory());
  if (firmware_) {
    TRY_VOID(firmware_->begin());
    return BootEnvironment{machine_.memory(), map};
  }
  assign_pci();
  constexpr uint64_t kSmbios = 0xf0000;
  AcpiTables tables = TRY(write_acpi(machine_.memory(), acpi(), GuestAddress{PcDevices::kTables}, GuestAddress{kSmbios}));
  facs_ = tables.facs;
  TRY_VOID(write_smbios(machine_.memory(), machine_.config().cpus, machine_.config().memory.size, GuestAddress{kSmbios}, GuestAddress{PcDevices::kTablesEnd}));
  map.push_back({kEcam, kEcamSize, MemoryMapEntry::kReserved});
  return BootEnvironment{machine_.memory(), map, tables.rsdp};
}

}  // namespace vireo
