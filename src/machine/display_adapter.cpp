// SPDX-License-Identifier: Apache-2.0
#include "machine/display_adapter.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "base/owned_fd.h"
#include "devices/vga/vga.h"
#include "machine/machine.h"
#include "machine/option_rom.h"
#include "machine/pci_root.h"

namespace vireo {
namespace {

constexpr uint64_t kMostRom = 128 << 10;  // what fits the BIOS area in front of the system's own

}  // namespace

Result<std::unique_ptr<DisplayAdapter>> DisplayAdapter::create(Machine& machine, PciRoot& pci, unsigned slot, const VgaConfig& config) {
  std::unique_ptr<DisplayAdapter> adapter(new DisplayAdapter);
  std::vector<std::byte> rom;
  if (!config.rom.empty()) rom = TRY(read_option_rom(config.rom, "--vga rom=" + config.rom, kMostRom));
  void* map = mmap(nullptr, Vga::kFrameSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return fail_errno("--vga: memory of the screen");
  adapter->frame_ = {static_cast<std::byte*>(map), Vga::kFrameSize};
  auto vga = std::make_unique<Vga>(Vga::Config{adapter->frame_, std::move(rom)}, machine.loop());
  adapter->vga_ = vga.get();
  TRY_VOID(machine.ports().add(VgaRegisters::kFirstPort, Vga::kPorts, vga->ports()));
  TRY_VOID(machine.ports().add(Vga::kVbePort, Vga::kVbePorts, vga->vbe_ports()));
  TRY_VOID(machine.mmio().add(Vga::kWindow, Vga::kWindowSize, vga->window()));
  TRY_VOID(pci.add(slot, 0, std::move(vga)));
  return adapter;
}

DisplayAdapter::~DisplayAdapter() {
  if (!frame_.empty()) munmap(frame_.data(), frame_.size());
}

}  // namespace vireo
