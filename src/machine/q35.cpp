// SPDX-License-Identifier: Apache-2.0
#include "machine/q35.h"

#include "machine/acpi.h"
#include "machine/machine.h"
#include "machine/smbios.h"
#include "virtio/pci.h"

namespace vireo {
namespace {

// A function that is nothing but registers.
class PlainFunction : public PciDevice {
 public:
  PlainFunction(const Identity& identity) : PciDevice(identity, {}) {}

 protected:
  void read_bar(unsigned, Access, std::span<std::byte>) override {}
  void write_bar(unsigned, Access, std::span<const std::byte>) override {}
  void device_reset(ResetKind) override {}
  void device_fields(Archive&) override {}

  void writable(uint16_t offset, std::initializer_list<uint8_t> mask) { set_write_mask(offset, std::as_bytes(std::span(mask))); }
};

// The memory controller hub, 8086:29c0. PAM registers are kept as written; all of the first megabyte is RAM here whatever they say.
class HostBridge final : public PlainFunction {
 public:
  explicit HostBridge(uint64_t ecam) : PlainFunction({.vendor = 0x8086, .device = 0x29c0, .class_code = 0x060000, .revision = 2, .interrupt_pin = false}) {
    set_config_value<uint64_t>(0x60, ecam | 1);  // PCIEXBAR, 256 buses, enabled
    writable(0x90, {0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33});
  }
};

// The LPC bridge, 8086:2918.
class LpcBridge final : public PlainFunction {
 public:
  explicit LpcBridge(uint16_t pm_base) : PlainFunction({.vendor = 0x8086, .device = 0x2918, .class_code = 0x060100, .revision = 2, .interrupt_pin = false}) {
    set_config_value<uint32_t>(0x40, pm_base | 1u);  // PMBASE
    set_config_value<uint8_t>(0x44, 0x80);           // ACPI_CNTL: enabled, SCI on IRQ 9
    for (uint16_t offset : {0x60, 0x68}) {           // PIRQ A to D, E to H: not routed to the 8259s
      set_config_value<uint32_t>(offset, 0x80808080);
      writable(offset, {0x8f, 0x8f, 0x8f, 0x8f});
    }
  }
};

}  // namespace

Result<std::unique_ptr<Q35>> Q35::create(Machine& machine, CharBackend* serial) {
  std::unique_ptr<Q35> board(new Q35(machine));
  TRY_VOID(board->build(serial));
  return board;
}

Result<> Q35::build(CharBackend* serial) {
  pc_ = TRY(PcDevices::create(machine_, serial, true));
  pci_ = std::make_unique<PciRoot>(machine_.ports(), machine_.mmio(), machine_.doorbells(), pc_->reset_control());
  TRY_VOID(pci_->map(kEcam, kEcamSize));
  TRY_VOID(pci_->add(0, 0, std::make_unique<HostBridge>(kEcam)));
  return pci_->add(kLpcSlot, 0, std::make_unique<LpcBridge>(PcDevices::kPmBase));
}

Result<> Q35::add(std::unique_ptr<virtio::Device> device) {
  for (unsigned slot = 1; slot < kLpcSlot; slot++) {
    if (pci_->occupied(slot)) continue;
    auto transport = virtio::Pci::create(std::move(device), {machine_.memory(), {&machine_.msi(), &machine_.irq(gsi_of(slot))}});
    return pci_->add(slot, 0, std::move(transport));
  }
  return fail(ErrorKind::kInvalid, "--board q35: no PCI slot is free");
}

void Q35::reset(ResetKind kind) {
  pci_->reset(kind);
  pc_->reset(kind);
  if (kind == ResetKind::kWake) assign_pci();
}

uint64_t Q35::high_window() const {
  const MemoryRegion& last = machine_.memory().regions().back();
  uint64_t end = std::max<uint64_t>(raw(last.start) + last.size, 1ull << 32);
  return (end + kHighWindowSize - 1) & ~(kHighWindowSize - 1);
}

aml::Bytes Q35::describe() const {
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
  uint64_t high = high_window();
  Bytes root = device(
      "PCI0",
      join({name("_HID", eisa_id("PNP0A08")), name("_CID", eisa_id("PNP0A03")), name("_SEG", integer(0)), name("_BBN", integer(0)),
            name("_UID", integer(0)),
            // Before the routes each bridge asks what the system understands; everything it asks for is granted as it is.
            method("_OSC", 4, return_value({0x6b})),
            name("_CRS", resources({word_window(Window::kBus, 0, 255), io_ports(0xcf8, 8), word_window(Window::kIo, 0, 0xcf7),
                                    word_window(Window::kIo, 0xd00, 0xffff), dword_window(0xa0000, 0xbffff), dword_window(kWindow, kWindowEnd),
                                    qword_window(high, high + kHighWindowSize - 1, true)})),
            name("_PRT", package(routes)), device("LPC", name("_ADR", integer(kLpcSlot << 16)))}));
  // The configuration space's own addresses, so that no device is put there.
  Bytes ecam = device("ECAM", join({name("_HID", eisa_id("PNP0C02")), name("_UID", integer(2)), name("_CRS", resources({memory32(kEcam, kEcamSize)}))}));
  return join({scope("\\_SB", join({links, root, ecam, PcDevices::describe()})), PcDevices::sleep_states(true)});
}

void Q35::assign_pci() {
  uint64_t high = high_window();
  pci_->assign({kIoWindow, uint64_t{kIoWindowEnd} + 1, kWindow, uint64_t{kWindowEnd} + 1, high, high + kHighWindowSize},
               [](unsigned slot) { return static_cast<uint8_t>(gsi_of(slot)); });
}

Result<BootEnvironment> Q35::prepare_boot() {
  assign_pci();
  AcpiConfig acpi{.cpus = machine_.config().cpus, .pm_base = PcDevices::kPmBase, .sci = PcDevices::kSci, .numa = machine_.numa()};
  acpi.ecam = AcpiConfig::Ecam{kEcam, 255};
  acpi.dsdt = describe();
  constexpr uint64_t kSmbios = 0xf0000;
  AcpiTables tables = TRY(write_acpi(machine_.memory(), acpi, GuestAddress{PcDevices::kTables}, GuestAddress{kSmbios}));
  facs_ = tables.facs;
  TRY_VOID(write_smbios(machine_.memory(), machine_.config().cpus, machine_.config().memory.size, GuestAddress{kSmbios}, GuestAddress{PcDevices::kTablesEnd}));
  auto map = PcDevices::memory_map(machine_.memory());
  map.push_back({kEcam, kEcamSize, MemoryMapEntry::kReserved});
  return BootEnvironment{machine_.memory(), map, tables.rsdp};
}

}  // namespace vireo
