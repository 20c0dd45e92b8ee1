// SPDX-License-Identifier: Apache-2.0
#include "machine/smbios.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace vireo {
namespace {

class Structure {
 public:
  Structure(uint8_t type, uint16_t handle) {
    bytes_ = {type, 0};
    word(handle);
  }
  Structure& byte(uint8_t value) {
    bytes_.push_back(value);
    return *this;
  }
  Structure& word(uint16_t value) { return put(value, 2); }
  Structure& dword(uint32_t value) { return put(value, 4); }
  Structure& qword(uint64_t value) { return put(value, 8); }
  Structure& string(const char* text) {
    strings_.insert(strings_.end(), text, text + strlen(text) + 1);
    return byte(++count_);
  }
  Structure& fill(size_t count, uint8_t value = 0) {
    for (size_t i = 0; i < count; i++) byte(value);
    return *this;
  }
  void append_to(std::vector<uint8_t>& table) {
    bytes_[1] = static_cast<uint8_t>(bytes_.size());
    for (uint8_t b : bytes_) table.push_back(b);
    for (char c : strings_) table.push_back(static_cast<uint8_t>(c));
    if (!count_) table.push_back(0);
    table.push_back(0);
  }

 private:
  Structure& put(uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; i++) byte(static_cast<uint8_t>(value >> 8 * i));
    return *this;
  }
  std::vector<uint8_t> bytes_;
  std::vector<char> strings_;
  uint8_t count_ = 0;
};

}  // namespace

Smbios build_smbios(unsigned cpus, uint64_t ram) {
  Smbios smbios;
  std::vector<uint8_t>& table = smbios.table;
  // 7.1 BIOS: vendor, version, segment, date, size 64 KiB, characteristics (3: not supported listing; extension: virtual machine).
  Structure(0, 0x0000).string("Vireo").string("1").word(0xf000).string("01/01/2026").byte(0).qword(1 << 3).byte(0).byte(1 << 4).byte(0).byte(1).byte(0xff).byte(0xff).append_to(table);
  // 7.2 system.
  Structure(1, 0x0100).string("Vireo").string("Vireo PC").string("1").byte(0).fill(16).byte(6).byte(0).byte(0).append_to(table);
  // 7.4 enclosure: other.
  Structure(3, 0x0300).string("Vireo").byte(1).byte(0).byte(0).byte(0).fill(4, 3).dword(0).byte(0).byte(0).byte(0).byte(0).append_to(table);
  // 7.5 processor: one package.
  uint16_t cores = static_cast<uint16_t>(std::min(cpus, 65535u));
  uint8_t few = static_cast<uint8_t>(std::min(cpus, 255u));
  Structure(4, 0x0400).string("CPU 0").byte(3).byte(1).string("Vireo").qword(0).byte(0).byte(0).word(0).word(0).word(0).byte(0x41).byte(1).word(0xffff).word(0xffff).word(0xffff)
      .byte(0).byte(0).byte(0).byte(few).byte(few).byte(few).word(4).word(1).word(cores).word(cores).word(cores).append_to(table);
  // 7.17 memory array and 7.18 one module in it.
  constexpr uint32_t kUseExtended = 0x80000000;
  uint64_t kib = ram >> 10;
  Structure(16, 0x1000).byte(1).byte(3).byte(6).dword(kib < kUseExtended ? static_cast<uint32_t>(kib) : kUseExtended).word(0xfffe).word(1).qword(kib < kUseExtended ? 0 : ram).append_to(table);
  uint64_t mib = ram >> 20;
  Structure(17, 0x1100).word(0x1000).word(0xfffe).word(64).word(64).word(mib < 0x7fff ? static_cast<uint16_t>(mib) : 0x7fff).byte(9).byte(0).string("DIMM 0").byte(0)
      .byte(7).word(0).word(0).string("Vireo").byte(0).byte(0).byte(0).byte(0).dword(mib < 0x7fff ? 0 : static_cast<uint32_t>(mib)).word(0).word(0).word(0).word(0).append_to(table);
  Structure(32, 0x2000).fill(6).byte(0).append_to(table);
  Structure(127, 0x7f00).append_to(table);

  smbios.entry = {'_', 'S', 'M', '3', '_', 0, 24, 3, 6, 0, 1, 0};
  smbios.entry.resize(24, 0);
  auto size = static_cast<uint32_t>(table.size());
  memcpy(&smbios.entry[12], &size, 4);
  return smbios;
}

Result<> write_smbios(GuestMemory& memory, unsigned cpus, uint64_t ram, GuestAddress start, GuestAddress end) {
  auto [entry, table] = build_smbios(cpus, ram);
  uint64_t at = raw(start) + 32;
  memcpy(&entry[Smbios::kTableAddress], &at, 8);
  entry[Smbios::kChecksum] = static_cast<uint8_t>(-std::accumulate(entry.begin(), entry.end(), 0));
  if (at + table.size() > raw(end) || !memory.write(start, std::as_bytes(std::span(entry))) ||
      !memory.write(GuestAddress{at}, std::as_bytes(std::span(table))))
    return fail(ErrorKind::kInternal, "SMBIOS tables do not fit their place");
  return {};
}

}  // namespace vireo
