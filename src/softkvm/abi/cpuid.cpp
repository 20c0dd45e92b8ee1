// SPDX-License-Identifier: Apache-2.0
// KVM_SET_CPUID(2), KVM_GET_CPUID2: the leaves of one vCPU. Once it has run they may be given again but not change.
#include <cpuid.h>

#include "softkvm/cpu/cpuid_supported.h"

#include <cerrno>
#include <memory>
#include <vector>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/irq.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"

namespace vireo::softkvm::abi {

const Capability kCpuidCapabilities[] = {
    {KVM_CAP_EXT_CPUID},
    {KVM_CAP_ENFORCE_PV_FEATURE_CPUID},
};
CAPABILITIES(cpuid_capabilities, kCpuidCapabilities)

namespace {

// What the guest would be told now, with the bits that follow its state (OSXSAVE, APIC ...): two tables that differ in these alone are one.
bool same_answers(VcpuFile& file, const CpuidTable& other) {
  const CpuidTable& mine = file.cpuid;
  if (mine.count != other.count) return false;
  bool same = true;
  for (unsigned i = 0; same && i < mine.count; i++) {
    const CpuidEntry &a = mine.entries[i], &b = other.entries[i];
    same = a.function == b.function && a.index == b.index && a.flags == b.flags;
    if (!same) break;
    VcpuState& v = *file.vcpu;
    CpuidEntry x = cpuid(v, a.function, a.index);
    v.cpuid = &other;
    CpuidEntry y = cpuid(v, b.function, b.index);
    v.cpuid = &mine;
    same = x.eax == y.eax && x.ebx == y.ebx && x.ecx == y.ecx && x.edx == y.edx;
  }
  return same;
}

constexpr uint64_t kXcr0Pkru = 1 << 9;  // no host register: done by hand

int install(VcpuFile& file, const std::vector<CpuidEntry>& entries) {
  auto table = make_cpuid_table(entries);
  if (!table) return -E2BIG;
  if (const CpuidEntry* sizes = table->find(0x80000008, 0)) {
    unsigned linear = sizes->eax >> 8 & 0xff;
    if (linear != 0 && linear != 48 && linear != 57) return -EINVAL;
  }
  // What the host's own XSAVE and XRSTOR are run with: no component that it has not, and where they lie is the host's to say.
  table->xcr0_supported &= Vcpu::supported_xcr0() | kXcr0Pkru;
  for (unsigned i = 2; i < 63; i++)
    if (Vcpu::supported_xcr0() >> i & 1) {
      unsigned a, b, c, d;
      __cpuid_count(0xd, i, a, b, c, d);
      table->xsave_component[i] = {a, b, c};
    }
  // Where PKRU lies is user space's to say, but it has to be a place.
  if (const auto& pkru = table->xsave_component[9]; pkru.size != 8 || pkru.offset < 576 || pkru.offset > 4096 - 8) table->xcr0_supported &= ~kXcr0Pkru;
  Vcpu& v = *file.vcpu;
  if (file.has_run) return same_answers(file, *table) ? 0 : -EINVAL;
  file.cpuid = *table;
  v.cpuid = &file.cpuid;
  v.physical_bits = file.cpuid.physical_bits;
  v.vendor_is_amd = file.cpuid.amd;
  update_lapic_features(file);
  v.state_changed();
  return 0;
}

}  // namespace

int set_cpuid2(VcpuFile& file, uintptr_t argument) {
  kvm_cpuid2 header;
  if (!copy_in(&header, argument, sizeof header)) return -EFAULT;
  if (header.nent > CpuidTable::kMaxEntries) return -E2BIG;
  std::vector<kvm_cpuid_entry2> entries(header.nent);
  if (!copy_in(entries.data(), argument + sizeof header, entries.size() * sizeof(kvm_cpuid_entry2))) return -EFAULT;
  std::vector<CpuidEntry> table;
  for (const kvm_cpuid_entry2& e : entries) table.push_back({e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx});
  return install(file, table);
}

// The older form: one entry a leaf.
int set_cpuid(VcpuFile& file, uintptr_t argument) {
  kvm_cpuid header;
  if (!copy_in(&header, argument, sizeof header)) return -EFAULT;
  if (header.nent > CpuidTable::kMaxEntries) return -E2BIG;
  std::vector<kvm_cpuid_entry> entries(header.nent);
  if (!copy_in(entries.data(), argument + sizeof header, entries.size() * sizeof(kvm_cpuid_entry))) return -EFAULT;
  std::vector<CpuidEntry> table;
  for (const kvm_cpuid_entry& e : entries) table.push_back({e.function, 0, 0, e.eax, e.ebx, e.ecx, e.edx});
  return install(file, table);
}

int get_cpuid2(VcpuFile& file, uintptr_t argument) {
  kvm_cpuid2 header;
  if (!copy_in(&header, argument, sizeof header)) return -EFAULT;
  const CpuidTable& table = file.cpuid;
  if (header.nent < table.count) return -E2BIG;
  std::vector<kvm_cpuid_entry2> entries(table.count);
  for (unsigned i = 0; i < table.count; i++) {
    const CpuidEntry& e = table.entries[i];
    CpuidEntry now = cpuid(*file.vcpu, e.function, e.index);
    entries[i] = {e.function, e.index, e.flags, now.eax, now.ebx, now.ecx, now.edx, {}};
  }
  header.nent = table.count;
  if (!copy_out(argument + sizeof header, entries.data(), entries.size() * sizeof(kvm_cpuid_entry2))) return -EFAULT;
  return copy_out(argument, &header, sizeof header) ? 0 : -EFAULT;
}

}  // namespace vireo::softkvm::abi
