// SPDX-License-Identifier: Apache-2.0
#include "linux_image.h"

#include <asm/bootparam.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "saved_state.h"

namespace vireo::moves {
namespace {

constexpr uint64_t kZeroPage = 0x10000, kCommandLine = 0x20000, kTables = 0x30000, kMpTable = 0xf0000;
constexpr uint32_t kIoApic = 0xfec00000, kLocalApic = 0xfee00000;

std::vector<char> contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) die("%s cannot be opened", path.c_str());
  return {std::istreambuf_iterator<char>(file), {}};
}

class Bytes {
 public:
  explicit Bytes(uint8_t* at) : start_(at), at_(at) {}
  void u8(unsigned value) { *at_++ = static_cast<uint8_t>(value); }
  void u16(unsigned value) { u8(value & 0xff), u8(value >> 8); }
  void u32(uint32_t value) { u16(value & 0xffff), u16(value >> 16); }
  void text(const char* value, size_t size) { memcpy(at_, value, size), at_ += size; }
  size_t size() const { return static_cast<size_t>(at_ - start_); }
  void checksum(size_t at) {
    uint8_t sum = 0;
    for (uint8_t* p = start_; p < at_; p++) sum = static_cast<uint8_t>(sum + *p);
    start_[at] = static_cast<uint8_t>(start_[at] - sum);
  }

 private:
  uint8_t *start_, *at_;
};

void write_mp_table(uint8_t* ram, unsigned cpus) {
  Bytes pointer(ram + kMpTable);
  pointer.text("_MP_", 4);
  pointer.u32(kMpTable + 16);
  pointer.u8(1), pointer.u8(4), pointer.u8(0);
  for (int i = 0; i < 5; i++) pointer.u8(0);
  pointer.checksum(10);

  const unsigned io_apic_id = cpus;
  Bytes table(ram + kMpTable + 16);
  const unsigned entries = cpus + 1 + 1 + 16 + 2;
  const unsigned size = 44 + cpus * 20 + 8 + 8 + 16 * 8 + 2 * 8;
  table.text("PCMP", 4), table.u16(size), table.u8(4), table.u8(0);
  table.text("VIREO   STATE MOVES ", 20);
  table.u32(0), table.u16(0), table.u16(entries), table.u32(kLocalApic), table.u16(0), table.u8(0), table.u8(0);
  for (unsigned cpu = 0; cpu < cpus; cpu++) {
    table.u8(0), table.u8(cpu), table.u8(0x14), table.u8(cpu == 0 ? 3 : 1);
    table.u32(0x600), table.u32(0x201), table.u32(0), table.u32(0);
  }
  table.u8(1), table.u8(0), table.text("ISA   ", 6);
  table.u8(2), table.u8(io_apic_id), table.u8(0x11), table.u8(1), table.u32(kIoApic);
  // ISA interrupts go to the pins of their numbers, but the PIT's to pin 2.
  for (unsigned irq = 0; irq < 16; irq++) {
    table.u8(3), table.u8(irq == 2 ? 3 : 0), table.u16(0), table.u8(0), table.u8(irq == 2 ? 0 : irq), table.u8(io_apic_id);
    table.u8(irq == 0 ? 2 : irq == 2 ? 0 : irq);
  }
  table.u8(4), table.u8(3), table.u16(0), table.u8(0), table.u8(0), table.u8(0xff), table.u8(0);  // ExtINT to LINT0
  table.u8(4), table.u8(1), table.u16(0), table.u8(0), table.u8(0), table.u8(0xff), table.u8(1);  // NMI to LINT1
  if (table.size() != size) die("the MP table is %zu bytes, not %u", table.size(), size);
  table.checksum(7);
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
  memcpy(ram + kZeroPage, &params, sizeof params);
  write_mp_table(ram, cpus);
  enter_long_mode(ram, kTables, sregs);
  regs = {};
  regs.rip = start + 0x200;
  regs.rsi = kZeroPage;
  regs.rflags = 2;
}

}  // namespace vireo::moves
