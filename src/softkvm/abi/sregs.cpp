// SPDX-License-Identifier: Apache-2.0
// KVM_GET_SREGS(2), KVM_SET_SREGS(2): segments, tables, control registers. Whatever a CPU could not hold is refused whole (EINVAL), so that
// a state which was accepted can be entered. Spec: Intel SDM vol 3, 2.5 (control registers), 27.3.1 (consistency of a guest's state).
#include <cerrno>
#include <cstring>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/irq.h"
#include "softkvm/abi/system_ioctls.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/cpu/system.h"
#include "softkvm/mmu/slots.h"

namespace vireo::softkvm::abi {

const Capability kSregsCapabilities[] = {
    {KVM_CAP_SREGS2},
};
CAPABILITIES(sregs_capabilities, kSregsCapabilities)

namespace {

// A segment that is not present cannot be used: VMX demands so, and callers that lose `unusable` rely on it.
kvm_segment to_abi(const Segment& s) {
  kvm_segment out{};
  out.base = s.base;
  out.limit = s.limit;
  out.selector = s.selector;
  out.type = s.type();
  out.s = s.s();
  out.dpl = s.dpl();
  out.present = s.present();
  out.avl = s.access >> 12 & 1;
  out.l = s.long_mode();
  out.db = s.db();
  out.g = s.access >> 15 & 1;
  out.unusable = s.unusable || !s.present();
  return out;
}

Segment from_abi(const kvm_segment& in) {
  Segment s;
  s.base = in.base;
  s.limit = in.limit;
  s.selector = in.selector;
  s.access = static_cast<uint16_t>((in.type & 15) | (in.s ? 1 << 4 : 0) | (in.dpl & 3) << 5 | (in.present ? 1 << 7 : 0) |
                                   (in.avl ? 1 << 12 : 0) | (in.l ? 1 << 13 : 0) | (in.db ? 1 << 14 : 0) | (in.g ? 1 << 15 : 0));
  s.unusable = in.unusable || !in.present;
  return s;
}

bool pae_paging(const VcpuState& v) { return (v.cr0 & kCr0Pg) && (v.cr4 & kCr4Pae) && !(v.efer & kEferLma); }

// PAE's four entries, from guest memory. That is user space's mapping, which may have gone: then they stay what they are.
void load_pdpte(VcpuFile& file) {
  Vcpu& v = *file.vcpu;
  uint64_t entries[4];
  std::lock_guard lock(file.vm.slots_mutex);
  const uint64_t table = (v.cr3 & 0xffffffe0) | (v.in_smm ? kSmmSpace : 0);  // aligned: all four in one page, so in one slot
  const uint8_t* host = file.vm.vm->slots->host(table);
  if (host != nullptr && copy_in(entries, reinterpret_cast<uintptr_t>(host))) std::memcpy(v.pdpte, entries, sizeof entries);
}

// `Sregs`: kvm_sregs or kvm_sregs2, whose common members have the same names.
template <class Sregs>
void save_common(VcpuFile& file, Sregs& out) {
  Vcpu& v = *file.vcpu;
  out.cs = to_abi(v.segment[kCS]), out.ds = to_abi(v.segment[kDS]), out.es = to_abi(v.segment[kES]);
  out.fs = to_abi(v.segment[kFS]), out.gs = to_abi(v.segment[kGS]), out.ss = to_abi(v.segment[kSS]);
  out.tr = to_abi(v.tr), out.ldt = to_abi(v.ldtr);
  out.gdt.base = v.gdtr.base, out.gdt.limit = v.gdtr.limit;
  out.idt.base = v.idtr.base, out.idt.limit = v.idtr.limit;
  out.cr0 = v.cr0, out.cr2 = v.cr2, out.cr3 = v.cr3, out.cr4 = v.cr4;
  out.efer = v.efer;
  out.cr8 = task_priority(file);
  out.apic_base = apic_base(file);
}

// Before KVM_SET_CPUID2 a vCPU may be given what any could have.
bool acceptable_cr4(const Vcpu& vcpu, uint64_t value) {
  if (vcpu.cpuid != nullptr && vcpu.cpuid->count != 0) return valid_cr4(vcpu, value);
  auto& v = const_cast<Vcpu&>(vcpu);  // its mutex is held, and it does not run
  const CpuidTable* own = v.cpuid;
  v.cpuid = &offered_cpuid();
  const bool fine = valid_cr4(v, value);
  v.cpuid = own;
  return fine;
}

template <class Sregs>
bool valid(const Vcpu& v, const Sregs& in) {
  if ((in.efer & kEferLme) && (in.cr0 & kCr0Pg)) {
    if (!(in.cr4 & kCr4Pae) || !(in.efer & kEferLma)) return false;
    if (in.cr3 >> v.physical_bits) return false;
  } else if ((in.efer & kEferLma) || in.cs.l) {
    return false;
  }
  return valid_cr0(v, in.cr0) && acceptable_cr4(v, in.cr4);
}

template <class Sregs>
int load_common(VcpuFile& file, const Sregs& in) {
  Vcpu& v = *file.vcpu;
  if (!valid(v, in) || !set_apic_base(file, in.apic_base)) return -EINVAL;
  v.segment[kCS] = from_abi(in.cs), v.segment[kDS] = from_abi(in.ds), v.segment[kES] = from_abi(in.es);
  v.segment[kFS] = from_abi(in.fs), v.segment[kGS] = from_abi(in.gs), v.segment[kSS] = from_abi(in.ss);
  v.tr = from_abi(in.tr), v.ldtr = from_abi(in.ldt);
  v.gdtr = {in.gdt.base, in.gdt.limit};
  v.idtr = {in.idt.base, in.idt.limit};
  v.cr0 = in.cr0 | kCr0Et, v.cr2 = in.cr2, v.cr3 = in.cr3, v.cr4 = in.cr4;
  v.efer = in.efer;
  set_task_priority(file, in.cr8);
  settle_cpl(v);
  // Old callers reset a boot processor by its registers alone and expect a halted one to wake.
  if (v.is_bsp && v.rip == 0xfff0 && in.cs.selector == 0xf000 && in.cs.base == 0xffff0000 && !v.protected_mode()) {
    v.mp_state = KVM_MP_STATE_RUNNABLE;
  }
  return 0;
}

}  // namespace

void settle_cpl(Vcpu& v) {
  v.cpl = !v.protected_mode() ? 0 : v.vm86() ? 3 : static_cast<uint8_t>(v.segment[kSS].dpl());
}

void save_sregs(VcpuFile& file, kvm_sregs& out) {
  std::memset(&out, 0, sizeof out);
  save_common(file, out);
  int vector = file.vcpu->user_interrupt;
  if (vector >= 0 && !file.vcpu->user_interrupt_soft) out.interrupt_bitmap[vector / 64] |= 1ull << vector % 64;
}

int load_sregs(VcpuFile& file, const kvm_sregs& in) {
  if (int error = load_common(file, in)) return error;
  Vcpu& v = *file.vcpu;
  if (pae_paging(v)) load_pdpte(file);
  for (unsigned word = 0; word < 4; word++) {
    if (in.interrupt_bitmap[word] == 0) continue;
    v.user_interrupt = static_cast<int>(word * 64 + static_cast<unsigned>(__builtin_ctzll(in.interrupt_bitmap[word])));
    v.user_interrupt_soft = false;
    break;
  }
  v.state_changed();
  return 0;
}

int get_sregs(VcpuFile& file, uintptr_t argument) {
  kvm_sregs sregs;
  save_sregs(file, sregs);
  return copy_out(argument, sregs) ? 0 : -EFAULT;
}

int set_sregs(VcpuFile& file, uintptr_t argument) {
  kvm_sregs sregs;
  if (!copy_in(sregs, argument)) return -EFAULT;
  return load_sregs(file, sregs);
}

int get_sregs2(VcpuFile& file, uintptr_t argument) {
  kvm_sregs2 sregs{};
  save_common(file, sregs);
  if (pae_paging(*file.vcpu)) {
    std::memcpy(sregs.pdptrs, file.vcpu->pdpte, sizeof sregs.pdptrs);
    sregs.flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
  }
  return copy_out(argument, sregs) ? 0 : -EFAULT;
}

int set_sregs2(VcpuFile& file, uintptr_t argument) {
  kvm_sregs2 in;
  if (!copy_in(in, argument)) return -EFAULT;
  if (in.flags & ~static_cast<uint64_t>(KVM_SREGS2_FLAGS_PDPTRS_VALID)) return -EINVAL;
  bool has_pdptrs = in.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
  bool pae = (in.cr0 & kCr0Pg) && (in.cr4 & kCr4Pae) && !(in.efer & kEferLma);
  if (has_pdptrs && !pae) return -EINVAL;
  if (int error = load_common(file, in)) return error;
  Vcpu& v = *file.vcpu;
  if (has_pdptrs) {
    std::memcpy(v.pdpte, in.pdptrs, sizeof v.pdpte);
  } else if (pae) {
    load_pdpte(file);
  }
  v.state_changed();
  return 0;
}

}  // namespace vireo::softkvm::abi
