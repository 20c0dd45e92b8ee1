// SPDX-License-Identifier: Apache-2.0
#include "softkvm/mmu/walk.h"

#include "softkvm/mmu/access.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/translate/engine.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kP = 1, kRw = 2, kUs = 4, kA = 0x20, kD = 0x40, kPs = 0x80, kNx = 1ull << 63;
constexpr uint32_t kPfP = 1, kPfW = 2, kPfU = 4, kPfRsvd = 8, kPfI = 16, kPfPk = 32;

Outcome page_fault(VcpuState& vcpu, uint64_t linear, uint32_t error) {
  vcpu.raise(kPFv, error);
  vcpu.fault.payload = linear;
  return Outcome::kFault;
}

// Reads and updates page-table entries in guest RAM. Where there is no RAM, reads give all ones as an open bus does.
struct TableEntry {
  uint8_t* at;
  bool wide;
  const Slot* slot;
  uint64_t gpa;
  uint64_t load() const {
    if (!at) return ~0ull;
    return wide ? __atomic_load_n(reinterpret_cast<uint64_t*>(at), __ATOMIC_ACQUIRE)
                : __atomic_load_n(reinterpret_cast<uint32_t*>(at), __ATOMIC_ACQUIRE);
  }
  // False: the entry has changed meanwhile.
  bool set(VcpuState& vcpu, uint64_t old, uint64_t bits) const {
    if (!at || !slot->writable()) return true;
    const bool done = wide ? __sync_bool_compare_and_swap(reinterpret_cast<uint64_t*>(at), old, old | bits)
                           : __sync_bool_compare_and_swap(reinterpret_cast<uint32_t*>(at), static_cast<uint32_t>(old),
                                                          static_cast<uint32_t>(old | bits));
    if (done) dirtied(vcpu, *slot, gpa);
    return done;
  }
};

TableEntry entry_at(Slots& slots, uint64_t gpa, bool wide) {
  const Slot* slot = slots.find(gpa);
  return {slot ? slot->host + (gpa - slot->gpa) : nullptr, wide, slot, gpa};
}

}  // namespace

Outcome walk(VcpuState& vcpu, uint64_t linear, Want want, bool user, bool ac, bool stack, Translation& out, WalkPath* path) {
  Slots& slots = *vcpu.vm->slots;
  const uint64_t space = vcpu.in_smm ? kSmmSpace : 0;
  if (!(vcpu.cr0 & kCr0Pg)) {
    out.gpa = (linear & 0xffffffffull) | space;
    out.writable = true;
    return Outcome::kNext;
  }
  const bool long_mode = vcpu.efer & kEferLma;
  const bool pae = vcpu.cr4 & kCr4Pae;
  const bool nxe = vcpu.efer & kEferNx;
  uint32_t error = (want == Want::kWrite ? kPfW : 0) | (user ? kPfU : 0) |
                   (want == Want::kFetch && (nxe || vcpu.cr4 & kCr4Smep) && (pae || vcpu.cr4 & kCr4Smep) ? kPfI : 0);
  unsigned levels;
  if (long_mode) {
    levels = vcpu.cr4 & kCr4La57 ? 5 : 4;
    unsigned shift = 64 - (levels == 5 ? 57 : 48);
    if (static_cast<uint64_t>(static_cast<int64_t>(linear << shift) >> shift) != linear)
      return vcpu.raise(stack ? kSSv : kGP, 0);
  } else {
    linear &= 0xffffffffull;
    levels = pae ? 3 : 2;
  }
  const uint64_t physical_mask = ((1ull << vcpu.physical_bits) - 1) & kPageMask;
  const uint64_t reserved_high = (((1ull << 52) - 1) & ~((1ull << vcpu.physical_bits) - 1)) | (nxe ? 0 : kNx);

again:
  uint64_t table;
  unsigned level = levels;
  if (!long_mode && pae) {
    uint64_t pdpte = vcpu.pdpte[linear >> 30];
    if (!(pdpte & kP)) return page_fault(vcpu, linear, error & ~kPfP);
    table = pdpte & physical_mask;
    level = 2;
  } else {
    table = vcpu.cr3 & (long_mode ? physical_mask : 0xfffff000ull);
  }

  bool writable = true, user_page = true, executable = true;
  uint64_t entry = 0;
  TableEntry where{};
  uint64_t page_mask = 0xfff;
  for (;; level--) {
    if (pae) {
      unsigned index = linear >> (12 + 9 * (level - 1)) & 511;
      where = entry_at(slots, (table + index * 8) | space, true);
      entry = where.load();
      if (!(entry & kP)) return page_fault(vcpu, linear, error);
      uint64_t reserved = reserved_high;
      if (!long_mode) reserved |= 0x7ff0000000000000ull & ~kNx;
      bool leaf = level == 1 || (entry & kPs && level <= 3 && (long_mode || level == 2));
      if (entry & kPs && level >= 4) reserved |= kPs;
      if (leaf && level == 3) reserved |= 0x3fffe000ull;
      if (leaf && level == 2) reserved |= 0x1fe000ull;
      if (entry & reserved) return page_fault(vcpu, linear, error | kPfP | kPfRsvd);
      writable &= !!(entry & kRw);
      user_page &= !!(entry & kUs);
      if (nxe && entry & kNx) executable = false;
      if (path && level <= WalkPath::kLevels) {
        path->at[level] = reinterpret_cast<const uint64_t*>(where.at);
        path->value[level] = entry;
        path->leaf = level;
        path->top = levels;
      }
      if (leaf) {
        page_mask = (1ull << (12 + 9 * (level - 1))) - 1;
        break;
      }
      if (!(entry & kA) && !where.set(vcpu, entry, kA)) goto again;
      table = entry & physical_mask;
    } else {
      unsigned index = linear >> (12 + 10 * (level - 1)) & 1023;
      where = entry_at(slots, (table + index * 4) | space, false);
      entry = where.load() & 0xffffffffull;
      if (!(entry & kP)) return page_fault(vcpu, linear, error);
      bool leaf = level == 1 || (entry & kPs && vcpu.cr4 & kCr4Pse);
      writable &= !!(entry & kRw);
      user_page &= !!(entry & kUs);
      if (leaf) {
        if (level == 2) {
          page_mask = 0x3fffff;
          if (entry & 1ull << 21) return page_fault(vcpu, linear, error | kPfP | kPfRsvd);
        }
        break;
      }
      if (!(entry & kA) && !where.set(vcpu, entry, kA)) goto again;
      table = entry & 0xfffff000ull;
    }
  }

  bool allowed = true;
  if (want == Want::kFetch) {
    if (!executable) allowed = false;
    if (user && !user_page) allowed = false;
    if (!user && user_page && vcpu.cr4 & kCr4Smep) allowed = false;
  } else {
    if (user && !user_page) allowed = false;
    if (!user && user_page && vcpu.cr4 & kCr4Smap && !ac) allowed = false;
  }
  bool may_write = writable || (!user && !(vcpu.cr0 & kCr0Wp));
  if (want == Want::kWrite && !may_write) allowed = false;
  // Keys: PKRU's for user pages, IA32_PKRS's for the others (SDM vol 3, 4.6.2). PK tells of them whatever else is wrong too (4.7).
  bool key_write = true;
  if (long_mode && want != Want::kFetch && vcpu.cr4 & (user_page ? kCr4Pke : kCr4Pks)) {
    const unsigned key = entry >> 59 & 15;
    const uint32_t rights = user_page ? vcpu.pkru : vcpu.pkrs;
    const bool ad = rights >> (2 * key) & 1, wd = rights >> (2 * key + 1) & 1;
    (user_page ? vcpu.user_keys : vcpu.supervisor_keys) |= static_cast<uint16_t>(1u << key);
    key_write = !ad && !(wd && (user || vcpu.cr0 & kCr0Wp));
    if (ad || (want == Want::kWrite && !key_write)) {
      allowed = false;
      error |= kPfPk;
    }
  }
  if (!allowed) return page_fault(vcpu, linear, error | kPfP);

  uint64_t bits = kA | (want == Want::kWrite ? kD : 0);
  if ((entry & bits) != bits && !where.set(vcpu, entry, bits)) goto again;
  if (path) path->value[path->leaf] = entry | bits;
  out.writable = may_write && key_write && ((entry | bits) & kD);

  uint64_t frame;
  if (!pae && level == 2) {
    frame = (entry & 0xffc00000ull) | (entry >> 13 & 0xff) << 32;  // PSE-36
    frame &= (1ull << vcpu.physical_bits) - 1;
  } else {
    frame = entry & physical_mask & ~page_mask;
  }
  out.gpa = frame | (linear & page_mask) | space;
  out.global = entry & kEntryGlobal && vcpu.cr4 & kCr4Pge;
  if (page_mask != 0xfff) engine_of(vcpu).large_areas.add(!pae ? LargeAreas::k4M : level == 3 ? LargeAreas::k1G : LargeAreas::k2M, linear, out.global);
  return Outcome::kNext;
}

}  // namespace vireo::softkvm
