// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/address_space.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "softkvm/mmu/access.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/native/executable_page.h"
#include "softkvm/native/host_time_stamps.h"
#include "softkvm/native/stub_layout.h"

namespace vireo::softkvm {
namespace {

// Page-table entries. Spec: Intel SDM vol 3, 4.5.
constexpr uint64_t kP = 1, kRw = 2, kUs = 4, kA = 0x20, kD = 0x40, kNx = 1ull << 63;
constexpr uint64_t kUserEnd = 0x7ffffffff000;  // what a host process can map, with four levels of page tables
constexpr uint64_t kRegion = 2u << 20;
constexpr unsigned kAround = 64;           // pages that are mapped together
constexpr unsigned kMostMappings = 40000;  // Linux lets a process have 65530 (vm.max_map_count); those of one stub are begun anew before

// Is the page never the guest's in a stub? Those below the stub's own are in translation too: a host's kernel refuses most of them (vm.mmap_min_addr).
bool ours(uint64_t page) { return page < STUB_END || page >= kUserEnd; }

bool test(const uint64_t (&bits)[8], unsigned i) { return bits[i / 64] >> (i % 64) & 1; }
void set(uint64_t (&bits)[8], unsigned i, bool value) {
  const uint64_t bit = 1ull << (i % 64);
  bits[i / 64] = value ? bits[i / 64] | bit : bits[i / 64] & ~bit;
}
uint64_t load(const uint64_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
// Has a walk set A or D, and nothing else changed?
bool only_marked(uint64_t before, uint64_t now) { return (before | kA | kD) == (now | kA | kD) && !(before & ~now); }
uint64_t frame_of(const VcpuState& vcpu, uint64_t entry) { return entry & ((1ull << vcpu.physical_bits) - 1) & kPageMask; }

}  // namespace

std::unique_ptr<AddressSpace> AddressSpace::create(Vm& vm, bool time_stamps, std::string& why) {
  std::unique_ptr<AddressSpace> space(new AddressSpace);
  space->vm_ = &vm;
  space->time_stamps_ = time_stamps ? TimeStamps::kRun : host_traps_time_stamps() ? TimeStamps::kFault : TimeStamps::kUnfit;
  space->generation = vm.lent.generation();
  space->ranges_ = vm.lent.ranges();
  std::vector<int> files;
  for (const LentMemory::Range& r : space->ranges_) files.push_back(r.file->get());
  auto stub = StubProcess::create(files, time_stamps);
  if (!stub) {
    why = stub.error().message;
    return nullptr;
  }
  space->stub_ = std::move(*stub);
  if (space->stub_->state_size() < Vcpu::xsave_size()) {
    why = "the host's SIMD state is smaller than the guest's";
    return nullptr;
  }
  return space;
}

void AddressSpace::call(const StubProcess::Call& c) {
  if (broken_) return;
  if (!stub_->has_room(1) && !stub_->run_calls()) {
    broken_ = true;
    return;
  }
  stub_->add(c);
}

// Of the first region and the last one, what is the guest's.
void AddressSpace::unmap(uint64_t linear, uint64_t size) {
  const uint64_t from = std::max<uint64_t>(linear, STUB_END), end = std::min(linear + size, kUserEnd);
  if (from < end) call({SYS_munmap, {from, end - from}});
}

void AddressSpace::unmap_page(Region& r, uint64_t region_linear, unsigned page) {
  unmap(region_linear + page * kPageSize, kPageSize);
  set(r.mapped, page, false);
  set(r.writable, page, false);
  set(r.executable, page, false);
}

// Do the tables above the pages still stand as they were?
bool AddressSpace::in_line(const Region& region) const {
  for (unsigned level = region.path.top; level >= 2; level--) {
    uint64_t counts = ~kA;
    if (level == 2 && region.large) {
      // Of a large page's own entry D counts only where something was mapped for writing.
      bool written = false;
      for (uint64_t word : region.writable) written |= word != 0;
      if (!written) counts &= ~kD;
    }
    if ((load(region.path.at[level]) ^ region.path.value[level]) & counts) return false;
  }
  return true;
}

bool AddressSpace::revalidate() {
  const size_t before = regions_.size();
  for (auto it = regions_.begin(); it != regions_.end();) {
    Region& r = *it->second;
    const uint64_t linear = it->first * kRegion;
    if (!in_line(r) || (r.large && !(load(r.path.at[2]) & kA))) {
      unmap(linear, kRegion);
      it = regions_.erase(it);
      continue;
    }
    if (!r.large) {
      const uint64_t* table = r.path.at[1] - (reinterpret_cast<uintptr_t>(r.path.at[1]) % 4096) / 8;
      for (unsigned word = 0; word < 8; word++)
        for (uint64_t bits = r.mapped[word]; bits; bits &= bits - 1) {
          const unsigned i = word * 64 + static_cast<unsigned>(std::countr_zero(bits));
          const uint64_t ignored = test(r.writable, i) ? 0 : kD;
          if (!((load(table + i) ^ r.entry[i]) & ~ignored)) continue;
          unmap_page(r, linear, i);
        }
    }
    ++it;
  }
  return before < 4 || regions_.size() * 2 > before;
}

void AddressSpace::recheck_writes(const VcpuState& vcpu) {
  for (auto& [number, region] : regions_) {
    Region& r = *region;
    for (unsigned word = 0; word < 8; word++)
      for (uint64_t bits = r.writable[word]; bits; bits &= bits - 1) {
        const unsigned i = word * 64 + static_cast<unsigned>(std::countr_zero(bits));
        const uint64_t gpa = r.large ? (frame_of(vcpu, r.path.value[2]) & ~(kRegion - 1)) + i * kPageSize : frame_of(vcpu, r.entry[i]);
        const Slot* slot = vm_->slots->find(gpa);
        if (slot && slot->writable() && !slot->dirty) {
          // Again: what was told of it may have been taken, from a vCPU that was to drop all of its ways to write.
          slot->tell_of_write(vcpu.id, gpa);
          if (!slot->code_of(gpa).load()) continue;
        }
        const int protection = PROT_READ | (test(r.executable, i) ? PROT_EXEC : 0);
        call({SYS_mprotect, {number * kRegion + i * kPageSize, kPageSize, static_cast<uint64_t>(protection)}});
        set(r.writable, i, false);
      }
  }
}

void AddressSpace::drop(uint64_t linear) {
  auto found = regions_.find(linear / kRegion);
  if (found == regions_.end()) return;
  const unsigned page = linear / kPageSize % 512;
  if (test(found->second->mapped, page)) unmap_page(*found->second, linear & ~(kRegion - 1), page);
}

AddressSpace::Region* AddressSpace::region_at(uint64_t linear, const WalkPath& path) {
  std::unique_ptr<Region>& place = regions_[linear / kRegion];
  const bool large = path.leaf == 2;
  if (place && (place->large != large || !in_line(*place))) {
    unmap(linear & ~(kRegion - 1), kRegion);
    place.reset();
  }
  if (!place) {
    place = std::make_unique<Region>();
    place->large = large;
  }
  place->path = path;
  return place.get();
}

const uint8_t* AddressSpace::executable_host(uint64_t linear) const {
  auto found = regions_.find(linear / kRegion);
  if (found == regions_.end()) return nullptr;
  const Region& r = *found->second;
  const unsigned i = linear / kPageSize % 512;
  if (!test(r.executable, i)) return nullptr;
  constexpr uint64_t kFrame = ((1ull << 52) - 1) & kPageMask;
  return vm_->slots->host(r.large ? (r.path.value[2] & kFrame & ~(kRegion - 1)) + i * kPageSize : r.entry[i] & kFrame);
}

// With the pages on both sides, where those may run.
bool AddressSpace::seams_run_natively(uint64_t linear, const uint8_t* host) const {
  const uint8_t* before = executable_host(linear - kPageSize);
  const uint8_t* behind = executable_host(linear + kPageSize);
  return (!before || seam_runs_natively(before, host, time_stamps_)) && (!behind || seam_runs_natively(host, behind, time_stamps_));
}

bool AddressSpace::may_execute(uint64_t linear, const uint8_t* host) const {
  return runs_natively({host, kPageSize}, time_stamps_) && seams_run_natively(linear, host);
}

// How a page of the region can be mapped now. `entry` is what maps it. Of a page that was not `asked` for, only what takes no right that
// a walk would have to mark (A, D).
AddressSpace::Wish AddressSpace::wish(VcpuState& vcpu, Region& r, uint64_t region_linear, unsigned page, uint64_t entry, Want want, bool asked) {
  const uint64_t reserved = ((1ull << 52) - 1) & ~((1ull << vcpu.physical_bits) - 1);
  uint64_t all = entry, any = entry;
  for (unsigned level = r.path.top; level > (r.large ? 2u : 1u); level--) all &= r.path.value[level], any |= r.path.value[level];
  if (!(all & kP) || !(all & kUs) || !(entry & kA) || any & reserved) return {};
  const uint64_t gpa = r.large ? (frame_of(vcpu, entry) & ~(kRegion - 1)) + page * kPageSize : frame_of(vcpu, entry);
  const Slot* slot = vm_->slots->find(gpa);
  if (!slot) return {};
  const uint8_t* host = slot->host + (gpa - slot->gpa);
  Wish out;
  out.host = host;
  bool lent = false;
  for (size_t i = 0; i < ranges_.size() && !lent; i++) {
    if (static_cast<uint64_t>(host - ranges_[i].host) >= ranges_[i].size) continue;
    out.file = static_cast<uint8_t>(i);
    out.offset = ranges_[i].offset + static_cast<uint64_t>(host - ranges_[i].host);
    lent = true;
  }
  if (!lent) return {};
  out.protection = PROT_READ;
  out.may_fetch = !(vcpu.efer & kEferNx && any & kNx);
  const bool look = !test(r.mapped, page) || (asked && want == Want::kFetch);
  if ((test(r.executable, page) && !shadow_at(region_linear + page * kPageSize)) || (out.may_fetch && look && may_execute(region_linear + page * kPageSize, host))) out.protection |= PROT_EXEC;
  if (all & kRw && entry & kD && slot->writable() && ((asked && want == Want::kWrite) || !slot->dirty)) {
    slot->tell_of_write(vcpu.id, gpa);
    if (!slot->code_of(gpa).load()) {
      out.protection |= PROT_WRITE;
      if (asked && want == Want::kWrite) dirtied(vcpu, *slot, gpa);
    }
  }
  return out;
}

bool AddressSpace::shadow(Region& r, uint64_t region_linear, unsigned page, uint64_t entry, const uint8_t* host) {
  const uint64_t linear = region_linear + page * kPageSize;
  if (refusals_.size() >= kMostRefusals) refusals_.clear();
  if (test(r.writable, page) || ++refusals_[linear] < kRefusalsBeforeShadow) return false;
  if (!seams_run_natively(linear, host)) return false;
  unsigned n = 0;
  while (n < StubProcess::kOwnPages && shadows_[n]) n++;
  if (n == StubProcess::kOwnPages) return false;
  shadows_[n] = std::make_unique<Shadow>(Shadow{linear, host, {}});
  memcpy(shadows_[n]->source, host, kPageSize);
  memcpy(stub_->own_page(n), shadows_[n]->source, kPageSize);
  make_unfit_trap({stub_->own_page(n), kPageSize}, time_stamps_);
  call({SYS_mmap, {linear, kPageSize, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, static_cast<uint64_t>(StubProcess::own_file()), StubProcess::own_offset(n)}});
  r.entry[page] = entry;
  set(r.mapped, page, true);
  set(r.executable, page, true);
  return true;
}

// What is executable there is a copy, and not the page.
bool AddressSpace::shadow_at(uint64_t linear) const {
  return std::ranges::any_of(shadows_, [&](const auto& s) { return s && s->linear == linear; });
}

void AddressSpace::recheck_shadows() {
  for (auto& s : shadows_) {
    if (!s) continue;
    auto found = regions_.find(s->linear / kRegion);
    const unsigned page = s->linear / kPageSize % 512;
    const bool there = found != regions_.end() && test(found->second->executable, page);
    if (there && memcmp(s->source, s->host, kPageSize) == 0) continue;
    if (there) unmap_page(*found->second, s->linear & ~(kRegion - 1), page);
    s.reset();
  }
}

bool AddressSpace::has(uint64_t linear, Want want) const {
  auto found = regions_.find(linear / kRegion);
  if (found == regions_.end()) return false;
  const Region& r = *found->second;
  const unsigned page = linear / kPageSize % 512;
  return test(want == Want::kWrite ? r.writable : want == Want::kFetch ? r.executable : r.mapped, page);
}

AddressSpace::Outcome AddressSpace::map(VcpuState& vcpu, uint64_t linear, Want want) {
  const uint64_t page_linear = linear & kPageMask;
  PageTranslation t;
  WalkPath path;
  if (walk(vcpu, linear, want, true, false, false, t, &path) != softkvm::Outcome::kNext) return Outcome::kFault;
  if (ours(page_linear)) return Outcome::kRefused;
  if (path.leaf == 0 || path.leaf > 2) return Outcome::kRefused;
  for (unsigned level = path.leaf; level <= path.top; level++)
    if (!path.at[level]) return Outcome::kRefused;  // tables outside of RAM
  if (mappings_ > kMostMappings || regions_.size() >= kMostRegions) broken_ = true;
  if (broken_) return Outcome::kRefused;

  Region& r = *region_at(linear, path);
  const uint64_t region_linear = linear & ~(kRegion - 1);
  const unsigned asked = linear / kPageSize % 512;
  const uint64_t* table = r.large ? nullptr : path.at[1] - asked;
  const unsigned window = r.large ? 512 : kAround;
  const unsigned first = asked / window * window;

  // Neighbouring pages with neighbouring memory are one mapping.
  Wish run;
  unsigned run_first = 0, run_pages = 0;
  auto flush = [&] {
    if (!run_pages) return;
    call({SYS_mmap, {region_linear + run_first * kPageSize, run_pages * kPageSize, run.protection, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
                     static_cast<uint64_t>(StubProcess::file_of(run.file)), run.offset}});
    mappings_++;
    run_pages = 0;
  };
  Outcome outcome = Outcome::kRefused;
  for (unsigned i = first; i < first + window; i++) {
    if (ours(region_linear + i * kPageSize)) {
      flush();
      continue;
    }
    const bool wanted = i == asked;
    const uint64_t entry = wanted || r.large ? path.value[path.leaf] : load(table + i);
    bool known = test(r.mapped, i);
    if (!wanted && known && (r.large || r.entry[i] != entry)) {
      flush();
      continue;
    }
    if (wanted && known && !r.large && !only_marked(r.entry[i], entry)) {
      // Changed, and not flushed yet: what is mapped may go on for as long, but not under the new entry's name, by which revalidate() goes.
      unmap_page(r, region_linear, i);
      known = false;
    }
    const Wish w = wish(vcpu, r, region_linear, i, entry, want, wanted);
    const int has = !known ? 0 : PROT_READ | (test(r.writable, i) ? PROT_WRITE : 0) | (test(r.executable, i) ? PROT_EXEC : 0);
    if (wanted) {
      const int needed = want == Want::kWrite ? PROT_WRITE : want == Want::kFetch ? PROT_EXEC : PROT_READ;
      outcome = w.protection & needed ? Outcome::kMapped : Outcome::kRefused;
      if (want == Want::kFetch && outcome == Outcome::kRefused && w.protection == PROT_READ && w.may_fetch && shadow(r, region_linear, i, entry, w.host)) {
        outcome = Outcome::kMapped;
        flush();
        continue;
      }
    }
    if (!w.protection || (w.protection & ~has) == 0) {
      if (wanted && known && w.protection) r.entry[i] = entry;
      flush();
      continue;
    }
    if (run_pages && (w.protection != run.protection || w.file != run.file || w.offset != run.offset + run_pages * kPageSize)) flush();
    if (!run_pages) run = w, run_first = i;
    run_pages++;
    r.entry[i] = entry;
    set(r.mapped, i, true);
    set(r.writable, i, w.protection & PROT_WRITE);
    set(r.executable, i, w.protection & PROT_EXEC);
  }
  flush();
  return outcome;
}

}  // namespace vireo::softkvm
