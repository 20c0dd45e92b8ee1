// SPDX-License-Identifier: Apache-2.0
// Looking CPUID leaves up, and the bits of them that follow the vCPU's state.
// Spec: Intel SDM vol 2, CPUID (table 3-8; leaves out of range); AMD APM vol 3, appendix E; SDM vol 1, 13.2 and 13.4.3 (XSAVE sizes).
#include "softkvm/cpu/cpuid.h"

#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

namespace {

constexpr uint32_t kAuthenticAmdEbx = 0x68747541, kHygonGenuineEbx = 0x6f677948;
constexpr uint64_t kApicBaseEnable = 1 << 11;
constexpr uint64_t kMiscEnableMwait = 1 << 18;
constexpr uint32_t kQuirkMiscEnableNoMwait = 1 << 4;

uint32_t set_bit(uint32_t value, unsigned bit, bool on) { return on ? value | 1u << bit : value & ~(1u << bit); }

}  // namespace

const CpuidEntry* CpuidTable::find(uint32_t function, uint32_t index) const {
  for (unsigned i = 0; i < count; i++) {
    const CpuidEntry& e = entries[i];
    if (e.function == function && (!(e.flags & CpuidEntry::kSignificantIndex) || e.index == index)) return &e;
  }
  return nullptr;
}

void CpuidTable::seal() {
  auto word = [this](CpuidWord w, uint32_t function, uint32_t index, uint32_t CpuidEntry::* reg) {
    const CpuidEntry* e = find(function, index);
    words[w] = e ? e->*reg : 0;
  };
  word(kWord1Ecx, 1, 0, &CpuidEntry::ecx);
  word(kWord1Edx, 1, 0, &CpuidEntry::edx);
  word(kWord6Eax, 6, 0, &CpuidEntry::eax);
  word(kWord7Ebx, 7, 0, &CpuidEntry::ebx);
  word(kWord7Ecx, 7, 0, &CpuidEntry::ecx);
  word(kWord7Edx, 7, 0, &CpuidEntry::edx);
  word(kWord71Eax, 7, 1, &CpuidEntry::eax);
  word(kWord14Ebx, 0x14, 0, &CpuidEntry::ebx);
  word(kWordD1Eax, 0xd, 1, &CpuidEntry::eax);
  word(kWordKvmEax, 0x40000001, 0, &CpuidEntry::eax);
  word(kWordExt1Ecx, 0x80000001, 0, &CpuidEntry::ecx);
  word(kWordExt1Edx, 0x80000001, 0, &CpuidEntry::edx);
  word(kWordExt7Edx, 0x80000007, 0, &CpuidEntry::edx);
  word(kWordExt8Ebx, 0x80000008, 0, &CpuidEntry::ebx);
  word(kWordExt21Eax, 0x80000021, 0, &CpuidEntry::eax);
  word(kWordSvmEdx, 0x8000000a, 0, &CpuidEntry::edx);

  xcr0_supported = 1;
  xss_supported = 0;
  for (auto& c : xsave_component) c = {};
  if (has(kCpuidXsave)) {
    if (const CpuidEntry* e = find(0xd, 0)) xcr0_supported = e->eax | static_cast<uint64_t>(e->edx) << 32 | 1;
    if (const CpuidEntry* e = find(0xd, 1); e && has(kCpuidXsaves)) xss_supported = e->ecx | static_cast<uint64_t>(e->edx) << 32;
    for (unsigned i = 2; i < 63; i++)
      if (const CpuidEntry* e = find(0xd, i)) xsave_component[i] = {e->eax, e->ebx, e->ecx};
  }
  physical_bits = 36;
  if (const CpuidEntry* e = find(0x80000008, 0)) physical_bits = static_cast<uint8_t>(e->eax);
  if (physical_bits < 32 || physical_bits > 52) physical_bits = physical_bits < 32 ? 32 : 52;
  const CpuidEntry* vendor = find(0, 0);
  amd = vendor && (vendor->ebx == kAuthenticAmdEbx || vendor->ebx == kHygonGenuineEbx);
}

uint32_t CpuidTable::xsave_size(uint64_t xcr0) const {
  uint32_t size = 576;  // legacy area and header
  for (unsigned i = 2; i < 63; i++)
    if (xcr0 >> i & 1) {
      uint32_t end = xsave_component[i].offset + xsave_component[i].size;
      if (end > size) size = end;
    }
  return size;
}

uint32_t CpuidTable::xsave_compacted_size(uint64_t components) const {
  uint32_t size = 576;
  for (unsigned i = 2; i < 63; i++)
    if (components >> i & 1) {
      if (xsave_component[i].flags & 2) size = (size + 63) & ~63u;
      size += xsave_component[i].size;
    }
  return size;
}

CpuidEntry cpuid(VcpuState& vcpu, uint32_t function, uint32_t index) {
  CpuidEntry none{function, index, 0, 0, 0, 0, 0};
  const CpuidTable* table = vcpu.cpuid;
  if (!table) return none;
  const CpuidEntry* found = table->find(function, index);
  if (!found) {
    // Beyond the range of its class Intel answers with the highest basic leaf, AMD with zeros (SDM vol 2, CPUID).
    uint32_t base = function < 0x40000000 ? 0 : function & 0xffff0000;
    const CpuidEntry* range = table->find(base, 0);
    const CpuidEntry* basic = table->find(0, 0);
    bool beyond = !range || function > range->eax || function < base;
    if (!table->amd && basic && beyond && function != 0) {
      function = basic->eax;
      found = table->find(function, index);
    }
    if (!found) {
      // Subleaves that are not there still say which level they were asked for (leaves 0xB and 0x1F).
      if (function == 0xb || function == 0x1f)
        if (const CpuidEntry* first = table->find(function, 0)) {
          none.ecx = index & 0xff;
          none.edx = first->edx;
        }
      return none;
    }
  }
  CpuidEntry e = *found;
  switch (function) {
    case 1: {
      e.ecx = set_bit(e.ecx, 27, (e.ecx & 1u << 26) && (vcpu.cr4 & kCr4Osxsave));
      uint64_t apic_base = kApicBaseEnable;
      read_apic_msr(vcpu, 0x1b, apic_base);
      if (!(apic_base & kApicBaseEnable)) e.edx &= ~(1u << 9);
      if (vcpu.disabled_quirks & kQuirkMiscEnableNoMwait) e.ecx = set_bit(e.ecx, 3, vcpu.msr.misc_enable & kMiscEnableMwait);
      break;
    }
    case 7:
      if (index == 0) e.ecx = set_bit(e.ecx, 4, (e.ecx & 1u << 3) && (vcpu.cr4 & kCr4Pke));
      break;
    case 0xd:
      if (index == 0) e.ebx = table->xsave_size(vcpu.xcr0);
      if (index == 1 && (e.eax & 0xa)) e.ebx = table->xsave_compacted_size(vcpu.xcr0 | vcpu.msr.xss);
      break;
    case 0x80000001: {
      if (!table->amd) break;
      uint64_t apic_base = kApicBaseEnable;
      read_apic_msr(vcpu, 0x1b, apic_base);
      if (!(apic_base & kApicBaseEnable)) e.edx &= ~(1u << 9);
      break;
    }
    default: break;
  }
  return e;
}

}  // namespace vireo::softkvm
