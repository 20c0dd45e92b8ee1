// SPDX-License-Identifier: Apache-2.0
// The ACPI tables of a board: RSDP, XSDT, FADT, FACS, MADT, DSDT, and MCFG, HPET, SRAT, SLIT where they apply. Spec: ACPI 6.5, chapter 5.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "machine/aml.h"
#include "machine/numa.h"
#include "memory/guest_memory.h"

namespace vireo {

struct AcpiConfig {
  unsigned cpus = 1;
  uint32_t ioapic_address = 0xfec00000;
  uint32_t lapic_address = 0xfee00000;
  uint16_t pm_base = 0x600;
  unsigned sci = 9;
  std::vector<unsigned> level_high_irqs;  // ISA interrupts that are level-triggered besides the SCI
  struct Ecam {
    uint64_t address;
    uint8_t last_bus;
  };
  std::optional<Ecam> ecam;
  bool i8042 = true;
  bool vga = false, hpet = false;
  std::vector<NumaNode> numa;
  aml::Bytes dsdt;  // the board's definition block, without the header
};

// The tables before they have a place. Where one points at another, the offset of that in `tables` stands for its address.
struct AcpiBlob {
  struct Pointer {
    uint32_t offset;
    uint8_t size;
  };
  struct Checksum {
    uint32_t start, length, at;
  };
  static constexpr uint32_t kAlign = 64;  // of `tables`
  aml::Bytes rsdp, tables;
  std::vector<Pointer> rsdp_pointers, pointers;
  std::vector<Checksum> rsdp_checksums, checksums;
  uint32_t facs = 0;
};
AcpiBlob build_acpi(const AcpiConfig& config);

struct AcpiTables {
  GuestAddress rsdp, facs;
};

// Writes the tables into guest memory from `start`, below `end`.
Result<AcpiTables> write_acpi(GuestMemory& memory, const AcpiConfig& config, GuestAddress start, GuestAddress end);

}  // namespace vireo
