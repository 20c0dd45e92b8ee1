// SPDX-License-Identifier: Apache-2.0
#include "machine/cpu_entry.h"

#include <array>
#include <cstring>

namespace vireo {
namespace {

constexpr uint16_t kCodeSelector = 0x10, kDataSelector = 0x18;
constexpr uint64_t kCode64 = 0x00af9b000000ffff, kCode32 = 0x00cf9b000000ffff, kData = 0x00cf93000000ffff;

kvm_segment segment(uint16_t selector, uint8_t type, bool long_mode) {
  return {.limit = 0xffffffff,
          .selector = selector,
          .type = type,
          .present = 1,
          .db = static_cast<uint8_t>(!long_mode),
          .s = 1,
          .l = static_cast<uint8_t>(long_mode),
          .g = 1};
}

template <class T, size_t N>
Result<> store(GuestMemory& memory, uint64_t at, const std::array<T, N>& values) {
  if (!memory.write(GuestAddress{at}, std::as_bytes(std::span(values))))
    return fail(ErrorKind::kInvalid, "memory too small for the boot tables");
  return {};
}

}  // namespace

Result<> enter(kvm::Vcpu& vcpu, GuestMemory& memory, const CpuEntry& entry) {
  if (entry.mode == CpuEntry::Mode::kReset) return {};
  bool wide = entry.mode == CpuEntry::Mode::kLong64;
  std::array<uint64_t, 4> gdt{0, 0, wide ? kCode64 : kCode32, kData};
  TRY_VOID(store(memory, kBootGdt, gdt));

  kvm_sregs sregs = TRY(vcpu.sregs());
  sregs.cs = segment(kCodeSelector, 0xb, wide);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(kDataSelector, 0x3, false);
  sregs.tr = {.limit = 0x67, .type = 0xb, .present = 1};
  sregs.ldt = {.type = 2, .unusable = 1};
  sregs.gdt = {.base = kBootGdt, .limit = sizeof gdt - 1};
  sregs.idt = {.base = 0, .limit = 0};
  sregs.cr0 = 0x11;  // PE, ET
  if (wide) {
    std::array<uint64_t, 512> table{};
    table[0] = (kBootPageTables + 0x1000) | 3;
    TRY_VOID(store(memory, kBootPageTables, table));
    for (uint64_t i = 0; i < 4; i++) table[i] = (kBootPageTables + 0x2000 + i * 0x1000) | 3;
    TRY_VOID(store(memory, kBootPageTables + 0x1000, table));
    for (uint64_t i = 0; i < 4; i++) {
      for (uint64_t j = 0; j < 512; j++) table[j] = (i << 30) | (j << 21) | 0x83;
      TRY_VOID(store(memory, kBootPageTables + 0x2000 + i * 0x1000, table));
    }
    sregs.cr0 |= 0x80000000;
    sregs.cr3 = kBootPageTables;
    sregs.cr4 = 0x20;     // PAE
    sregs.efer = 0x500;   // LME, LMA
  }
  TRY_VOID(vcpu.set_sregs(sregs));
  kvm_regs regs{};
  regs.rip = entry.rip;
  regs.rax = entry.rax;
  regs.rbx = entry.rbx;
  regs.rsi = entry.rsi;
  if (wide) regs.rsp = kBootStackEnd;
  regs.rflags = 2;
  return vcpu.set_regs(regs);
}

Result<bool> enter_waking_vector(kvm::Vcpu& vcpu, GuestMemory& memory, GuestAddress facs) {
  struct {
    char signature[4];
    uint32_t length, hardware_signature, vector, lock, flags;
    uint64_t x_vector;
    uint8_t version, reserved[31];
  } table;
  static_assert(sizeof table == 64);
  if (!memory.read(facs, std::as_writable_bytes(std::span(&table, 1))) || memcmp(table.signature, "FACS", 4)) return false;
  kvm_sregs sregs = TRY(vcpu.sregs());
  kvm_regs regs{.rflags = 2};
  if (table.x_vector && table.x_vector >> 32 == 0) {
    sregs.cs = segment(kCodeSelector, 0xb, false);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(kDataSelector, 0x3, false);
    sregs.cr0 = 0x11;  // PE, ET
    regs.rip = table.x_vector;
  } else if (table.vector && table.vector < 0x100000) {
    sregs.cs.selector = static_cast<uint16_t>(table.vector >> 4);
    sregs.cs.base = table.vector & ~0xfu;
    regs.rip = table.vector & 0xf;
  } else {
    return false;
  }
  TRY_VOID(vcpu.set_sregs(sregs));
  TRY_VOID(vcpu.set_regs(regs));
  return true;
}

}  // namespace vireo
