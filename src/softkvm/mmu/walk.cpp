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

// What an entry of eight bytes means, by the control registers: SDM vol 3, 4.4 and 4.5.
struct Wide {
  bool long_mode, nxe;
  uint64_t physical_mask, reserved_high;

  explicit Wide(const VcpuState& vcpu)
      : long_mode(vcpu.efer & kEferLma), nxe(vcpu.efer & kEferNx), physical_mask(((1ull << vcpu.physical_bits) - 1) & kPageMask),
        reserved_high((((1ull << 52) - 1) & ~((1ull << vcpu.physical_bits) - 1)) | (nxe ? 0 : kNx)) {}

  static unsigned index(uint64_t linear, unsigned level) { return linear >> (12 + 9 * (level - 1)) & 511; }
  bool leaf(uint64_t entry, unsigned level) const { return level == 1 || (entry & kPs && level <= 3 && (long_mode || level == 2)); }
  uint64_t reserved(uint64_t entry, unsigned level) const {
    uint64_t bits = reserved_high;
    if (!long_mode) bits |= 0x7ff0000000000000ull & ~kNx;
    if (entry & kPs && level >= 4) bits |= kPs;
    if (leaf(entry, level) && level == 3) bits |= 0x3fffe000ull;
    if (leaf(entry, level) && level == 2) bits |= 0x1fe000ull;
    return bits;
  }
  void go_through(uint64_t entry, PageRights& rights) const {
    rights.writable &= !!(entry & kRw);
    rights.user &= !!(entry & kUs);
    if (nxe && entry & kNx) rights.executable = false;
  }
};

// But for writes, and for keys: SDM vol 3, 4.6.1.
bool allows(const VcpuState& vcpu, const PageRights& page, Want want, bool user, bool ac) {
  if (user && !page.user) return false;
  if (want == Want::kFetch) return page.executable && !(!user && page.user && vcpu.cr4 & kCr4Smep);
  return !(!user && page.user && vcpu.cr4 & kCr4Smap && !ac);
}
bool may_write(const VcpuState& vcpu, const PageRights& page, bool user) { return page.writable || (!user && !(vcpu.cr0 & kCr0Wp)); }
// PKRU's for user pages, IA32_PKRS's for the others (4.6.2).
bool has_key(const VcpuState& vcpu, const PageRights& page) { return vcpu.efer & kEferLma && vcpu.cr4 & (page.user ? kCr4Pke : kCr4Pks); }

}  // namespace

Outcome walk(VcpuState& vcpu, uint64_t linear, Want want, bool user, bool ac, bool stack, PageTranslation& out, WalkPath* path) {
  Slots& slots = *vcpu.vm->slots;
  const uint64_t space = vcpu.in_smm ? kSmmSpace : 0;
  if (!(vcpu.cr0 & kCr0Pg)) {
    out.gpa = (linear & 0xffffffffull) | space;
    out.writable = true;
    return Outcome::kNext;
  }
  const Wide wide(vcpu);
  const bool long_mode = wide.long_mode, nxe = wide.nxe;
  const bool pae = vcpu.cr4 & kCr4Pae;
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
again:
  uint64_t table;
  unsigned level = levels;
  if (!long_mode && pae) {
    uint64_t pdpte = vcpu.pdpte[linear >> 30];
    if (!(pdpte & kP)) return page_fault(vcpu, linear, error & ~kPfP);
    table = pdpte & wide.physical_mask;
    level = 2;
  } else {
    table = vcpu.cr3 & (long_mode ? wide.physical_mask : 0xfffff000ull);
  }

  PageRights rights;
  uint64_t entry = 0;
  TableEntry where{};
  uint64_t page_mask = 0xfff;
  for (;; level--) {
    if (pae) {
      where = entry_at(slots, (table + Wide::index(linear, level) * 8) | space, true);
      entry = where.load();
      if (!(entry & kP)) return page_fault(vcpu, linear, error);
      const bool leaf = wide.leaf(entry, level);
      if (entry & wide.reserved(entry, level)) return page_fault(vcpu, linear, error | kPfP | kPfRsvd);
      wide.go_through(entry, rights);
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
      table = entry & wide.physical_mask;
    } else {
      unsigned index = linear >> (12 + 10 * (level - 1)) & 1023;
      where = entry_at(slots, (table + index * 4) | space, false);
      entry = where.load() & 0xffffffffull;
      if (!(entry & kP)) return page_fault(vcpu, linear, error);
      bool leaf = level == 1 || (entry & kPs && vcpu.cr4 & kCr4Pse);
      rights.writable &= !!(entry & kRw);
      rights.user &= !!(entry & kUs);
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

  bool allowed = allows(vcpu, rights, want, user, ac);
  const bool writes = may_write(vcpu, rights, user);
  if (want == Want::kWrite && !writes) allowed = false;
  // PK tells of keys whatever else is wrong too (4.7).
  bool key_write = true;
  if (want != Want::kFetch && has_key(vcpu, rights)) {
    const unsigned key = entry >> 59 & 15;
    const uint32_t keys = rights.user ? vcpu.pkru : vcpu.pkrs;
    const bool ad = keys >> (2 * key) & 1, wd = keys >> (2 * key + 1) & 1;
    (rights.user ? vcpu.user_keys : vcpu.supervisor_keys) |= static_cast<uint16_t>(1u << key);
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
  out.writable = writes && key_write && ((entry | bits) & kD);

  uint64_t frame;
  if (!pae && level == 2) {
    frame = (entry & 0xffc00000ull) | (entry >> 13 & 0xff) << 32;  // PSE-36
    frame &= (1ull << vcpu.physical_bits) - 1;
  } else {
    frame = entry & wide.physical_mask & ~page_mask;
  }
  out.gpa = frame | (linear & page_mask) | space;
  out.global = entry & kEntryGlobal && vcpu.cr4 & kCr4Pge;
  out.shift = static_cast<uint8_t>(!pae && level == 2 ? 22 : 12 + 9 * (level - 1));
  if (level > 1) engine_of(vcpu).large_areas.add(out.shift, linear, out.global);
  return Outcome::kNext;
}

bool Peek::at(uint64_t linear, Want want, bool user, bool ac, PageTranslation& out) {
  const Wide wide(vcpu_);
  const uint64_t space = vcpu_.in_smm ? kSmmSpace : 0;
  auto entries_at = [&](uint64_t gpa) { return vcpu_.vm->slots->host((gpa & wide.physical_mask) | space); };
  auto known = [&](unsigned level) -> Table& { return tables_[level - 1][linear >> (12 + 9 * level) & (kTables - 1)]; };
  auto is_known = [&](unsigned level) { return known(level).part == linear >> (12 + 9 * level); };
  Table table;
  unsigned level = is_known(1) ? 1 : 2;
  if (is_known(level)) {
    table = known(level);
  } else if (!(vcpu_.cr0 & kCr0Pg) || !(vcpu_.cr4 & kCr4Pae)) {
    return false;
  } else if (wide.long_mode) {
    level = vcpu_.cr4 & kCr4La57 ? 5 : 4;
    table.entries = entries_at(vcpu_.cr3);
  } else if (const uint64_t pdpte = vcpu_.pdpte[linear >> 30 & 3]; pdpte & kP) {
    table.entries = entries_at(pdpte);
  }
  for (;; level--) {
    if (!table.entries) return false;
    const uint64_t entry = __atomic_load_n(reinterpret_cast<const uint64_t*>(table.entries) + Wide::index(linear, level), __ATOMIC_ACQUIRE);
    if ((entry & (kP | kA)) != (kP | kA) || entry & wide.reserved(entry, level)) return false;
    wide.go_through(entry, table.rights);
    if (wide.leaf(entry, level)) {
      const bool writable = may_write(vcpu_, table.rights, user) && entry & kD;
      if (!allows(vcpu_, table.rights, want, user, ac) || (want == Want::kWrite && !writable) || (want != Want::kFetch && has_key(vcpu_, table.rights))) return false;
      const uint64_t page_mask = (1ull << (12 + 9 * (level - 1))) - 1;
      out.gpa = (entry & wide.physical_mask & ~page_mask) | (linear & page_mask) | space;
      out.global = entry & kEntryGlobal;
      out.writable = writable;
      out.shift = static_cast<uint8_t>(12 + 9 * (level - 1));
      return true;
    }
    table.entries = entries_at(entry);
    table.part = linear >> (12 + 9 * (level - 1));
    if (level <= 3) known(level - 1) = table;
  }
}

}  // namespace vireo::softkvm
