// SPDX-License-Identifier: Apache-2.0
#include "machine/acpi.h"

#include <cstring>
#include <numeric>
#include <string_view>

#include "devices/acpi_pm.h"
#include "devices/hpet.h"

namespace vireo {
namespace {

using aml::Bytes;

template <class T>
void put(Bytes& to, T value) {
  for (size_t i = 0; i < sizeof value; i++) to.push_back(static_cast<uint8_t>(static_cast<uint64_t>(value) >> 8 * i));
}
template <class T>
void put_at(Bytes& to, size_t at, T value) {
  for (size_t i = 0; i < sizeof value; i++) to[at + i] = static_cast<uint8_t>(static_cast<uint64_t>(value) >> 8 * i);
}

uint8_t negative_sum(const uint8_t* bytes, size_t size) { return static_cast<uint8_t>(-std::accumulate(bytes, bytes + size, 0)); }

constexpr size_t kHeader = 36;
constexpr uint8_t kFacsVersion = 2;  // with X_Firmware_Waking_Vector, to be entered in 32-bit protected mode

Bytes table(std::string_view signature, uint8_t revision) {
  Bytes out(signature.begin(), signature.end());
  put<uint32_t>(out, 0);  // length
  out.push_back(revision);
  out.push_back(0);  // checksum
  for (char c : std::string_view("VIREO ")) out.push_back(static_cast<uint8_t>(c));
  for (char c : std::string_view("VIREOPC ")) out.push_back(static_cast<uint8_t>(c));
  put<uint32_t>(out, 1);
  for (char c : std::string_view("VIRE")) out.push_back(static_cast<uint8_t>(c));
  put<uint32_t>(out, 1);
  return out;
}

void seal(Bytes& table) {
  put_at<uint32_t>(table, 4, static_cast<uint32_t>(table.size()));
  table[9] = 0;
  table[9] = negative_sum(table.data(), table.size());
}

// Generic address structure, 5.2.3.2; `space` 1 is I/O.
void put_gas(Bytes& to, size_t at, uint8_t space, uint8_t bits, uint8_t access, uint64_t address) {
  to[at] = space;
  to[at + 1] = bits;
  to[at + 2] = 0;
  to[at + 3] = access;
  put_at<uint64_t>(to, at + 4, address);
}

Bytes fadt(const AcpiConfig& config, uint64_t facs, uint64_t dsdt) {
  Bytes t = table("FACP", 6);
  t.resize(276, 0);
  uint32_t pm = config.pm_base;
  put_at<uint32_t>(t, 36, static_cast<uint32_t>(facs));
  put_at<uint32_t>(t, 40, static_cast<uint32_t>(dsdt));
  put_at<uint16_t>(t, 46, static_cast<uint16_t>(config.sci));
  // SMI_CMD 0: there is no legacy mode to leave.
  put_at<uint32_t>(t, 56, pm + AcpiPm::kPm1Status);
  put_at<uint32_t>(t, 64, pm + AcpiPm::kPm1Control);
  put_at<uint32_t>(t, 76, pm + AcpiPm::kTimer);
  put_at<uint32_t>(t, 80, pm + AcpiPm::kGpe0);
  t[88] = 4;   // PM1_EVT_LEN
  t[89] = 2;   // PM1_CNT_LEN
  t[91] = 4;   // PM_TMR_LEN
  t[92] = AcpiPm::kGpe0Size;
  put_at<uint16_t>(t, 96, 0xfff);   // C2 not supported
  put_at<uint16_t>(t, 98, 0xfff);   // C3 not supported
  t[108] = 0x32;                    // century byte of the RTC
  // IAPC_BOOT_ARCH: legacy devices, 8042, whether there is no VGA, ASPM off.
  put_at<uint16_t>(t, 109, static_cast<uint16_t>(1 | (config.i8042 ? 2 : 0) | (config.vga ? 0 : 4) | 16));
  // WBINVD, PROC_C1, SLP_BUTTON absent (control method), RESET_REG_SUP, and no fixed sleep button.
  put_at<uint32_t>(t, 112, 1 | 1 << 2 | 1 << 5 | 1 << 10);
  put_gas(t, 116, 1, 8, 1, 0xcf9);
  t[128] = 0x06;  // RESET_VALUE
  t[131] = 5;     // minor version
  put_at<uint64_t>(t, 140, dsdt);
  put_gas(t, 148, 1, 32, 2, pm + AcpiPm::kPm1Status);
  put_gas(t, 172, 1, 16, 2, pm + AcpiPm::kPm1Control);
  put_gas(t, 208, 1, 32, 3, pm + AcpiPm::kTimer);
  put_gas(t, 220, 1, AcpiPm::kGpe0Size * 8, 1, pm + AcpiPm::kGpe0);
  // Both 32- and 64-bit pointers to one table are not allowed to disagree; the 64-bit ones rule.
  seal(t);
  return t;
}

void put_override(Bytes& t, uint8_t irq, uint32_t gsi, uint16_t flags) {
  t.push_back(2);
  t.push_back(10);
  t.push_back(0);
  t.push_back(irq);
  put(t, gsi);
  put(t, flags);
}

Bytes madt(const AcpiConfig& config) {
  Bytes t = table("APIC", 5);
  put(t, config.lapic_address);
  put<uint32_t>(t, 1);  // there are 8259s too
  for (unsigned cpu = 0; cpu < config.cpus; cpu++) {
    if (cpu < 255) {
      t.insert(t.end(), {0, 8, static_cast<uint8_t>(cpu), static_cast<uint8_t>(cpu)});
      put<uint32_t>(t, 1);
    } else {
      t.insert(t.end(), {9, 16, 0, 0});
      put<uint32_t>(t, cpu);
      put<uint32_t>(t, 1);
      put<uint32_t>(t, cpu);
    }
  }
  t.insert(t.end(), {1, 12, 0, 0});
  put(t, config.ioapic_address);
  put<uint32_t>(t, 0);
  put_override(t, 0, 2, 0);  // the PIT is on pin 2
  constexpr uint16_t kLevelHigh = 0x0d;
  put_override(t, static_cast<uint8_t>(config.sci), config.sci, kLevelHigh);
  for (unsigned irq : config.level_high_irqs)
    if (irq < 16 && irq != config.sci) put_override(t, static_cast<uint8_t>(irq), irq, kLevelHigh);
  t.insert(t.end(), {4, 6, 0xff, 0, 0, 1});  // NMI on LINT1 of every processor
  seal(t);
  return t;
}

Bytes mcfg(const AcpiConfig::Ecam& ecam) {
  Bytes t = table("MCFG", 1);
  t.resize(t.size() + 8, 0);
  put(t, ecam.address);
  put<uint16_t>(t, 0);
  t.push_back(0);
  t.push_back(ecam.last_bus);
  put<uint32_t>(t, 0);
  seal(t);
  return t;
}

// Spec: IA-PC HPET specification 1.0a, 3.2.4.
Bytes hpet() {
  Bytes t = table("HPET", 1);
  put<uint32_t>(t, Hpet::kBlockId);
  t.resize(t.size() + 12, 0);
  put_gas(t, 40, 0, 64, 0, Hpet::kAddress);
  t.push_back(0);         // the only one
  put<uint16_t>(t, 0x80);  // ticks that a periodic timer has at the least without losing interrupts
  t.push_back(0);         // no protection by page
  seal(t);
  return t;
}

Bytes srat(const AcpiConfig& config) {
  Bytes t = table("SRAT", 3);
  put<uint32_t>(t, 1);
  put<uint64_t>(t, 0);
  for (uint32_t node = 0; node < config.numa.size(); node++) {
    for (unsigned cpu : config.numa[node].cpus) {
      t.insert(t.end(), {2, 24, 0, 0});  // x2APIC affinity
      put(t, node);
      put<uint32_t>(t, cpu);
      put<uint32_t>(t, 1);
      put<uint32_t>(t, 0);
      put<uint32_t>(t, 0);
    }
    for (const auto& range : config.numa[node].memory) {
      t.insert(t.end(), {1, 40});
      put(t, node);
      put<uint16_t>(t, 0);
      put(t, range.start);
      put(t, range.size);
      put<uint32_t>(t, 0);
      put<uint32_t>(t, 1);
      put<uint64_t>(t, 0);
    }
  }
  seal(t);
  return t;
}

Bytes slit(size_t nodes) {
  Bytes t = table("SLIT", 1);
  put<uint64_t>(t, nodes);
  for (size_t i = 0; i < nodes; i++)
    for (size_t j = 0; j < nodes; j++) t.push_back(i == j ? 10 : 20);
  seal(t);
  return t;
}

}  // namespace

AcpiBlob build_acpi(const AcpiConfig& config) {
  AcpiBlob blob;
  auto place = [&](const Bytes& bytes, uint64_t align) {
    blob.tables.resize((blob.tables.size() + align - 1) & ~(align - 1));
    auto here = static_cast<uint32_t>(blob.tables.size());
    blob.tables.insert(blob.tables.end(), bytes.begin(), bytes.end());
    return here;
  };
  auto place_table = [&](const Bytes& bytes) {
    uint32_t here = place(bytes, 16);
    blob.tables[here + 9] = 0;  // some firmware sums it up with the rest
    blob.checksums.push_back({here, static_cast<uint32_t>(bytes.size()), here + 9});
    return here;
  };
  Bytes facs(64, 0);
  memcpy(facs.data(), "FACS", 4);
  put_at<uint32_t>(facs, 4, 64);
  facs[32] = kFacsVersion;
  blob.facs = place(facs, 64);
  Bytes dsdt = table("DSDT", 2);
  dsdt.insert(dsdt.end(), config.dsdt.begin(), config.dsdt.end());
  seal(dsdt);
  uint32_t dsdt_at = place_table(dsdt);

  std::vector<uint32_t> listed;
  listed.push_back(place_table(fadt(config, blob.facs, dsdt_at)));
  blob.pointers.push_back({listed[0] + 36, 4});
  blob.pointers.push_back({listed[0] + 40, 4});
  blob.pointers.push_back({listed[0] + 140, 8});
  listed.push_back(place_table(madt(config)));
  if (config.ecam) listed.push_back(place_table(mcfg(*config.ecam)));
  if (config.hpet) listed.push_back(place_table(hpet()));
  if (!config.numa.empty()) {
    listed.push_back(place_table(srat(config)));
    listed.push_back(place_table(slit(config.numa.size())));
  }
  Bytes rsdt = table("RSDT", 1), xsdt = table("XSDT", 1);
  for (uint32_t at : listed) put(rsdt, at), put<uint64_t>(xsdt, at);
  seal(rsdt);
  seal(xsdt);
  uint32_t rsdt_at = place_table(rsdt), xsdt_at = place_table(xsdt);
  for (uint32_t i = 0; i < listed.size(); i++) {
    blob.pointers.push_back({rsdt_at + static_cast<uint32_t>(kHeader) + 4 * i, 4});
    blob.pointers.push_back({xsdt_at + static_cast<uint32_t>(kHeader) + 8 * i, 8});
  }

  Bytes& rsdp = blob.rsdp;
  rsdp.resize(36, 0);
  memcpy(rsdp.data(), "RSD PTR ", 8);
  memcpy(&rsdp[9], "VIREO ", 6);
  rsdp[15] = 2;
  put_at(rsdp, 16, rsdt_at);
  put_at<uint32_t>(rsdp, 20, 36);
  put_at<uint64_t>(rsdp, 24, xsdt_at);
  blob.rsdp_pointers = {{16, 4}, {24, 8}};
  blob.rsdp_checksums = {{0, 20, 8}, {0, 36, 32}};
  return blob;
}

Result<AcpiTables> write_acpi(GuestMemory& memory, const AcpiConfig& config, GuestAddress start, GuestAddress end) {
  AcpiBlob blob = build_acpi(config);
  uint64_t base = (raw(start) + blob.rsdp.size() + AcpiBlob::kAlign - 1) & ~uint64_t{AcpiBlob::kAlign - 1};
  auto relocate = [base](Bytes& bytes, const std::vector<AcpiBlob::Pointer>& pointers, const std::vector<AcpiBlob::Checksum>& checksums) {
    for (auto [offset, size] : pointers) {
      uint64_t target = 0;
      memcpy(&target, &bytes[offset], size);
      target += base;
      memcpy(&bytes[offset], &target, size);
    }
    for (auto [from, length, at] : checksums) {
      bytes[at] = 0;
      bytes[at] = negative_sum(&bytes[from], length);
    }
  };
  relocate(blob.tables, blob.pointers, blob.checksums);
  relocate(blob.rsdp, blob.rsdp_pointers, blob.rsdp_checksums);
  if (base + blob.tables.size() > raw(end) || !memory.write(start, std::as_bytes(std::span(blob.rsdp))) ||
      !memory.write(GuestAddress{base}, std::as_bytes(std::span(blob.tables))))
    return fail(ErrorKind::kInternal, "ACPI tables do not fit their place");
  return AcpiTables{start, GuestAddress{base + blob.facs}};
}

}  // namespace vireo
