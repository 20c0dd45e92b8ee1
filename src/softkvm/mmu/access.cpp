// SPDX-License-Identifier: Apache-2.0
#include "softkvm/mmu/access.h"

#include "softkvm/mmu/dirty_ring.h"
#include "softkvm/mmu/host_pages.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/mmu/walk.h"
#include "softkvm/translate/breakpoints.h"
#include "softkvm/translate/switches.h"

namespace vireo::softkvm {
namespace {

struct Rights {
  bool user, ac;
};
Rights rights_of(const VcpuState& vcpu, bool system) {
  bool user = !system && vcpu.cpl == 3;
  return {user, !system && (vcpu.system_flags & kAC)};
}

uint64_t chunk_mask(uint64_t address, unsigned size) {
  unsigned first = (address & 0xfff) / 64, last = ((address & 0xfff) + size - 1) / 64;
  return (last == 63 ? ~0ull : (1ull << (last + 1)) - 1) & ~((1ull << first) - 1);
}

// The view of C++'s accesses. In the middle of an instruction that changes the level the mode is still the old one.
unsigned view_for(const VcpuState& vcpu, bool system) {
  if (system) return kViewSupervisor;
  return vcpu.cpl == 3 ? kViewUser : vcpu.cr4 & kCr4Smap && vcpu.system_flags & kAC ? kViewSupervisorAc : kViewSupervisor;
}

Outcome translate_piece(VcpuState& vcpu, uint64_t linear, bool write, bool system, bool stack, Piece& out) {
  KnownAreas& areas = engine_of(vcpu).areas[view_for(vcpu, system)];
  if (const KnownArea* area = areas.find(linear); area && (area->writable() || !write)) {
    out.gpa = area->gpa(linear);
    out.writable = area->writable();
    out.global = out.of_area = true;
    out.slot = vcpu.vm->slots->find(out.gpa);
    if (out.slot && write && !out.slot->writable()) out.slot = nullptr;  // a write to ROM is a device access
    return Outcome::kNext;
  }
  Rights r = rights_of(vcpu, system);
  PageTranslation t;
  Outcome o = walk(vcpu, linear, write ? Want::kWrite : Want::kRead, r.user, r.ac, stack, t);
  if (o != Outcome::kNext) return o;
  out.gpa = t.gpa;
  out.writable = t.writable;
  out.global = t.global;
  out.of_area = has_area(vcpu, t);
  if (out.of_area) areas.add({linear, t.gpa, t.writable});
  out.slot = vcpu.vm->slots->find(t.gpa);
  if (out.slot && write && !out.slot->writable()) out.slot = nullptr;  // a write to ROM is a device access
  return Outcome::kNext;
}

void note_code_write(Engine& engine, unsigned view, uint64_t page, const Piece& piece) {
  CodePageWrite& known = engine.code_writes[view][page >> 12 & (kCodePageWrites - 1)];
  known.tag = page, known.piece = piece;
  known.piece.gpa &= kPageMask;
  engine.no_code_writes = false;
}

// Enters the page into the inline TLB of a view, with a write tag only where writes need no notice.
void fill(VcpuState& vcpu, unsigned view, uint64_t linear, const Piece& piece, bool write) {
  Engine& engine = engine_of(vcpu);
  TlbView& tlb = engine.tlb[view];
  unsigned index = linear >> 12 & (kTlbEntries - 1);
  uint64_t page = linear & kPageMask;
  const Slot& slot = *piece.slot;
  bool write_tag = piece.writable && slot.writable() && (write || !(slot.dirty || vcpu.vm->off & kSwitchEarlyWriteTags));
  if (write_tag && slot.code_of(piece.gpa).load(std::memory_order_relaxed)) write_tag = false;
  if (write_tag) {
    slot.tell_of_write(vcpu.id, piece.gpa);
    if (slot.code_of(piece.gpa).load()) write_tag = false;
  }
  engine.counters.tlb_fills++;
  tlb.read[index] = page;
  tlb.write[index] = write_tag ? page : no_page(index);
  uint8_t* const host = slot.host + ((piece.gpa & kPageMask) - slot.gpa);
  tlb.addend[index] = reinterpret_cast<uint64_t>(host);
  vcpu.vm->large.used(host);
  if (write_tag) engine.write_log[view].add(index);
  else if (write) note_code_write(engine, view, page, piece);
  (piece.of_area ? engine.tlb_log_area : piece.global ? engine.tlb_log_global : engine.tlb_log)[view].add(index);
  if (++engine.tlb_fills[view] == kMuchUsed) get_pages(&tlb, sizeof tlb);
}

void fill(VcpuState& vcpu, uint64_t linear, const Piece& piece, bool write) { fill(vcpu, view_of(vcpu.mode), linear, piece, write); }

// The host address of RAM in one page where the TLB has it; for writes, where these need no notice.
uint8_t* known_address(VcpuState& vcpu, uint64_t linear, unsigned size, bool write, bool system) {
  Engine& engine = engine_of(vcpu);
  if (engine.watching || vcpu.vm->off & kSwitchTlbAccess) return nullptr;
  const TlbView& tlb = engine.tlb[view_for(vcpu, system)];
  const unsigned index = linear >> 12 & (kTlbEntries - 1);
  if ((linear ^ (write ? tlb.write : tlb.read)[index]) > kPageSize - size) return nullptr;
  return reinterpret_cast<uint8_t*>(tlb.addend[index] + (linear & 0xfff));
}

void store_bytes(uint8_t* to, const uint8_t* in, unsigned size) {
  // One store where it is naturally sized: other vCPUs must not see half of it.
  switch (size) {
    case 8: __atomic_store_n(reinterpret_cast<uint64_t*>(to), *reinterpret_cast<const uint64_t*>(in), __ATOMIC_RELAXED); break;
    case 4: __atomic_store_n(reinterpret_cast<uint32_t*>(to), *reinterpret_cast<const uint32_t*>(in), __ATOMIC_RELAXED); break;
    case 2: __atomic_store_n(reinterpret_cast<uint16_t*>(to), *reinterpret_cast<const uint16_t*>(in), __ATOMIC_RELAXED); break;
    default: copy_bytes(to, in, size);
  }
}

uint8_t* pointer(const Piece& piece) { return piece.slot->host + (piece.gpa - piece.slot->gpa); }

bool hits_code(const Piece& piece, unsigned size) {
  uint64_t map = piece.slot->code_of(piece.gpa).load(std::memory_order_relaxed);
  return map && (map & chunk_mask(piece.gpa, size));
}

// The same of a write that is about to be made without a write tag.
bool write_hits_code(const VcpuState& vcpu, const Piece& piece, unsigned size) {
  if (vcpu.vm->vcpus.size() > 1) piece.slot->tell_of_write(vcpu.id, piece.gpa);
  const uint64_t map = piece.slot->code_of(piece.gpa).load();
  return map && (map & chunk_mask(piece.gpa, size));
}

// Of an access that hits code: how much of it comes before that.
unsigned bytes_before_code(const Piece& piece, unsigned size) {
  const uint64_t map = piece.slot->code_of(piece.gpa).load(std::memory_order_relaxed) & chunk_mask(piece.gpa, size);
  const unsigned at = piece.gpa & 0xfff, code = map ? static_cast<unsigned>(__builtin_ctzll(map)) * 64 : at + size;
  return code > at ? code - at : 0;
}

uint64_t wrap(const VcpuState& vcpu, uint64_t linear) { return vcpu.in_64bit() ? linear : linear & 0xffffffffull; }

void note_smc(Engine& engine, uint64_t gpa, uint32_t size) {
  constexpr unsigned kMost = sizeof engine.smc / sizeof engine.smc[0];
  if (engine.smc_count < kMost) {
    engine.smc[engine.smc_count++] = {gpa, size};
    return;
  }
  // The last entry becomes all of its page; more pages than entries no instruction writes.
  auto& last = engine.smc[kMost - 1];
  last = {last.gpa & kPageMask, kPageSize};
}

// A device read of at most 8 bytes in step mode.
Outcome read_fragment(VcpuState& vcpu, uint64_t gpa, unsigned size, uint8_t* out) {
  gpa &= ~kSmmSpace;
  Engine& engine = engine_of(vcpu);
  if (engine.fragment_next < engine.fragment_count) {
    Fragment& f = engine.fragments[engine.fragment_next];
    if (f.gpa == gpa && f.size == size && f.done) {
      copy_bytes(out, f.data, size);
      engine.fragment_next++;
      return Outcome::kNext;
    }
    engine.fragment_count = engine.fragment_next;  // the instruction took another way: ask anew
  }
  if (engine.fragment_count == kMaxFragments) return vcpu.raise(kGP, 0);
  Fragment& f = engine.fragments[engine.fragment_count];
  f.gpa = gpa;
  f.size = static_cast<uint8_t>(size);
  f.done = false;
  uint64_t value = 0;
  if (device_mmio(vcpu, gpa, size, false, value)) {
    copy_bytes(f.data, &value, size);
    f.done = true;
    engine.fragment_count++;
    engine.fragment_next++;
    copy_bytes(out, f.data, size);
    return Outcome::kNext;
  }
  engine.fragment_count++;
  engine.fragment_open = true;
  return Outcome::kExit;
}

void queue_write(VcpuState& vcpu, uint64_t gpa, unsigned size, const uint8_t* data) {
  gpa &= ~kSmmSpace;
  Engine& engine = engine_of(vcpu);
  while (size) {
    unsigned n = size < 8 ? size : 8;
    if (engine.write_count < kMaxFragments) {
      Fragment& f = engine.writes[engine.write_count++];
      f.gpa = gpa;
      f.size = static_cast<uint8_t>(n);
      f.done = false;
      copy_bytes(f.data, data, n);
    }
    gpa += n, data += n, size -= n;
  }
}

Outcome read_piece(VcpuState& vcpu, const Piece& piece, unsigned size, uint8_t* out) {
  if (piece.slot) {
    copy_bytes(out, pointer(piece), size);
    return Outcome::kNext;
  }
  Engine& engine = engine_of(vcpu);
  if (!engine.stepping) {
    engine.need_step = true;
    return Outcome::kExit;
  }
  for (unsigned done = 0; done < size;) {
    unsigned n = size - done < 8 ? size - done : 8;
    Outcome o = read_fragment(vcpu, piece.gpa + done, n, out + done);
    if (o != Outcome::kNext) return o;
    done += n;
  }
  return Outcome::kNext;
}

void write_piece(VcpuState& vcpu, const Piece& piece, unsigned size, const uint8_t* in) {
  if (!piece.slot) return queue_write(vcpu, piece.gpa, size, in);
  if (write_hits_code(vcpu, piece, size)) note_smc(engine_of(vcpu), piece.gpa, size);
  dirtied(vcpu, *piece.slot, piece.gpa);
  store_bytes(pointer(piece), in, size);
}

bool canonical(const VcpuState& vcpu, uint64_t linear) {
  unsigned shift = vcpu.cr4 & kCr4La57 ? 7 : 16;
  return static_cast<uint64_t>(static_cast<int64_t>(linear << shift) >> shift) == linear;
}

// AMD's CPUs want the offset canonical as well as the linear address that the base makes of it.
bool offset_refused(const VcpuState& vcpu, SegmentRegister segment, uint64_t offset) {
  return segment >= kFS && vcpu.vendor_is_amd && !canonical(vcpu, offset);
}

bool misaligned(uint64_t linear, unsigned size, uint32_t descriptor) {
  if ((descriptor & (kAccessAligned | kAccessMasked)) != kAccessAligned || !(linear & (size - 1))) return false;
  if (!(descriptor & kAccessNoAc)) return true;
  uint32_t mxcsr;  // the host's is the guest's
  asm volatile("stmxcsr %0" : "=m"(mxcsr));
  return !(mxcsr & kMxcsrMm);
}

bool never_checked(uint32_t descriptor) {
  return descriptor & kAccessMasked || (descriptor & kAccessAlignedUnlessMm) == kAccessNoAc;
}

// The host's x87 status word is the guest's.
Outcome x87_first(VcpuState& vcpu, uint32_t descriptor, Outcome outcome) {
  if (outcome != Outcome::kFault || !(descriptor & kAccessX87)) return outcome;
  uint16_t status;
  asm volatile("fnstsw %0" : "=a"(status));
  return status & 0x80 ? vcpu.raise(kMFv) : outcome;
}

// Both pages of an access, before any byte moves. An access that ends behind the canonical addresses is #GP (#SS) before it is #PF; 80 bits are
// two accesses.
Outcome translate_both(VcpuState& vcpu, uint64_t linear, unsigned size, bool write, bool system, bool stack, Piece pieces[2],
                       unsigned& first) {
  first = 4096 - (linear & 0xfff);
  if (first > size) first = size;
  if (first < (size == 10 ? 8 : size) && vcpu.in_64bit() && !canonical(vcpu, linear + first)) return vcpu.raise(stack ? kSSv : kGP, 0);
  if (engine_of(vcpu).watching && !system)
    note_watched(static_cast<Vcpu&>(vcpu), linear, size, write ? BreakpointKind::kWrite : BreakpointKind::kAccess);
  Outcome o = translate_piece(vcpu, linear, write, system, stack, pieces[0]);
  if (o == Outcome::kNext && first < size)
    o = translate_piece(vcpu, wrap(vcpu, linear + first), write, system, stack, pieces[1]);
  return o;
}

void set_reason(VcpuState& vcpu, Outcome outcome) {
  Engine& engine = engine_of(vcpu);
  engine.reason = outcome == Outcome::kFault ? kReasonFault : engine.need_step ? kReasonStep : kReasonExit;
}

bool contiguous(const Piece pieces[2], unsigned first) {
  return pieces[0].slot && pieces[1].slot && pointer(pieces[0]) + first == pointer(pieces[1]);
}

}  // namespace

bool has_area(const VcpuState& vcpu, const PageTranslation& t) {
  constexpr uint32_t kOff = kSwitchKnownAreas | kSwitchInlineTlb | kSwitchTlbAccess | kSwitchGlobalPages | kSwitchFillLog;
  return t.global && (t.shift == 21 || t.shift == 30) && !(vcpu.vm->off & kOff);
}

void dirtied(VcpuState& vcpu, const Slot& slot, uint64_t gpa) {
  if (!slot.mark_dirty(gpa)) return;
  DirtyRing* ring = static_cast<Vcpu&>(vcpu).dirty_ring;
  if (!ring) return;
  ring->push(slot.id, (gpa - slot.gpa) >> 12);
  if (ring->full()) vcpu.attention = 1;
}

namespace {
// What the inline check sends here though the TLB knows: an access over the edge of two pages that lie together in the host's memory too, and a
// write beside the code in its page. Null: something else.
uint8_t* known_to_tlb(VcpuState& vcpu, uint64_t linear, unsigned size, bool write) {
  Engine& engine = engine_of(vcpu);
  const unsigned view = view_of(vcpu.mode), index = linear >> 12 & (kTlbEntries - 1), in_page = linear & 0xfff;
  const uint64_t page = linear & kPageMask;
  const TlbView& tlb = engine.tlb[view];
  if (engine.watching || page == kInvalidTag) return nullptr;
  if (in_page + size > kPageSize) {
    const auto& tags = write ? tlb.write : tlb.read;
    const unsigned next = (index + 1) & (kTlbEntries - 1);
    if (tags[index] != page || tags[next] != page + kPageSize || tlb.addend[next] != tlb.addend[index] + kPageSize) return nullptr;
    return reinterpret_cast<uint8_t*>(tlb.addend[index] + in_page);
  }
  const CodePageWrite& known = engine.code_writes[view][index % kCodePageWrites];
  if (!write || known.tag != page) return nullptr;
  Piece piece = known.piece;
  piece.gpa += in_page;
  if (!piece.slot->code_of(piece.gpa).load(std::memory_order_relaxed)) return nullptr;  // not any more: it can have a write tag
  if (write_hits_code(vcpu, piece, size)) return nullptr;
  dirtied(vcpu, *piece.slot, piece.gpa);
  return pointer(piece);
}
}  // namespace

extern "C" uint8_t* softkvm_tlb_miss(VcpuState* vcpu, uint64_t linear, uint32_t descriptor) {
  Engine& engine = engine_of(*vcpu);
  engine.counters.tlb_misses++;
  unsigned size = descriptor >> kAccessSizeShift & 0x3ff;
  bool write = descriptor & kAccessWrite, stack = (descriptor >> kAccessSegmentShift & 7) == kSS;
  set_rip_linear(*vcpu, vcpu->page_base + (descriptor & 0xfff));
  Piece pieces[2];
  unsigned first;
  const auto segment = static_cast<SegmentRegister>(descriptor >> kAccessSegmentShift & 7);
  const bool refused = vcpu->in_64bit() && offset_refused(*vcpu, segment, linear - vcpu->segment[segment].base);
  Outcome o;
  if (refused || misaligned(linear, size, descriptor)) {
    o = vcpu->raise(kGP, 0);
  } else {
    if (!(vcpu->vm->off & kSwitchQuickMisses))
      if (uint8_t* at = known_to_tlb(*vcpu, linear, size, write)) return at;
    o = translate_both(*vcpu, linear, size, write, false, stack, pieces, first);
  }
  o = x87_first(*vcpu, descriptor, o);
  if (o != Outcome::kNext) {
    if (descriptor & kAccessMasked) engine.reason = kReasonStep;
    else set_reason(*vcpu, o);
    return nullptr;
  }
  bool plain = pieces[0].slot && !(write && write_hits_code(*vcpu, pieces[0], first));
  if (first < size) {
    plain = plain && contiguous(pieces, first) && !(write && write_hits_code(*vcpu, pieces[1], size - first));
    if (plain && write) dirtied(*vcpu, *pieces[0].slot, pieces[0].gpa), dirtied(*vcpu, *pieces[1].slot, pieces[1].gpa);
  } else if (plain) {
    if (write) dirtied(*vcpu, *pieces[0].slot, pieces[0].gpa);
    fill(*vcpu, linear, pieces[0], write);
  }
  if (!plain) {
    engine.reason = kReasonStep;
    return nullptr;
  }
  return pointer(pieces[0]);
}

namespace {

// Where the TLB has all of a group of accesses, in the host's memory in one piece.
uint8_t* known_group(VcpuState& vcpu, uint64_t linear, unsigned span, uint32_t group) {
  Engine& engine = engine_of(vcpu);
  const unsigned view = view_of(vcpu.mode);
  const bool write = group & kGroupWrite;
  const TlbView& tlb = engine.tlb[view];
  const auto& tags = write ? tlb.write : tlb.read;
  const unsigned index = linear >> 12 & (kTlbEntries - 1), in_page = linear & 0xfff;
  if (tags[index] != (linear & kPageMask)) return nullptr;
  if (in_page + span > kPageSize) {
    const unsigned next = (index + 1) & (kTlbEntries - 1);
    if (tags[next] != (linear & kPageMask) + kPageSize || tlb.addend[next] != tlb.addend[index] + kPageSize || vcpu.vm->off & kSwitchQuickMisses) return nullptr;
  } else if (const unsigned key = group >> kGroupRecentShift & kNoRecent; key != kNoRecent) {
    engine.recent[view][write][key] = {tags[index], tlb.addend[index]};
  }
  return reinterpret_cast<uint8_t*>(tlb.addend[index] + in_page);
}

}  // namespace

extern "C" uint8_t* softkvm_group_miss(VcpuState* vcpu, uint64_t tagged, uint64_t what, uint64_t entry) {
  uint8_t* const each = reinterpret_cast<uint8_t*>(1);
  const uint32_t group = static_cast<uint32_t>(what >> 32), descriptor = static_cast<uint32_t>(what);
  const unsigned span = group & 0xfff, view = view_of(vcpu->mode), recent = group >> kGroupRecentShift & kNoRecent;
  const bool write = group & kGroupWrite;
  const TlbView& tlb = engine_of(*vcpu).tlb[view];
  const uint64_t linear = tagged ^ (recent != kNoRecent ? engine_of(*vcpu).recent[view][write][recent].tag : (write ? tlb.write : tlb.read)[entry]);
  if (uint8_t* at = known_group(*vcpu, linear, span, group)) return at;
  const uint64_t first = linear + (group >> kGroupDeltaShift & 0xfff);
  const unsigned size = descriptor >> kAccessSizeShift & 0x3ff, index = first >> 12 & (kTlbEntries - 1);
  if ((first ^ (descriptor & kAccessWrite ? tlb.write : tlb.read)[index]) <= kPageSize - size) return each;  // it is the others that are elsewhere
  if (!softkvm_tlb_miss(vcpu, first, descriptor)) return nullptr;
  uint8_t* at = known_group(*vcpu, linear, span, group);
  return at ? at : each;
}

namespace {

bool alignment_checked(const VcpuState& vcpu) { return vcpu.cpl == 3 && vcpu.system_flags & kAC && vcpu.cr0 & kCr0Am; }

// 80-bit operands want 8 bytes. Of vectors Intel's CPUs want nothing (SDM vol 3, 6.15, #AC), AMD's 16 bytes (APM vol 2, 8.2.18).
bool alignment_fault(const VcpuState& vcpu, uint64_t linear, unsigned size) {
  if (!alignment_checked(vcpu)) return false;
  const unsigned align = size == 10 ? 8 : size == 2 || size == 4 || size == 8 ? size : size >= 16 && vcpu.vendor_is_amd ? 16 : 1;
  return linear & (align - 1);
}

// What a masked store finds in its bounce buffer: a byte that it leaves alone differs after one of its two runs, whatever it stores.
void set_background(Engine& engine, uint8_t* at, unsigned size) {
  for (unsigned i = 0; i < size; i++) at[i] = static_cast<uint8_t>(engine.masked_again ? ~engine.masked_bytes[i] : i);
}

// A masked access of which one page (or the only one) must not be touched: laid over the edge of the guard pages, with what may be read
// copied in. Null: there is no such page. One that #AC looks at must not be touched at all: CPUs give it only where an element is wanted;
// nor one that the segment refuses (whose fault is pending).
enum class Untouchable { kNo, kMisaligned, kRefused };
uint8_t* masked_access(VcpuState& vcpu, uint64_t linear, unsigned size, bool write, bool stack, Untouchable why, Outcome& outcome) {
  Engine& engine = engine_of(vcpu);
  unsigned first = 4096 - (linear & 0xfff);
  if (first > size) first = size;
  Piece piece[2];
  bool good[2] = {false, false};
  for (unsigned i = 0; why != Untouchable::kNo && i < 2; i++) {
    const uint64_t at = i ? linear + first : linear;
    if (why == Untouchable::kRefused) {
    } else if (vcpu.in_64bit() && !canonical(vcpu, at)) {
      vcpu.raise(stack ? kSSv : kGP, 0);  // before #AC
    } else {
      vcpu.raise(kACv, 0);
    }
    engine.masked_fault[i] = vcpu.fault;
  }
  for (unsigned i = 0; why == Untouchable::kNo && i < (first < size ? 2u : 1u); i++) {
    good[i] = translate_piece(vcpu, i ? wrap(vcpu, linear + first) : linear, write, false, stack, piece[i]) == Outcome::kNext;
    engine.masked_fault[i] = vcpu.fault;
  }
  vcpu.fault.pending = false;
  if (good[0] && (first == size || good[1])) return nullptr;
  uint8_t* at = engine.guard + 2 * 4096 + (linear & 0xfff);  // nothing of it may be touched
  if (good[0]) at = engine.guard + 2 * 4096 - first;
  if (first < size && good[1]) at = engine.guard + 4096 - first;
  engine.masked_linear = linear;
  engine.masked_at = at;
  engine.masked_first = first;
  for (unsigned i = 0; i < 2; i++) {
    if (!good[i]) continue;
    unsigned skip = i ? first : 0, n = i ? size - first : first;
    if (!write) {
      if ((outcome = read_piece(vcpu, piece[i], n, at + skip)) != Outcome::kNext) return nullptr;  // a device that has to be asked
      continue;
    }
    set_background(engine, at + skip, n);
    engine.bounces[engine.bounce_count++] = {{piece[i], {}}, n, n, true, true, false, at + skip};
  }
  return at;
}

}  // namespace

extern "C" uint8_t* softkvm_access(VcpuState* vcpu, uint64_t offset, uint32_t descriptor) {
  Engine& engine = engine_of(*vcpu);
  unsigned size = descriptor >> kAccessSizeShift & 0x3ff;
  const bool write = descriptor & kAccessWrite, masked_store = write && descriptor & kAccessMasked;
  const bool read = descriptor & (kAccessRead | kAccessMasked) && !masked_store;
  auto segment = static_cast<SegmentRegister>(descriptor >> kAccessSegmentShift & 7);
  set_rip_linear(*vcpu, vcpu->page_base + (descriptor & 0xfff));
  uint64_t linear = 0;
  // Of a masked access only the elements that are wanted have to be canonical: masked_access() sees to each page.
  Outcome o = linear_address(*vcpu, segment, offset, descriptor & kAccessMasked && vcpu->in_64bit() ? 0 : size,
                             write ? AccessType::kWrite : AccessType::kRead, linear, !never_checked(descriptor));
  auto untouchable = Untouchable::kNo;
  if (descriptor & kAccessMasked) {
    const bool refused = vcpu->in_64bit() ? offset_refused(*vcpu, segment, offset) : o == Outcome::kFault;
    if (vcpu->in_64bit()) o = refused ? vcpu->raise(kGP, 0) : Outcome::kNext;
    if (refused) untouchable = Untouchable::kRefused, o = Outcome::kNext;
    else if (alignment_checked(*vcpu) && linear & ((1u << (descriptor >> kAccessMaskedAlignmentShift)) - 1)) untouchable = Untouchable::kMisaligned;
    // MASKMOVQ and MASKMOVDQU (the only ones that read and write) are checked for alignment to 8 whatever their mask.
    if (untouchable != Untouchable::kRefused && descriptor & kAccessRead && write && alignment_fault(*vcpu, linear, 8)) o = vcpu->raise(kACv, 0);
  }
  // An address that is misaligned and not canonical is #GP, also by the stack segment.
  if ((o == Outcome::kNext || vcpu->in_64bit() || vcpu->fault.vector == kACv) && misaligned(linear, size, descriptor)) o = vcpu->raise(kGP, 0);
  Piece pieces[2];
  unsigned first;
  if (o == Outcome::kNext && descriptor & kAccessMasked && engine.stepping)
    if (uint8_t* at = masked_access(*vcpu, linear, size, write, segment == kSS, untouchable, o)) return at;
  if (o == Outcome::kNext && untouchable != Untouchable::kNo) {
    engine.reason = kReasonStep;
    return nullptr;
  }
  if (o == Outcome::kNext) o = translate_both(*vcpu, linear, size, write, false, segment == kSS, pieces, first);
  o = x87_first(*vcpu, descriptor, o);
  if (o != Outcome::kNext) {
    if (descriptor & kAccessMasked && !engine.stepping && o == Outcome::kFault) engine.reason = kReasonStep;
    else set_reason(*vcpu, o);
    return nullptr;
  }
  bool one = first == size && pieces[0].slot;
  if (!engine.stepping) {
    if (one && !(write && write_hits_code(*vcpu, pieces[0], size))) {
      if (write) dirtied(*vcpu, *pieces[0].slot, pieces[0].gpa);
      return pointer(pieces[0]);
    }
    engine.reason = kReasonStep;
    return nullptr;
  }
  if (one) {
    if (write) {
      if (write_hits_code(*vcpu, pieces[0], size)) note_smc(engine, pieces[0].gpa, size);
      dirtied(*vcpu, *pieces[0].slot, pieces[0].gpa);
    }
    return pointer(pieces[0]);
  }
  const bool locked = (descriptor & (kAccessLocked | kAccessMasked)) == kAccessLocked;
  if (locked && !engine.exclusive) {
    engine.reason = kReasonExclusive;
    return nullptr;
  }
  // The bounce buffer keeps the access's alignment modulo 64, but for locked instructions: hosts make those over two cache lines slow.
  uint32_t at = (engine.bounce_used + 63) & ~63u;
  if (!locked) at += linear & 63;
  if (engine.bounce_count == kMaxBounces || at + size > sizeof engine.bounce_bytes) {
    set_reason(*vcpu, vcpu->raise(kGP, 0));
    return nullptr;
  }
  uint8_t* bytes = engine.bounce_bytes + at;
  if (read) {
    o = read_piece(*vcpu, pieces[0], first, bytes);
    if (o == Outcome::kNext && first < size) o = read_piece(*vcpu, pieces[1], size - first, bytes + first);
    if (o != Outcome::kNext) {
      set_reason(*vcpu, o);
      return nullptr;
    }
  }
  if (masked_store) {
    set_background(engine, bytes, size);
  } else if (!read) {
    if (pieces[0].slot) copy_bytes(bytes, pointer(pieces[0]), first);
    if (first < size && pieces[1].slot) copy_bytes(bytes + first, pointer(pieces[1]), size - first);
  }
  const bool x87 = (descriptor & (kAccessX87 | kAccessWrite | kAccessRead)) == (kAccessX87 | kAccessWrite);
  engine.bounces[engine.bounce_count++] = {{pieces[0], pieces[1]}, first, size, write, masked_store, x87, bytes};
  engine.bounce_used = at + size;
  return bytes;
}

uint8_t* host_address(VcpuState& vcpu, uint64_t linear, unsigned size, bool write, Outcome& outcome, unsigned* before_code) {
  Engine& engine = engine_of(vcpu);
  TlbView& tlb = engine.tlb[view_of(vcpu.mode)];
  unsigned index = linear >> 12 & (kTlbEntries - 1);
  uint64_t tag = write ? tlb.write[index] : tlb.read[index];
  if (engine.watching) note_watched(static_cast<Vcpu&>(vcpu), linear, size, write ? BreakpointKind::kWrite : BreakpointKind::kAccess);
  if (tag == (linear & kPageMask) && !(vcpu.vm->off & kSwitchTlbAccess)) return reinterpret_cast<uint8_t*>(tlb.addend[index] + (linear & 0xfff));
  Piece piece;
  outcome = translate_piece(vcpu, linear, write, false, false, piece);
  if (outcome != Outcome::kNext) return nullptr;
  if (piece.slot && write && write_hits_code(vcpu, piece, size)) {
    const unsigned plain = bytes_before_code(piece, size);
    if (before_code && plain) *before_code = plain;
    else piece.slot = nullptr;
  }
  if (!piece.slot) {
    engine.need_step = true;
    outcome = Outcome::kExit;
    return nullptr;
  }
  if (write) dirtied(vcpu, *piece.slot, piece.gpa);
  fill(vcpu, linear, piece, write);
  return pointer(piece);
}

uint8_t* system_host_address(VcpuState& vcpu, uint64_t linear, Outcome& outcome) {
  Piece piece;
  outcome = translate_piece(vcpu, linear, true, true, false, piece);
  if (outcome != Outcome::kNext || !piece.slot || write_hits_code(vcpu, piece, 1)) return nullptr;
  dirtied(vcpu, *piece.slot, piece.gpa);
  return pointer(piece);
}

void begin_step(Engine& engine) {
  engine.stepping = true;
  engine.need_step = false;
  engine.fragment_next = 0;
  engine.write_count = engine.write_next = 0;
  engine.bounce_count = engine.bounce_used = 0;
  engine.masked_again = engine.need_exclusive = engine.writes_stand = false;
}

bool masked_store_again(Engine& engine) {
  if (engine.masked_again || !engine.bounce_count || !engine.bounces[0].masked) return false;
  const Bounce& b = engine.bounces[0];
  copy_bytes(engine.masked_bytes, b.at, b.size);
  engine.masked_again = true;
  engine.bounce_count = engine.bounce_used = 0;
  return true;
}

namespace {
// Bytes [from, from+size) of a bounce buffer.
void write_back(VcpuState& vcpu, const Bounce& b, unsigned from, unsigned size) {
  const unsigned head = from >= b.first ? 0 : from + size <= b.first ? size : b.first - from;
  auto part = [&](const Piece& piece, unsigned skip, unsigned at, unsigned n) {
    Piece p = piece;
    p.gpa += skip;
    write_piece(vcpu, p, n, b.at + at);
  };
  if (head) part(b.pieces[0], from, from, head);
  if (head < size) part(b.pieces[1], from + head - b.first, from + head, size - head);
}

// The runs of bytes that both runs have left equal, as far as they stay in naturally aligned 8 bytes.
void write_masked(VcpuState& vcpu, const Bounce& b) {
  const uint8_t* stored = engine_of(vcpu).masked_bytes;
  for (unsigned i = 0; i < b.size;) {
    unsigned n = 0;
    while (i + n < b.size && b.at[i + n] == stored[i + n] && (!n || (b.pieces[0].gpa + i + n) % 8)) n++;
    if (n) write_back(vcpu, b, i, n);
    i += n ? n : 1;
  }
}

// After an x87 store: was it kept from storing by an unmasked exception? All but #P do so. The host's x87 state is the guest's.
bool x87_store_withheld() {
  uint16_t status, control;
  asm volatile("fnstsw %0; fnstcw %1" : "=m"(status), "=m"(control));
  return status & ~control & 0x1f;
}
}  // namespace

void commit_step(VcpuState& vcpu) {
  Engine& engine = engine_of(vcpu);
  engine.stepping = false;
  engine.fragment_count = engine.fragment_next = 0;
  for (unsigned i = 0; i < engine.bounce_count; i++) {
    Bounce& b = engine.bounces[i];
    if (!b.write || (b.x87 && x87_store_withheld())) continue;
    if (b.masked) write_masked(vcpu, b);
    else write_back(vcpu, b, 0, b.size);
  }
  engine.bounce_count = engine.bounce_used = 0;
  // Devices inside the hypervisor take theirs at once, in order; from the first one that is not, the rest leaves.
  while (engine.write_next < engine.write_count) {
    Fragment& f = engine.writes[engine.write_next];
    uint64_t value = 0;
    copy_bytes(&value, f.data, f.size);
    if (!device_mmio(vcpu, f.gpa, f.size, true, value)) break;
    engine.write_next++;
  }
  if (engine.write_next == engine.write_count)
    engine.write_count = engine.write_next = 0;
  else
    engine.writes_open = true;
}

void drop_open(Engine& engine) {
  begin_step(engine);
  engine.stepping = false;
  engine.fragment_count = 0;
  engine.ahead_left = 0;
  engine.fragment_open = engine.io_open = engine.io_answered = engine.writes_open = false;
}

Outcome read_linear(VcpuState& vcpu, uint64_t linear, void* out, unsigned size, bool system, bool stack) {
  if (const uint8_t* known = known_address(vcpu, linear, size, false, system)) {
    copy_bytes(out, known, size);
    return Outcome::kNext;
  }
  Piece pieces[2];
  unsigned first;
  Outcome o = translate_both(vcpu, linear, size, false, system, stack, pieces, first);
  if (o != Outcome::kNext) return o;
  if (pieces[0].slot) fill(vcpu, view_for(vcpu, system), linear, pieces[0], false);
  o = read_piece(vcpu, pieces[0], first, static_cast<uint8_t*>(out));
  if (o == Outcome::kNext && first < size) o = read_piece(vcpu, pieces[1], size - first, static_cast<uint8_t*>(out) + first);
  return o;
}

namespace {
Outcome check_write(VcpuState& vcpu, uint64_t linear, unsigned size, bool system, bool stack, Piece pieces[2], unsigned& first) {
  Outcome o = translate_both(vcpu, linear, size, true, system, stack, pieces, first);
  if (o != Outcome::kNext) return o;
  Engine& engine = engine_of(vcpu);
  bool plain = pieces[0].slot && !hits_code(pieces[0], first) &&
               (first == size || (pieces[1].slot && !hits_code(pieces[1], size - first)));
  if (!plain && !engine.stepping) {
    engine.need_step = true;
    return Outcome::kExit;
  }
  return Outcome::kNext;
}
}  // namespace

Outcome write_linear(VcpuState& vcpu, uint64_t linear, const void* in, unsigned size, bool system, bool stack) {
  if (uint8_t* known = known_address(vcpu, linear, size, true, system)) {
    store_bytes(known, static_cast<const uint8_t*>(in), size);
    return Outcome::kNext;
  }
  Piece pieces[2];
  unsigned first;
  Outcome o = check_write(vcpu, linear, size, system, stack, pieces, first);
  if (o != Outcome::kNext) return o;
  write_piece(vcpu, pieces[0], first, static_cast<const uint8_t*>(in));
  if (pieces[0].slot) fill(vcpu, view_for(vcpu, system), linear, pieces[0], true);
  if (first < size) write_piece(vcpu, pieces[1], size - first, static_cast<const uint8_t*>(in) + first);
  return Outcome::kNext;
}

Outcome probe_write(VcpuState& vcpu, uint64_t linear, unsigned size, bool system, bool stack) {
  Piece pieces[2];
  unsigned first;
  return check_write(vcpu, linear, size, system, stack, pieces, first);
}

Outcome linear_address(VcpuState& vcpu, SegmentRegister which, uint64_t offset, unsigned size, AccessType type, uint64_t& linear) {
  return linear_address(vcpu, which, offset, size, type, linear, true);
}

Outcome linear_address(VcpuState& vcpu, SegmentRegister which, uint64_t offset, unsigned size, AccessType type, uint64_t& linear,
                       bool aligned) {
  const Segment& segment = vcpu.segment[which];
  uint8_t vector = which == kSS ? static_cast<uint8_t>(kSSv) : static_cast<uint8_t>(kGP);
  if (vcpu.in_64bit()) {
    linear = which >= kFS ? segment.base + offset : offset;
    unsigned shift = vcpu.cr4 & kCr4La57 ? 7 : 16;
    uint64_t last = linear + (size ? size - 1 : 0);
    if (static_cast<uint64_t>(static_cast<int64_t>(linear << shift) >> shift) != linear || offset_refused(vcpu, which, offset))
      return vcpu.raise(vector, 0);
    // #AC comes before what the address's end gives; AMD has it behind.
    const bool misaligned = aligned && alignment_fault(vcpu, linear, size);
    if (misaligned && !vcpu.vendor_is_amd) return vcpu.raise(kACv, 0);
    if (static_cast<uint64_t>(static_cast<int64_t>(last << shift) >> shift) != last) return vcpu.raise(vector, 0);
    return misaligned ? vcpu.raise(kACv, 0) : Outcome::kNext;
  }
  offset &= 0xffffffffull;
  if (vcpu.protected_mode() && !vcpu.vm86()) {
    if (segment.unusable || !segment.present()) return vcpu.raise(vector, 0);
    bool code = segment.access & 8;
    bool writable = !code && segment.access & 2;
    bool readable = !code || segment.access & 2;
    if (type != AccessType::kRead && !writable) return vcpu.raise(vector, 0);
    if (type != AccessType::kWrite && !readable) return vcpu.raise(vector, 0);
  }
  uint64_t last = offset + (size ? size - 1 : 0);
  bool expand_down = vcpu.protected_mode() && !vcpu.vm86() && (segment.access & 0xc) == 4;
  if (expand_down) {
    uint64_t top = segment.db() ? 0xffffffffull : 0xffff;
    if (offset <= segment.limit || last > top) return vcpu.raise(vector, 0);
  } else if (last > segment.limit) {
    return vcpu.raise(vector, 0);
  }
  linear = (segment.base + offset) & 0xffffffffull;
  if (aligned && alignment_fault(vcpu, linear, size)) return vcpu.raise(kACv, 0);
  return Outcome::kNext;
}

uint64_t effective_offset(const VcpuState& vcpu, const Insn& insn) {
  uint64_t a = insn.displacement;
  if (insn.rip_relative) a += vcpu.rip + insn.length;
  if (insn.base != kNoRegister) a += vcpu.gpr[insn.base];
  if (insn.index != kNoRegister) a += vcpu.gpr[insn.index] * insn.scale;
  if (insn.address_size == 4) a &= 0xffffffffull;
  if (insn.address_size == 2) a &= 0xffff;
  return a;
}

Outcome memory_operand(VcpuState& vcpu, const Insn& insn, unsigned size, AccessType type, uint64_t& linear) {
  return linear_address(vcpu, static_cast<SegmentRegister>(insn.segment), effective_offset(vcpu, insn), size, type, linear);
}

void update_mode(VcpuState& vcpu) {
  Engine& engine = engine_of(vcpu);
  if (engine.profile.ticks_per_microsecond && engine.profile.in_user != (vcpu.cpl == 3)) {
    if (vcpu.cpl == 3) engine.profile.enter(vcpu.cr3 & kPageMask);
    else engine.profile.leave();
  }
  uint32_t mode = static_cast<uint32_t>(vcpu.code_mode());
  auto flat = [](const Segment& s) { return !s.unusable && s.base == 0 && s.limit == 0xffffffff && s.present(); };
  auto flat_data = [&](const Segment& s) { return flat(s) && !(s.access & 8) && s.access & 2 && !(s.access & 4); };
  if (mode == kModeCode64) {
    mode |= kModeStack32 | kModeFlatData | kModeFlatCode;
  } else {
    if (vcpu.segment[kSS].db()) mode |= kModeStack32;
    if (flat(vcpu.segment[kCS])) mode |= kModeFlatCode;
    if (flat_data(vcpu.segment[kDS]) && flat_data(vcpu.segment[kES]) && flat_data(vcpu.segment[kSS])) mode |= kModeFlatData;
  }
  unsigned view = vcpu.cpl == 3 ? kViewUser : vcpu.cr4 & kCr4Smap && vcpu.system_flags & kAC ? kViewSupervisorAc : kViewSupervisor;
  mode |= view << kModeViewShift;
  if (vcpu.cr0 & kCr0Ts) mode |= kModeTs;
  if (vcpu.cr0 & kCr0Em) mode |= kModeEm;
  if (vcpu.cr0 & kCr0Mp) mode |= kModeMp;
  if (vcpu.cr4 & kCr4Osfxsr) mode |= kModeSse;
  if (vcpu.cr4 & kCr4Osxsave && (vcpu.xcr0 & 6) == 6) mode |= kModeAvx;
  if (vcpu.cr4 & kCr4Osxsave && (vcpu.xcr0 & 0xe6) == 0xe6) mode |= kModeAvx512;
  if (vcpu.protected_mode()) mode |= kModeProtected;
  if (vcpu.vm86()) mode |= kModeVm86;
  // Alignment checking sends every user access through the access helper.
  if (view == kViewUser && vcpu.cr0 & kCr0Am && vcpu.system_flags & kAC) mode &= ~kModeFlatData;
  if (engine.view_mode[view] != mode) {
    flush_jump_cache(vcpu, view);
    engine.view_mode[view] = mode;
  }
  vcpu.mode = mode;
  engine.view_tlb = view * sizeof(TlbView);
  vcpu.seg_base_fs_copy = vcpu.segment[kFS].base;
  vcpu.seg_base_gs_copy = vcpu.segment[kGS].base;
}

}  // namespace vireo::softkvm
