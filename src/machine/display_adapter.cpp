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
#include "machine/pci_root.h"

namespace vireo {
namespace {

constexpr uint64_t kMostRom = 128 << 10;  // what fits the BIOS area in front of the system's own

// Spec: PCI Local Bus 3.0, 6.3.1: the header begins with 0xaa55.
Result<std::vector<std::byte>> read_rom(const std::string& path) {
  const std::string what = "--vga rom=" + path;
  // A FIFO is not to be waited for.
  OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return fail_errno(what);
  struct stat st;
  if (fstat(fd.get(), &st)) return fail_errno(what);
  if (!S_ISREG(st.st_mode)) return fail(ErrorKind::kInvalid, what + ": not a regular file");
  if (st.st_size < 512 || static_cast<uint64_t>(st.st_size) > kMostRom)
    return fail(ErrorKind::kInvalid, what + ": " + std::to_string(st.st_size) + " bytes; a ROM of a display adapter has 512 to " + std::to_string(kMostRom));
  std::vector<std::byte> bytes(static_cast<size_t>(st.st_size));
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t got = pread(fd.get(), &bytes[at], bytes.size() - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? fail_errno(what) : fail(ErrorKind::kIo, what + ": ends early");
    at += static_cast<size_t>(got);
  }
  if (bytes[0] != std::byte{0x55} || bytes[1] != std::byte{0xaa}) return fail(ErrorKind::kInvalid, what + ": does not begin as an option ROM does (55 aa)");
  return bytes;
}

}  // namespace

Result<std::unique_ptr<DisplayAdapter>> DisplayAdapter::create(Machine& machine, PciRoot& pci, unsigned slot, const VgaConfig& config) {
  std::unique_ptr<DisplayAdapter> adapter(new DisplayAdapter);
  std::vector<std::byte> rom;
  if (!config.rom.empty()) rom = TRY(read_rom(config.rom));
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
