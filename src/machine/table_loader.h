// SPDX-License-Identifier: Apache-2.0
// The script by which firmware places ACPI tables: allocate a file, put a file's address into another, sum it up.
// Spec: the linker/loader interface as documented with the QEMU project (hw/acpi/bios-linker-loader.c's comments and SeaBIOS's romfile_loader).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "machine/acpi.h"

namespace vireo {

class TableLoader {
 public:
  static constexpr size_t kCommandSize = 128, kNameRoom = 56;
  enum class Zone : uint8_t { kHigh = 1, kFSegment = 2 };

  // `align` is a power of two.
  void allocate(std::string_view file, uint32_t align, Zone zone);
  // Adds the address of `target` to the `size` bytes at `offset` of `file`.
  void add_pointer(std::string_view file, std::string_view target, uint32_t offset, uint8_t size);
  // Sets the byte `at` so that `length` bytes from `start` sum to zero.
  void add_checksum(std::string_view file, uint32_t at, uint32_t start, uint32_t length);
  const std::vector<uint8_t>& script() const { return script_; }

  // For tables that are the files `rsdp` and `tables`.
  static TableLoader of(const AcpiBlob& blob, std::string_view rsdp, std::string_view tables);

 private:
  size_t begin(uint32_t command);
  void name(size_t& at, std::string_view text);
  void number(size_t& at, uint32_t value);

  std::vector<uint8_t> script_;
};

}  // namespace vireo
