// SPDX-License-Identifier: Apache-2.0
// What the engine keeps of the guest's page tables, and what makes it forget: TLB, recent pages, fetch and jump entries. General registers only.
// Spec: Intel SDM vol 3, 4.10.4 (what is invalidated by what), 4.10.2.3 (what a CPU may hold).
#include <optional>

#include "softkvm/cpu/insn.h"
#include "softkvm/mmu/access.h"
#include "softkvm/mmu/walk.h"
#include "softkvm/translate/switches.h"

namespace vireo::softkvm {
namespace {
void forget_recent_pages(Engine& engine, bool writes_only) {
  for (auto& view : engine.recent) {
    for (RecentPage& page : view[1]) page = RecentPage{};
    if (!writes_only)
      for (RecentPage& page : view[0]) page = RecentPage{};
  }
}
}  // namespace

namespace {
void forget_code_writes(Engine& engine) {
  if (engine.no_code_writes) return;
  for (auto& view : engine.code_writes)
    for (CodePageWrite& page : view) page.tag = kInvalidTag;
  engine.no_code_writes = true;
}

// Jump entries into a page, or to an instruction that reaches into it. They are in the logs of what was filled, or lie among 4096 (jump_index()
// leaves the page offset's bits together) and the few that the page before ends in: the shorter list is looked through.
void drop_jump_page(Engine& engine, unsigned view, uint64_t page, bool by_log) {
  bool others = false;  // entries that have the page's bit
  auto drop = [&](unsigned i) {
    JumpEntry& entry = engine.jump[view][i];
    const uint64_t last = (entry.tag + kMaxInsnLength) & kPageMask;  // behind 4 GiB comes address 0, with 32 bits
    if ((entry.tag & kPageMask) == page || last == page || (page == 0 && last == 1ull << 32)) entry.tag = no_jump(i);
    else others |= JumpPages::alike(entry.tag, page) && entry.tag != no_jump(i);
  };
  FillLog &own = engine.jump_log[view], &global = engine.jump_log_global[view];
  if (by_log && own.count + global.count <= 1024) {  // an entry is looked up at random, the 4096 in a row
    for (FillLog* log : {&own, &global})
      log->compact([&](unsigned i) {
        drop(i);
        return engine.jump[view][i].tag != no_jump(i);
      });
  } else {
    const unsigned first = jump_index(page) & ~0xfffu;
    for (unsigned i = 0; i < 4096; i++) drop(first + i);
    for (unsigned back = 1; back <= kMaxInsnLength; back++) drop(jump_index(page - back));
  }
  if (!others) engine.jump_pages[view].clear_own(page);
}

void drop_jumps(VcpuState& vcpu, uint64_t page) {
  const uint32_t off = vcpu.vm->off;
  Engine& engine = engine_of(vcpu);
  for (unsigned v = 0; v < kViews; v++)
    if (off & kSwitchInvlpgFilter || engine.jump_pages[v].may_have(page))
      drop_jump_page(engine, v, page, !(off & (kSwitchInvlpgFilter | kSwitchFillLog)));
}

// What a flush of everything leaves: global pages' translations that the page tables would fill just so again, as a CPU may do that fetches and
// reads ahead (SDM vol 3, 4.10.2.3). G is asked for in the tables, whatever CR4.PGE is just now: what has lost it would go with the next change of
// address space. What hangs on keys is not kept, for the books of used keys begin anew.
class Keeper {
 public:
  explicit Keeper(VcpuState& vcpu) : vcpu_(vcpu), engine_(engine_of(vcpu)), peek_(vcpu) {}

  // The TLB's entries of a view; those of pages that are not global have gone.
  void tlb(unsigned view) {
    KnownAreas& areas = engine_.areas[view];
    FillLog &of_areas = engine_.tlb_log_area[view], &others = engine_.tlb_log_global[view];
    const bool user = view == kViewUser, ac = view == kViewSupervisorAc;
    TlbView& tlb = engine_.tlb[view];
    auto drop = [&](unsigned i) { tlb.read[i] = tlb.write[i] = no_page(i); };
    const bool all = !areas.lost() && areas.keep_if([&](const KnownArea& area) { return same(area, Want::kRead, user, ac); });
    if (areas.lost()) areas.clear();
    if (!all) of_areas.drain(kTlbEntries, drop);
    if (others.count > kMostPages) return others.drain(kTlbEntries, drop);
    others.compact([&](unsigned i) {
      const uint64_t page = tlb.read[i];
      if (page == no_page(i)) return false;
      PageTranslation t;
      const bool keep = peek_.at(page, Want::kRead, user, ac, t) && t.global && holds(tlb, i, t);
      if (keep) note(t, page);
      else drop(i);
      return keep;
    });
  }

  // Fetch and jump entries. A jump entry does not say itself where its page was: its page's fetch entry does, or the one that has made room, or the area.
  // False: it is not known of all.
  bool fetches() {
    if (engine_.fetch_lost || engine_.fetch_log.count > FillLog::kCapacity) return false;
    bool all = true;
    for (unsigned user = 0; user < 2; user++) {
      KnownAreas& areas = engine_.fetch_areas[user];
      if (areas.lost()) return false;
      all &= areas.keep_if([&](const KnownArea& area) { return same(area, Want::kFetch, user, false); });
    }
    unsigned changed = 0;
    auto drop = [&](const FetchEntry& f) {
      if (++changed <= kMostChanged) drop_jumps(vcpu_, f.tag & kPageMask);
    };
    engine_.fetch_log.compact([&](unsigned i) {
      FetchEntry& f = engine_.fetch[i];
      if (f.tag == kInvalidTag || !engine_.holds(f, f.tag) || !f.global || f.of_area) return false;
      if (same(f)) return true;
      drop(f);
      f = {};
      return false;
    });
    unsigned gone = 0;
    for (unsigned i = 0; i < engine_.fetch_gone_count; i++) {
      const FetchEntry f = engine_.fetch_gone[i];
      if (same(f)) engine_.fetch_gone[gone++] = f;
      else drop(f);
    }
    if (changed > kMostChanged) return false;
    engine_.fetch_gone_count = gone;
    engine_.fetch_space[false]++;
    if (!all) {
      look_for_areas();
      engine_.fetch_gone_count = 0;
    }
    for (unsigned v = 0; v < kViews; v++) {
      flush_jump_cache(vcpu_, v, true);
      if (!all) jumps(v);
    }
    return true;
  }

 private:
  static constexpr unsigned kMostPages = 48;  // of 4 KiB; more are found again when they are wanted
  static constexpr unsigned kMostChanged = 16;  // of which jump entries are looked for; else all go

  void note(const PageTranslation& t, uint64_t linear) {
    if (t.shift > 12) engine_.large_areas.add(t.shift, linear, true);
  }
  bool same(const KnownArea& area, Want want, bool user, bool ac) {
    PageTranslation t;
    if (!peek_.at(area.begin(), want, user, ac, t) || !t.global || t.shift <= 12 || t.gpa != area.gpa(area.begin()) || (area.writable() && !t.writable)) return false;
    note(t, area.begin());
    return true;
  }
  bool same(const FetchEntry& f) {
    PageTranslation t;
    if (!peek_.at(f.tag & kPageMask, Want::kFetch, f.tag & 1, false, t) || !t.global || t.gpa != f.gpa) return false;
    note(t, f.tag & kPageMask);
    return true;
  }
  bool holds(const TlbView& tlb, unsigned i, const PageTranslation& t) const {
    if (tlb.write[i] != no_page(i) && !t.writable) return false;
    const Slot* slot = vcpu_.vm->slots->find(t.gpa);
    return slot && tlb.addend[i] == reinterpret_cast<uint64_t>(slot->host + (t.gpa - slot->gpa));
  }

  // An area that has gone may have become pages of 4 KiB, mapped as before.
  void look_for_areas() {
    for (unsigned i = 0; i < kFetchEntries; i++) {
      FetchEntry& f = engine_.fetch[i];
      if (!f.of_area || f.tag == kInvalidTag || !engine_.holds(f, f.tag) || engine_.fetch_areas[f.tag & 1].find(f.tag)) continue;
      f.of_area = false;
      if (same(f)) engine_.fetch_log.add(i);
      else f = {};
    }
  }
  // The global pages' jump entries whose fetch entries have stayed.
  void jumps(unsigned view) {
    auto keep = [&](unsigned i) {
      JumpEntry& jump = engine_.jump[view][i];
      if (jump_index(jump.tag) != i && jump_index(doubted_tag(jump.tag)) != i) return false;  // it leads nowhere
      const uint64_t page = jump.tag & kPageMask;
      if (engine_.holds(engine_.fetch[page >> 12 & (kFetchEntries - 1)], page | (view == kViewUser))) return true;
      jump.tag = no_jump(i);
      return false;
    };
    FillLog& log = engine_.jump_log_global[view];
    if (log.count <= FillLog::kCapacity) return log.compact(keep);
    log.count = 0;
    for (unsigned i = 0; i < kJumpEntries; i++)
      if (keep(i)) log.add(i);
  }

  VcpuState& vcpu_;
  Engine& engine_;
  Peek peek_;
};
}  // namespace

void flush_tlb(VcpuState& vcpu, bool keep_global, bool as_before) {
  Engine& engine = engine_of(vcpu);
  const uint32_t off = vcpu.vm->off;
  // What was kept as global while CR4.PGE was set is not any more.
  if (off & kSwitchGlobalPages || !(vcpu.cr4 & kCr4Pge)) keep_global = false;
  if (off & (kSwitchGlobalPages | kSwitchFillLog)) as_before = false;
  const bool keep_pages = !keep_global && as_before && !(off & kSwitchKeptPages);
  const bool keep_jumps = !keep_global && as_before && !(off & (kSwitchKeptJumps | kSwitchFetchCache));
  engine.counters.tlb_flush++;
  engine.native_flushes++;
  if (!keep_global) vcpu.user_keys = vcpu.supervisor_keys = 0;
  engine.large_areas.clear(keep_global);
  forget_recent_pages(engine, false);
  forget_code_writes(engine);
  std::optional<Keeper> keeper;
  if (keep_pages || keep_jumps) keeper.emplace(vcpu);
  for (unsigned v = 0; v < kViews; v++) {
    TlbView& tlb = engine.tlb[v];
    auto drop = [&](unsigned i) { tlb.read[i] = tlb.write[i] = no_page(i); };
    if (off & kSwitchFillLog) engine.tlb_log[v].forget();
    engine.tlb_log[v].drain(kTlbEntries, drop);
    if (keep_pages) {
      keeper->tlb(v);
    } else if (!keep_global) {
      engine.tlb_log_global[v].drain(kTlbEntries, drop);
      engine.tlb_log_area[v].drain(kTlbEntries, drop);
      engine.areas[v].clear();
    }
    engine.write_log[v].keep_if([&](unsigned i) { return tlb.write[i] != no_page(i); });
  }
  if (keep_jumps && keeper->fetches()) return;
  for (unsigned v = 0; v < kViews; v++) flush_jump_cache(vcpu, v, keep_global);
  engine.fetch_space[false]++;
  if (keep_global) return;
  engine.fetch_space[true]++;
  for (KnownAreas& areas : engine.fetch_areas) areas.clear();
  engine.fetch_log.count = engine.fetch_gone_count = 0;
  engine.fetch_lost = false;
}

void change_keys(VcpuState& vcpu, bool user, uint32_t value) {
  uint32_t& rights = user ? vcpu.pkru : vcpu.pkrs;
  const uint32_t changed = rights ^ value;
  rights = value;
  for (unsigned used = user ? vcpu.user_keys : vcpu.supervisor_keys, key = 0; used >> key; key++)
    if (used >> key & 1 && changed >> 2 * key & 3) return flush_tlb(vcpu, false);
}

namespace {
// A fetch entry makes room for another. There may be jump entries by way of it.
void note_gone(Engine& engine, const FetchEntry& entry) {
  const unsigned count = engine.fetch_gone_count;
  for (unsigned i = 0; i < count; i++)
    if (engine.fetch_gone[i].tag == entry.tag && engine.fetch_gone[i].gpa == entry.gpa) return;
  if (count == kFetchGone) engine.fetch_lost = true;
  else engine.fetch_gone[engine.fetch_gone_count++] = entry;
}

// What is kept of 4 KiB, but for the recent pages.
void drop_page(VcpuState& vcpu, uint64_t page) {
  Engine& engine = engine_of(vcpu);
  const unsigned index = page >> 12 & (kTlbEntries - 1);
  for (TlbView& tlb : engine.tlb) tlb.read[index] = tlb.write[index] = no_page(index);
  for (auto& view : engine.code_writes) view[index % kCodePageWrites].tag = kInvalidTag;
  FetchEntry& fetch = engine.fetch[page >> 12 & (kFetchEntries - 1)];
  if ((fetch.tag & kPageMask) == page) fetch = {};
  drop_jumps(vcpu, page);
}
}  // namespace

bool fill_fetch(VcpuState& vcpu, uint64_t linear, bool walk_tables) {
  Engine& engine = engine_of(vcpu);
  const bool user = vcpu.cpl == 3;
  const unsigned index = linear >> 12 & (kFetchEntries - 1);
  const uint64_t page = linear & kPageMask;
  KnownAreas& areas = engine.fetch_areas[user];
  const KnownArea* area = areas.find(linear);
  FetchEntry now{page | user, 0, true, true, 0};
  if (area && !walk_tables) {
    now.gpa = area->gpa(page);
  } else {
    PageTranslation t;
    if (walk(vcpu, linear, Want::kFetch, user, false, false, t) != Outcome::kNext) return false;
    now.gpa = t.gpa & kPageMask;
    now.global = t.global;
    now.of_area = has_area(vcpu, t) && !(vcpu.vm->off & kSwitchFetchCache);
    // The page tables may have changed, and nothing was flushed: then the page's jump entries may be those of another page.
    if (area && now.gpa != area->gpa(page)) drop_jumps(vcpu, page);
    if (now.of_area) areas.add({linear, t.gpa, false});
  }
  now.space = engine.fetch_space[now.global];
  FetchEntry& entry = engine.fetch[index];
  if (entry.tag != kInvalidTag && entry.global && engine.holds(entry, entry.tag)) {
    // Nor is there one by which a flush could tell, where the page is none of all address spaces any more.
    if (entry.tag == now.tag && (entry.gpa != now.gpa || (!now.global && !entry.of_area))) drop_jumps(vcpu, page);
    if (entry.tag != now.tag && !entry.of_area) note_gone(engine, entry);
  }
  if (now.global && !now.of_area) engine.fetch_log.add(index);
  entry = now;
  return true;
}

void flush_tlb_page(VcpuState& vcpu, uint64_t linear) {
  Engine& engine = engine_of(vcpu);
  engine.counters.invlpg++;
  for (KnownAreas& areas : engine.areas) areas.drop(linear);
  for (KnownAreas& areas : engine.fetch_areas) areas.drop(linear);
  for (LargeAreas::Size size : LargeAreas::kAll) {
    if (!engine.large_areas.has(size, linear)) continue;
    if (size == LargeAreas::k1G) return flush_tlb(vcpu, false);
    const uint64_t bytes = 1ull << LargeAreas::shift_of(size), begin = linear & ~(bytes - 1);
    for (uint64_t page = begin; page != begin + bytes; page += kPageSize) drop_page(vcpu, page);
  }
  engine.native_flushes++;
  forget_recent_pages(engine, false);
  drop_page(vcpu, linear & kPageMask);
}

// Mostly there is nothing: the page was not present.
void flush_faulted_page(VcpuState& vcpu, uint64_t linear) {
  Engine& engine = engine_of(vcpu);
  const uint64_t page = linear & kPageMask;
  const unsigned index = page >> 12 & (kTlbEntries - 1);
  // Global pages are a kernel's. Areas are noted by a hash, by which a program's new pages would be taken for them, time and again.
  const bool kernels = linear >> 63;
  if (!kernels) {
    if (engine.native_faulted_count == Engine::kNativeFaulted) engine.native_faulted_count = 0, engine.native_flushes++;
    engine.native_faulted[engine.native_faulted_count++] = page;
  }
  bool kept = (engine.fetch[page >> 12 & (kFetchEntries - 1)].tag & kPageMask) == page;
  for (unsigned v = 0; v < kViews; v++)
    kept |= engine.tlb[v].read[index] == page || engine.tlb[v].write[index] == page || engine.areas[v].find(linear) != nullptr;
  for (const KnownAreas& areas : engine.fetch_areas) kept |= areas.find(linear) != nullptr;
  for (unsigned v = 0; v < kViews; v++) {
    kept |= engine.code_writes[v][index % kCodePageWrites].tag == page || engine.jump_pages[v].may_have(page);
    for (const auto& pages : engine.recent[v])
      for (const RecentPage& recent : pages) kept |= recent.tag == page;
  }
  for (LargeAreas::Size size : LargeAreas::kAll) kept |= engine.large_areas.has(size, linear, kernels);
  if (kept) flush_tlb_page(vcpu, linear);
}

// The TLB's entries have no PCID: another address space starts with none.
void switch_address_space(VcpuState& vcpu, bool) { flush_tlb(vcpu, true); }

void flush_tlb_pcid(VcpuState& vcpu, unsigned pcid, bool keep_global) { flush_tlb(vcpu, keep_global); }

void flush_write_tags(VcpuState& vcpu) {
  Engine& engine = engine_of(vcpu);
  engine.native_write_flushes++;
  forget_recent_pages(engine, true);
  forget_code_writes(engine);
  for (unsigned v = 0; v < kViews; v++) {
    TlbView& tlb = engine.tlb[v];
    if (vcpu.vm->off & kSwitchFillLog) engine.write_log[v].forget();
    engine.write_log[v].drain(kTlbEntries, [&](unsigned i) { tlb.write[i] = no_page(i); });
  }
}

}  // namespace vireo::softkvm
