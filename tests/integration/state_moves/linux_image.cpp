// SPDX-License-Identifier: Apache-2.0
#include "linux_image.h"

#include <asm/bootparam.h>

#include <cstring>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <vector>

#include "saved_state.h"

namespace vireo::moves {
namespace {

constexpr uint64_t kZeroPage = 0x10000, kCommandLine = 0x20000, kTables = 0x30000, kAcpi = 0xf0000;
constexpr uint32_t kIoApic = 0xfec00000, kLocalApic = 0xfee00000;

std::vector<char> contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) die("%s cannot be opened", path.c_str());
  return {std::istreambuf_iterator<char>(file), {}};
}

// An ACPI table under construction.
class Table {
 public:
  Table(const char* signature, unsigned revision) : bytes_(36) {
    memcpy(bytes_.data(), signature, 4);
    bytes_[8] = static_cast<uint8_t>(revision);
    memcpy(&bytes_[10], "VIREO STATEMOV", 14);
    memcpy(&bytes_[28], "VIRE", 4);
  }
  void resize(size_t size) { bytes_.resize(size); }
  template <class T>
  void put(size_t at, T value) {
    memcpy(&bytes_[at], &value, sizeof value);
  }
  void add(std::initializer_list<uint8_t> more) { bytes_.insert(bytes_.end(), more); }
  template <class T>
  void add_value(T value) {
    bytes_.resize(bytes_.size() + sizeof value);
    put(bytes_.size() - sizeof value, value);
  }
  // Places it; the next one may follow at `at`.
  uint64_t place(uint8_t* ram, uint64_t& at) {
    put(4, static_cast<uint32_t>(bytes_.size()));
    bytes_[9] = negative_sum(bytes_.data(), bytes_.size());
    const uint64_t here = at;
    memcpy(ram + here, bytes_.data(), bytes_.size());
    at = (at + bytes_.size() + 63) & ~63ull;
    return here;
  }
  static uint8_t negative_sum(const uint8_t* bytes, size_t size) {
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) sum = static_cast<uint8_t>(sum + bytes[i]);
    return static_cast<uint8_t>(-sum);
  }

 private:
  std::vector<uint8_t> bytes_;
};

// MADT for the CPUs and the IOAPIC, and what ACPI cannot do without. No devices. Returns the RSDP's address.
uint64_t write_acpi(uint8_t* ram, unsigned cpus) {
  uint64_t at = kAcpi;
  const uint64_t facs = at;
  memset(ram + facs, 0, 64);
  memcpy(ram + facs, "FACS", 4);
  ram[facs + 4] = 64;
  at += 64;
  const uint64_t dsdt = Table("DSDT", 2).place(ram, at);

  Table fadt("FACP", 4);
  fadt.resize(244);
  fadt.put<uint32_t>(36, static_cast<uint32_t>(facs)), fadt.put<uint32_t>(40, static_cast<uint32_t>(dsdt)), fadt.put<uint16_t>(46, 9);
  fadt.put<uint32_t>(56, kPm1Event), fadt.put<uint32_t>(64, kPm1Control);
  fadt.put<uint8_t>(88, 4), fadt.put<uint8_t>(89, 2);
  fadt.put<uint16_t>(96, 0xfff), fadt.put<uint16_t>(98, 0xfff);  // no C2, no C3
  fadt.put<uint16_t>(109, 1 | 4 | 1 << 5);                       // legacy devices, but no 8042, VGA or RTC
  fadt.put<uint32_t>(112, 1 | 1 << 2 | 1 << 4 | 1 << 5);         // WBINVD, C1, no fixed buttons
  fadt.put<uint64_t>(140, dsdt);
  const uint64_t fadt_at = fadt.place(ram, at);

  Table madt("APIC", 4);
  madt.add_value<uint32_t>(kLocalApic), madt.add_value<uint32_t>(1);  // there are 8259s too
  for (unsigned cpu = 0; cpu < cpus; cpu++) {
    const auto id = static_cast<uint8_t>(cpu);
    madt.add({0, 8, id, id, 1, 0, 0, 0});
  }
  madt.add({1, 12, 0, 0}), madt.add_value<uint32_t>(kIoApic), madt.add_value<uint32_t>(0);
  madt.add({2, 10, 0, 0}), madt.add_value<uint32_t>(2), madt.add_value<uint16_t>(0);    // the PIT's interrupt is on pin 2
  madt.add({2, 10, 0, 9}), madt.add_value<uint32_t>(9), madt.add_value<uint16_t>(0xd);  // SCI: level, high
  madt.add({4, 6, 0xff, 0, 0, 1});                                                      // LINT1: NMI
  const uint64_t madt_at = madt.place(ram, at);

  Table xsdt("XSDT", 1);
  xsdt.add_value(fadt_at), xsdt.add_value(madt_at);
  const uint64_t xsdt_at = xsdt.place(ram, at);
  uint8_t rsdp[36] = {};
  memcpy(rsdp, "RSD PTR ", 8);
  memcpy(rsdp + 9, "VIREO ", 6);
  rsdp[15] = 2, rsdp[20] = 36;
  memcpy(rsdp + 24, &xsdt_at, 8);
  rsdp[8] = Table::negative_sum(rsdp, 20);
  rsdp[32] = Table::negative_sum(rsdp, 36);
  memcpy(ram + at, rsdp, sizeof rsdp);
  return at;
}

kvm_segment flat(uint16_t selector, uint8_t type, bool code) {
  kvm_segment s{};
  s.limit = 0xffffffff, s.selector = selector, s.type = type, s.present = 1, s.s = 1, s.g = 1;
  s.l = code, s.db = !code;
  return s;
}

}  // namespace

void enter_long_mode(uint8_t* ram, uint64_t tables, kvm_sregs& sregs) {
  auto put = [&](uint64_t at, uint64_t value) { memcpy(ram + at, &value, 8); };
  put(tables, (tables + 0x1000) | 3);
  put(tables + 0x1000, (tables + 0x2000) | 3);
  for (uint64_t i = 0; i < 512; i++) put(tables + 0x2000 + i * 8, i << 21 | 0x83);
  // boot.rst: the descriptors of __BOOT_CS and __BOOT_DS.
  put(tables + 0x3000, 0), put(tables + 0x3008, 0), put(tables + 0x3010, 0x00af9b000000ffff), put(tables + 0x3018, 0x00cf93000000ffff);
  sregs.cs = flat(0x10, 0xb, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(0x18, 3, false);
  sregs.tr = {.limit = 0x67, .type = 0xb, .present = 1};
  sregs.ldt = {.type = 2, .unusable = 1};
  sregs.gdt = {.base = tables + 0x3000, .limit = 31};
  sregs.idt = {};
  sregs.cr0 = 0x80000011, sregs.cr3 = tables, sregs.cr4 = 0x20, sregs.efer = 0x500;
}

void load_linux(uint8_t* ram, size_t size, const std::string& kernel, const std::string& initrd, const std::string& command_line,
                unsigned cpus, kvm_regs& regs, kvm_sregs& sregs) {
  std::vector<char> image = contents(kernel), disk = contents(initrd);
  if (image.size() < 0x1000) die("%s is no kernel", kernel.c_str());
  boot_params params{};
  const size_t header = offsetof(boot_params, hdr);
  memcpy(&params.hdr, image.data() + header, 0x202 + static_cast<uint8_t>(image[0x201]) - header);
  if (params.hdr.header != 0x53726448 || !(params.hdr.xloadflags & XLF_KERNEL_64)) die("%s has no 64-bit entry", kernel.c_str());
  const size_t setup = (params.hdr.setup_sects ? params.hdr.setup_sects + 1u : 5u) * 512;
  const uint64_t start = params.hdr.pref_address;
  const uint64_t at = (size - disk.size()) & ~0xfffull;
  if (start + params.hdr.init_size > at || disk.size() > size) die("the guest's memory is too small");
  memcpy(ram + start, image.data() + setup, image.size() - setup);
  memcpy(ram + at, disk.data(), disk.size());
  memcpy(ram + kCommandLine, command_line.c_str(), command_line.size() + 1);
  params.hdr.type_of_loader = 0xff;
  params.hdr.cmd_line_ptr = kCommandLine;
  params.hdr.ramdisk_image = static_cast<uint32_t>(at);
  params.hdr.ramdisk_size = static_cast<uint32_t>(disk.size());
  params.e820_table[0] = {0, 0xa0000, 1};
  params.e820_table[1] = {0xf0000, 0x10000, 2};
  params.e820_table[2] = {0x100000, size - 0x100000, 1};
  params.e820_entries = 3;
  params.acpi_rsdp_addr = write_acpi(ram, cpus);
  memcpy(ram + kZeroPage, &params, sizeof params);
  enter_long_mode(ram, kTables, sregs);
  regs = {};
  regs.rip = start + 0x200;
  regs.rsi = kZeroPage;
  regs.rflags = 2;
}

}  // namespace vireo::moves
