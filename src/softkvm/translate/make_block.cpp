// SPDX-License-Identifier: Apache-2.0
// FAST.
#include "softkvm/translate/make_block.h"

#include <optional>

#include "base/log.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/mmu/walk.h"
#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/code_names.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/host_state.h"
#include "softkvm/translate/jump_cache.h"
#include "softkvm/translate/stored_blocks.h"
#include "softkvm/translate/sure_code.h"
#include "softkvm/translate/switches.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {
namespace {

class Unlock {
 public:
  explicit Unlock(CodeLock& lock) : lock_(lock) {}
  ~Unlock() { lock_.unlock(); }
  Unlock(const Unlock&) = delete;
  Unlock& operator=(const Unlock&) = delete;

 private:
  CodeLock& lock_;
};

// Makes sure that writes to a page about to be translated are seen: no vCPU keeps a write tag for it. Holds when it gives true, as long
// as the lock is held: whoever fills a write tag tells so in writers_of() before it looks at code_of().
bool watch_page(Vcpu& vcpu, const Slot& slot, uint64_t gpa, uint64_t chunks) {
  std::atomic<uint64_t>& code = slot.code_of(gpa);
  if ((code.load() & chunks) != chunks) code.fetch_or(chunks);
  std::atomic<uint8_t>& writers = slot.writers_of(gpa);
  if (!writers.load()) return vcpu.vm->code->watching.load() == 0;
  const uint8_t mine = static_cast<uint8_t>(1u << (vcpu.id & 7));
  // Who waits for writers has taken their bits, also of such as are not this vCPU: whether there are others is not known then.
  if (writers.load() != mine || vcpu.vm->code->watching.load() != 0) return false;
  for (const Vcpu* other : vcpu.vm->vcpus)  // ids may have gaps
    if (other != &vcpu && ((other->id ^ vcpu.id) & 7) == 0) return false;
  uint8_t expected = mine;
  if (!writers.compare_exchange_strong(expected, 0)) return false;
  flush_write_tags(vcpu);
  return true;
}

// Notes what a page's blocks are about to be made from.
void take_source(PageSource& source, const uint8_t* page, uint64_t chunks) {
  const uint64_t known = source.chunks.load();
  for (uint64_t bits = chunks & ~known; bits; bits &= bits - 1) {
    const unsigned at = static_cast<unsigned>(__builtin_ctzll(bits)) * 64;
    for (unsigned i = at; i < at + 64; i += 8) __builtin_memcpy(source.bytes + i, page + i, 8);
  }
  source.chunks.store(known | chunks, std::memory_order_release);
}

// Where a block's bytes come from: a page and its slot.
struct CodePage {
  uint64_t gpa = 0;  // of the first byte wanted
  const Slot* slot = nullptr;
  const uint8_t* host = nullptr;  // of the page
  PageSource* source = nullptr;
};

#ifdef VIREO_VERIFY_BLOCKS
// A block that was stored has to be what would be made now, byte for byte. With the code cache's lock held.
void compare_with_new(const Vcpu& vcpu, const Source& source, std::span<const uint8_t> code, uint32_t at, const Block& block, const BlockNotes& notes) {
  static uint8_t room[kBlockRoom];
  static BlockNotes now;
  Block made{};
  now.side_count = now.site_count = 0;
  const size_t used = translate(vcpu, source, room, at, made, now);
  auto differ = [&](const char* what, uint64_t where) {
    HostState aside;
    panic("stored code: the block of guest 0x%llx, mode 0x%x, is not what would be made now: %s %llu", static_cast<unsigned long long>(source.gpa),
          source.mode, what, static_cast<unsigned long long>(where));
  };
  if (used != code.size()) differ("size", used);
  for (size_t i = 0; i < used; i++)
    if (room[i] != code[i]) differ("byte", i);
  if (made.indirect_entry != block.indirect_entry || made.straddle != block.straddle || made.guest_begin != block.guest_begin || made.guest_end != block.guest_end)
    differ("head", 0);
  for (unsigned i = 0; i < 3; i++)
    if (made.linked_entry[i] != block.linked_entry[i]) differ("entry", i);
  if (now.side_count != notes.side_count || now.site_count != notes.site_count || now.instructions != notes.instructions) differ("notes", 0);
  for (unsigned i = 0; i < now.side_count; i++) {
    const SideEntry &a = now.side[i], &b = notes.side[i];
    bool same = a.host == b.host && a.guest == b.guest && a.host_flags == b.host_flags && a.borrowed == b.borrowed;
    for (unsigned k = 0; k < 4; k++) same &= a.borrow_reg[k] == b.borrow_reg[k];
    if (!same) differ("side entry", i);
  }
  for (unsigned i = 0; i < now.site_count; i++)
    if (now.sites[i].at != notes.sites[i].at || now.sites[i].unlinked != notes.sites[i].unlinked || now.sites[i].flags != notes.sites[i].flags ||
        now.sites[i].ungrouped != notes.sites[i].ungrouped || now.sites[i].target != notes.sites[i].target)
      differ("link site", i);
}
#endif

struct Maker {
  Vcpu& vcpu;
  MakeBlock& what;
  Vm& vm = *vcpu.vm;
  CodeCache& code = *vm.code;

  Made find(uint64_t linear, CodePage& out) {
    // The run loop finds blocks by its fetch entries. Where the guest has changed its page tables and not flushed, they may still name another
    // page than the walk: then it would ask for ever for a block that is there already.
    if (!fill_fetch(vcpu, linear, true)) return Made::kFault;
    return find_at(engine_of(vcpu).fetch[linear >> 12 & (kFetchEntries - 1)].gpa | (linear & 0xfff), out);
  }
  Made find_at(uint64_t gpa, CodePage& out) {
    out.gpa = gpa;
    out.slot = vm.slots->find(gpa);
    if (!out.slot) return Made::kNoMemory;
    out.host = out.slot->host + ((gpa & kPageMask) - out.slot->gpa);
    return Made::kYes;
  }
  // The first page, where that is known without a walk.
  uint64_t known_gpa() const {
    if (!what.at_site || what.generation != code.generation()) return what.gpa;
    const Block* from = code.containing(code.offset_of(what.site));
    return from && from->valid && !from->straddle ? (from->gpa & kPageMask) | (what.linear & ~kPageMask) : ~0ull;
  }

  // May the guest have learnt that what the page's blocks were made from is no longer there? Else it is enough that what a block is made from
  // agrees with it, and that blocks which are there are compared before they run (code_current()).
  bool doubtful() const { return engine_of(vcpu).suspect || engine_of(vcpu).alert; }

  // Does the page hold what its blocks were made from? If not, it has none any more. With the lock held.
  bool holds(const CodePage& page, PageSource& source) {
    if (source.same(page.host)) return true;
    drop_blocks(vm, *page.slot, page.gpa & kPageMask, 4096);
    return false;
  }

  // What a block's page holds, where another vCPU may come to run the block by a link that is about to be made.
  const uint8_t* to_compare(const Block& block) const {
    return vm.unseen_writes && vm.vcpus.size() > 1 ? vm.slots->host(block.gpa & kPageMask) : nullptr;
  }

  // With the lock held: the page is watched, and if that was asked or is doubtful, what its blocks were made from is what it holds.
  Made watch(CodePage& page, uint64_t chunks, bool compare) {
    what.page = page.gpa & kPageMask;
    if (vm.off & kSwitchCodeChunks) chunks = ~0ull;
    if (!watch_page(vcpu, *page.slot, page.gpa, chunks)) return Made::kWatch;
    if (!vm.unseen_writes) return Made::kYes;
    page.source = code.source(page.gpa);
    if (!page.source) return Made::kNeedSource;
    if ((compare || doubtful()) && !holds(page, *page.source)) return watch(page, chunks, compare);  // once more, for what it has dropped
    return Made::kYes;
  }

  // A block for `source`, at the front of the code cache: as the file has it, or else made. Gives the bytes used.
  size_t write(const Source& source, uint8_t* room, uint32_t at, Block& made, BlockNotes& notes);
  size_t write(const StoredBlock& from, const Source& source, uint8_t* room, uint32_t at, Block& made, BlockNotes& notes);
  Block* finish(const Block& made, size_t used, const BlockNotes& notes, uint32_t at, unsigned offset, uint64_t looked_at);
  void restore_rest(CodePage& page);
  void enter_jumps(uint64_t page, std::span<Block* const> blocks);

  Made run();

  StoredBlocks* const stored = engine_of(vcpu).stored;
  const StoredBlock* restored = nullptr;  // what the block that was asked for is from
};

size_t Maker::write(const StoredBlock& from, const Source& source, uint8_t* room, uint32_t at, Block& made, BlockNotes& notes) {
  const size_t used = stored->restore(from, source.page, source, room, at, made, notes);
#ifdef VIREO_VERIFY_BLOCKS
  compare_with_new(vcpu, source, {room, used}, at, made, notes);
#endif
  return used;
}

size_t Maker::write(const Source& source, uint8_t* room, uint32_t at, Block& made, BlockNotes& notes) {
  restored = stored ? stored->find(source.page, source) : nullptr;
  return restored ? write(*restored, source, room, at, made, notes) : translate(vcpu, source, room, at, made, notes);
}

Block* Maker::finish(const Block& made, size_t used, const BlockNotes& notes, uint32_t at, unsigned offset, uint64_t looked_at) {
  Block* block = code.finish(made, used, notes.all_side(), notes.all_sites(), looked_at);
  if (code.named) {
    HostState aside;
    name_block(code.executable(at), used, (what.linear & kPageMask) + offset, vcpu.cpl == 3);
  }
  return block;
}

// Records are read one behind the other, each for the first time, and the next one's place is known by what the one before says.
void fetch_ahead(const StoredBlock& stored) {
  constexpr size_t kAhead = 1024, kLine = 64;
  for (size_t at = kAhead; at < kAhead + stored.size; at += kLine) __builtin_prefetch(stored.bytes() + at);
}

// What a page's code has once run it mostly runs again: the file's blocks of the page that lie behind the one that was asked for come with it, with their
// jumps linked before they run. One by one, each would be a call-out, a search, and a jump that is patched while the CPU runs through it.
void Maker::restore_rest(CodePage& page) {
  constexpr unsigned kMost = 256, kMostRewrites = 2;  // while a kernel patches itself, what has come may be dropped again unused
  if (code.rewrites(page.gpa) > kMostRewrites) return;
  const StoredBlock* list[kMost];
  unsigned count = 0;
  uint64_t chunks = 0;
  const uint64_t first = page.gpa & kPageMask;
  for (const StoredBlock* next = restored; count < kMost && (next = stored->behind(*next)) != nullptr;) {
    fetch_ahead(*next);
    if (next->straddle || (next->mode | kModeUngrouped) != (what.mode | kModeUngrouped) || code.table().find(first + next->offset, next->mode)) continue;
    list[count++] = next;
    chunks |= next->chunks();
  }
  if (!count || watch(page, chunks, true) != Made::kYes || !what.block->valid) return;
  PageCopy copy(page.host);
  auto source_of = [&](const StoredBlock& b) { return Source{copy, b.offset, first + b.offset, nullptr, b.mode}; };
  unsigned same = 0;
  for (unsigned i = 0; i < count; i++)
    if (StoredBlocks::same(*list[i], copy, source_of(*list[i]))) list[same++] = list[i];
  if (page.source) {
    if (!page.source->same(copy.bytes(), copy.taken())) return;
    take_source(*page.source, copy.bytes(), copy.taken());
  }
  Block* blocks[kMost];
  BlockNotes notes;
  for (unsigned i = 0; i < same; i++) {
    uint32_t at;
    uint8_t* room = code.begin(at);
    if (!room) {
      same = i;
      break;
    }
    Block made{};
    made.source = page.source;
    const size_t used = write(*list[i], source_of(*list[i]), room, at, made, notes);
    stored->note(*list[i], first, false);
    blocks[i] = finish(made, used, notes, at, list[i]->offset, list[i]->chunks());
  }
  engine_of(vcpu).counters.blocks_restored += same;
  for (unsigned i = 0; i < same; i++) code.link_all(*blocks[i], to_compare(*blocks[i]));
  code.link_all(*what.block, to_compare(*what.block));
  enter_jumps(first, {blocks, same});
}

// What lookups found when the blocks were run before is found at once this time: jumps from other pages lead there now, as this vCPU's fetch entry has the page.
void Maker::enter_jumps(uint64_t page, std::span<Block* const> blocks) {
  Engine& engine = engine_of(vcpu);
  const unsigned view = view_of(what.mode);
  const uint64_t linear = what.linear & kPageMask;
  const FetchEntry& fetch = engine.fetch[linear >> 12 & (kFetchEntries - 1)];
  if ((what.mode & kModeCodeMask) != kModeCode64 || engine.view_mode[view] != what.mode || engine.alert ||
      vm.off & kSwitchJumpCache || !engine.holds(fetch, linear | (view == kViewUser ? 1 : 0)) || fetch.gpa != page)
    return;
  for (const Block* block : blocks) {
    const uint64_t at = linear | (block->gpa & ~kPageMask);
    if (!block->looked_up.load(std::memory_order_relaxed) || block->mode != what.mode) continue;
    const unsigned index = jump_index(at);  // an entry that was never used is zero
    if (const uint64_t tag = engine.jump[view][index].tag; tag == 0 || tag == at || tag == no_jump(index)) {
      code_is_current(vcpu, *block);
      enter_jump(vcpu, view, at, *block, code.executable(block->indirect_entry));
    }
  }
}

Made Maker::run() {
  const uint64_t linear = what.linear;
  const unsigned offset = linear & 0xfff;
  CodePage here, next;
  const uint64_t known = known_gpa();
  if (Made m = known == ~0ull ? find(linear, here) : find_at(known, here); m != Made::kYes) return m;
  const unsigned first = offset > kDependencyReach ? offset - kDependencyReach : 0;
  const unsigned last = offset + kDependencyReach + 64 < 4096 ? offset + kDependencyReach + 64 : 4095;
  const uint64_t chunks = chunks_between(first, last);
  const CodeMode width = (what.mode & kModeCodeMask) == kModeCode64   ? CodeMode::k64
                         : (what.mode & kModeCodeMask) == kModeCode32 ? CodeMode::k32
                                                                      : CodeMode::k16;
  if (vm.unseen_writes && doubtful())  // the block may be one of bytes that are no longer there
    if (PageSource* source = code.source(here.gpa)) {
      holds(here, *source);
      engine_of(vcpu).suspect = false;
    }
  Block* block = code.table().find(here.gpa, what.mode);
  if (block && !block->straddle && !code_current(vcpu, *block, false)) {
    holds(here, *block->source);
    block = code.table().find(here.gpa, what.mode);
  }
  if (block && !block->straddle) return what.block = block, Made::kYes;
  for (bool again = false;; again = true) {
    if (Made m = watch(here, chunks, again); m != Made::kYes) return m;
    PageCopy page(here.host);
    std::optional<PageCopy> behind;
    uint8_t cut[16] = {};
    Source source{page, offset, here.gpa, nullptr, what.mode, 0};
    if (straddles(page, offset, width)) {
      uint64_t linear_behind = (linear & kPageMask) + kPageSize;
      if (!vcpu.in_64bit()) {
        linear_behind &= 0xffffffffull;
        if (!within_code(vcpu, linear_behind)) return vcpu.raise(kGP, 0), Made::kFault;
      }
      if (Made m = find(linear_behind, next); m != Made::kYes) return m;
      if (Made m = watch(next, 1, true); m != Made::kYes) return m;
      // Both may be one page of the guest's memory, whose blocks that has dropped, or this may drop.
      if (next.host == here.host)
        if (Made m = watch(here, chunks | 1, false); m != Made::kYes) return m;
      behind.emplace(next.host);
      const unsigned in_first = 4096 - offset;
      for (unsigned i = 0; i < in_first; i++) cut[i] = page.at(offset)[i];
      for (unsigned i = in_first; i < kMaxInsnLength; i++) cut[i] = behind->at(0)[i - in_first];
      source.straddle = cut;
      source.second_page = next.gpa;
      block = code.table().find(here.gpa, what.mode);
      if (block) block = code.table().find_straddle(block, next.gpa);
      if (block && code_current(vcpu, *block, false)) return what.block = block, Made::kYes;
      if (block) continue;
    }
    uint32_t at;
    uint8_t* room = code.begin(at);
    if (!room) return Made::kFull;
    Block made{};
    made.source = here.source;
    made.second_source = behind ? next.source : nullptr;
    BlockNotes notes;
    const size_t used = write(source, room, at, made, notes);
    // What it was made from has to be what the page's other blocks were made from, as far as they have the same bytes.
    if ((made.source && !made.source->same(page.bytes(), page.taken())) || (made.second_source && !made.second_source->same(behind->bytes(), behind->taken()))) continue;
    if (made.source) take_source(*made.source, page.bytes(), page.taken());
    if (made.second_source) take_source(*made.second_source, behind->bytes(), behind->taken());
    VcpuCounters& counters = engine_of(vcpu).counters;
    if (restored) {
      counters.blocks_restored++;
      stored->note(*restored, here.gpa, !what.site);
    } else {
      if (stored) stored->note(page, source, notes, !what.site);
      counters.blocks_translated++;
      counters.insns_translated += notes.instructions;
      counters.code_bytes_translated += used;
    }
    what.block = finish(made, used, notes, at, offset, page.taken());
    if (restored && !source.straddle && !(what.mode & kModeStep)) restore_rest(here);
    return Made::kYes;
  }
}

}  // namespace

void drop_blocks(Vm& vm, const Slot& slot, uint64_t gpa, uint64_t size) {
  uint64_t left = 0;
  vm.slots->each_place(slot, gpa, [&](uint64_t place) { left |= vm.code->invalidate_page(place, size); });
  slot.code_of(gpa).store(left);
}

Made make_block(Vcpu& vcpu, MakeBlock& what, bool wait) {
  vcpu.fault.pending = false;
  what.mode |= code_edges(vcpu, what.linear);
  CodeCache& code = *vcpu.vm->code;
  if (wait) code.mutex.lock();
  else if (vcpu.vm->off & kSwitchFastBlocks || !code.mutex.try_lock_awhile()) return Made::kBusy;
  Unlock unlock(code.mutex);
  const uint64_t links = code.links_made();
  Maker maker{vcpu, what};
  const Made made = maker.run();
  if (made == Made::kYes) {
    engine_of(vcpu).suspect = false;
    code_is_current(vcpu, *what.block);
    // The jump is still the one that asked, if the cache has not been emptied since.
    if (what.site && what.generation == code.generation()) code.link(code.offset_of(what.site), *what.block, maker.to_compare(*what.block));
  }
  engine_of(vcpu).sure.has_linked(code.links_made() - links);
  return made;
}

}  // namespace vireo::softkvm
