// SPDX-License-Identifier: Apache-2.0
#include "machine/microvm.h"

#include "machine/acpi.h"
#include "machine/machine.h"
#include "virtio/mmio.h"

namespace vireo {

Result<std::unique_ptr<Microvm>> Microvm::create(Machine& machine, CharBackend* serial) {
  std::unique_ptr<Microvm> board(new Microvm(machine));
  board->pc_ = TRY(PcDevices::create(machine, serial));
  return board;
}

Result<> Microvm::add(std::unique_ptr<virtio::Device> device, std::vector<std::byte> rom) {
  if (!rom.empty()) return fail(ErrorKind::kUnsupported, "--board microvm: has no PCI, and no option ROMs");
  if (slots_.size() == kMostDevices) return fail(ErrorKind::kInvalid, "--board microvm: at most " + std::to_string(kMostDevices) + " virtio devices");
  Slot slot{.address = kWindow + slots_.size() * kStride, .gsi = gsi_of(slots_.size()), .transport = {}};
  auto transport = virtio::Mmio::create(std::move(device), {machine_.memory(), machine_.irq(slot.gsi)});
  TRY_VOID(machine_.mmio().add(slot.address, virtio::Mmio::kRegionSize, *transport));
  machine_.doorbells().attach(slot.address, false, transport->doorbells());
  slot.transport = std::move(transport);
  slots_.push_back(std::move(slot));
  return {};
}

void Microvm::reset(ResetKind kind) {
  for (Slot& slot : slots_) {
    auto lock = machine_.mmio().lock(*slot.transport);
    slot.transport->reset(kind);
  }
  pc_->reset(kind);
}

Result<BootEnvironment> Microvm::prepare_boot() {
  using namespace aml;
  std::vector<Bytes> devices;
  for (size_t i = 0; i < slots_.size(); i++) {
    char label[5];
    snprintf(label, sizeof label, "VR%02X", static_cast<unsigned>(i & 0xff));
    devices.push_back(device(label, join({name("_HID", string("LNRO0005")), name("_UID", integer(i)), name("_CCA", integer(1)),
                                          name("_CRS", resources({memory32(static_cast<uint32_t>(slots_[i].address), kStride),
                                                                  interrupt(slots_[i].gsi, true, false, true)}))})));
  }
  Bytes system_bus = PcDevices::describe();
  for (const Bytes& d : devices) system_bus.insert(system_bus.end(), d.begin(), d.end());
  AcpiConfig acpi{.cpus = machine_.config().cpus, .pm_base = PcDevices::kPmBase, .sci = PcDevices::kSci, .numa = machine_.numa()};
  acpi.dsdt = join({scope("\\_SB", system_bus), PcDevices::sleep_states()});
  AcpiTables tables = TRY(write_acpi(machine_.memory(), acpi, GuestAddress{PcDevices::kTables}, GuestAddress{PcDevices::kTablesEnd}));
  return BootEnvironment{machine_.memory(), PcDevices::memory_map(machine_.memory()), tables.rsdp};
}

}  // namespace vireo
