// SPDX-License-Identifier: Apache-2.0
// A VGA on a board: its memory, its place on PCI, and the ports and addresses that a VGA has without being asked.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace vireo {

class Machine;
class PciRoot;
class Vga;

struct VgaConfig {
  std::string rom;  // file of its BIOS; empty: none, and only software with a driver of its own shows anything
};

class DisplayAdapter {
 public:
  static Result<std::unique_ptr<DisplayAdapter>> create(Machine& machine, PciRoot& pci, unsigned slot, const VgaConfig& config);
  ~DisplayAdapter();
  const Vga& vga() const { return *vga_; }

 private:
  DisplayAdapter() = default;
  std::span<std::byte> frame_;
  Vga* vga_ = nullptr;  // the PCI root's
};

}  // namespace vireo
