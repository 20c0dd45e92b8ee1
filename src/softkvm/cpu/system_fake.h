// SPDX-License-Identifier: Apache-2.0
// A flat machine for testing the system instructions: 1 MiB of memory seen at every linear address (modulo 1 MiB) but on pages marked
// absent, and records of what the engine was asked. It implements the engine's half of system.h.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

class Machine {
 public:
  static constexpr uint64_t kRam = 1 << 20;
  // Where the tests put their tables.
  static constexpr uint64_t kGdt = 0x1000, kIdt = 0x2000, kTss = 0x3000, kLdt = 0x4000, kStack = 0x9000, kCode = 0x10000;

  Machine();
  ~Machine();

  VcpuState v;
  kvm_run run{};
  CpuidTable cpuid;
  std::vector<uint8_t> ram = std::vector<uint8_t>(kRam + 4096);
  std::set<uint64_t> absent;  // linear pages
  bool exit_on_write = false;  // every write needs KVM_RUN to return first
  unsigned flushes = 0, page_flushes = 0, pcid_flushes = 0, address_spaces = 0;
  bool last_keep_global = false;
  uint64_t tsc = 1000, cr8 = 0, apic_base = 0xfee00900, port_value = 0;
  std::vector<std::string> ports;
  std::set<uint32_t> filtered_msrs;

  template <class T>
  void poke(uint64_t at, T value) { std::memcpy(&ram[at & (kRam - 1)], &value, sizeof value); }
  template <class T>
  T peek(uint64_t at) const {
    T value;
    std::memcpy(&value, &ram[at & (kRam - 1)], sizeof value);
    return value;
  }

  // Decodes the bytes in the present mode and runs them by name; on kNext rip is advanced.
  Outcome execute(std::vector<uint8_t> bytes);

  // Descriptors. `access` as in bytes 5 and 6 (high nibble) of a descriptor: G D/B L AVL at bits 12-15.
  static uint64_t descriptor(uint32_t base, uint32_t limit, uint16_t access);
  static uint64_t gate(uint16_t selector, uint32_t offset, unsigned type, unsigned dpl, unsigned low5 = 0, bool present = true);
  void set_gdt(unsigned index, uint64_t low) { poke(kGdt + index * 8, low); }
  void set_gate64(unsigned vector, uint16_t selector, uint64_t offset, unsigned type, unsigned dpl, unsigned ist = 0);
  void set_gate32(unsigned vector, uint64_t low) { poke(kIdt + vector * 8, low); }
  void set_feature(unsigned bit, bool on = true);

  // 64-bit mode, CPL `cpl`; GDT: 1 kernel code, 2 kernel data, 3 user code 32, 4 user data, 5 user code, 6-7 TSS (RSP0 = 0x8000, IST1 = 0x7000).
  void long_mode(unsigned cpl);
  // Flat protected mode: GDT: 1 code32, 2 data32, 3 user code32, 4 user data32, 5 TSS32 (SS0:ESP0 = 0x10:0x8000), 6 code16, 7 data16.
  void protected_mode(unsigned cpl);
  void real_mode();
  void vm86_mode(unsigned iopl);

  static constexpr uint16_t kKernelCs = 0x08, kKernelSs = 0x10, kUserCs32 = 0x1b, kUserSs = 0x23, kUserCs = 0x2b, kTr64 = 0x30, kTr32 = 0x28;
};

}  // namespace vireo::softkvm
