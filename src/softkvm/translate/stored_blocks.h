// SPDX-License-Identifier: Apache-2.0
// Blocks that other VMs have left in a file (docs/code-cache.md): instead of being made, a block is copied from there where all of the guest's bytes that
// it is a function of are the same, but for fields that it is patched for. Those of a page lie together and come together (make_block.cpp). And the notes from which this VM's blocks get into the file.
// One for a VM, made in the slow half; the file is read by a thread of its own and its blocks are found as far as that has come.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "softkvm/translate/stored_block.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {

// A block of this VM: what it was made from, followed by the ranges and their bytes. From that it is made again when it is put into the file.
struct MadeBlock {
  uint32_t size;
  uint32_t stored;  // it came from this record (number()); or 0
  uint32_t mode;
  uint32_t page;    // the guest physical page's number, its lower bits: what has the same was found in one page
  uint16_t offset, straddle, range_count, source_size;
  uint16_t looked_up;  // as StoredBlock's
  uint16_t pad;

  const LookedAt* ranges() const { return reinterpret_cast<const LookedAt*>(this + 1); }
  const uint8_t* source() const { return reinterpret_cast<const uint8_t*>(ranges() + range_count); }
};

class StoredBlocks {
 public:
  StoredBlocks() = default;
  ~StoredBlocks();
  StoredBlocks(const StoredBlocks&) = delete;
  StoredBlocks& operator=(const StoredBlocks&) = delete;

  // --- FAST, with the code cache's lock held.

  // The block of these bytes, or null.
  const StoredBlock* find(PageCopy& page, const Source& source);
  // Are the bytes that it was made from these, but for fields?
  static bool same(const StoredBlock& stored, PageCopy& page, const Source& source);
  // As translate(), of what find() gave or same() passed.
  size_t restore(const StoredBlock& stored, PageCopy& page, const Source& source, uint8_t* out, uint32_t at, Block& block, BlockNotes& notes);
  // The record behind, where that is of the same page; else null.
  const StoredBlock* behind(const StoredBlock& stored) const;
  // A name for a record, never 0.
  uint32_t number(const StoredBlock& stored) const { return static_cast<uint32_t>((stored.bytes() - body_) / 8 + 1); }
  // A lookup has found a block of this record. Without the lock.
  void note_lookup(uint32_t number) { looked_up_[(number - 1) / 8].fetch_or(static_cast<uint8_t>(1u << (number - 1) % 8), std::memory_order_relaxed); }
  // A block was made. `looked_up`: by a lookup.
  void note(PageCopy& page, const Source& source, const BlockNotes& notes, bool looked_up);
  // ... or restored.
  void note(const StoredBlock& stored, uint64_t gpa, bool looked_up);

  // --- the slow half

  // Memory for `size` bytes of records, to be filled, and for finding `count` of them. False: there is none.
  bool make_room(size_t size, size_t count);
  uint8_t* body() { return body_; }
  // Takes the records in that lie wholly in front of `end`. False: one is broken, or there are too many; nothing from there on is taken.
  bool take(size_t end);
  bool full(size_t size) const { return taken() + size > body_size_; }
  // A record of the same block that is taken, or null.
  StoredBlock* twin(const StoredBlock& stored) const;
  size_t taken() const { return ready_.load(std::memory_order_acquire); }
  size_t count() const { return count_.load(std::memory_order_relaxed); }

  // Room for notes. Without it nothing is noted.
  bool make_notes(size_t size);
  size_t made_new() const { return made_new_; }  // with the code cache's lock held, as the next one
  size_t made_end() const { return made_used_; }
  // Calls f for each block that was noted in front of `end`, in the order in which they came.
  template <class F>
  void each_made(size_t end, F f) const {
    for (size_t at = 0; at < end;) {
      const auto& made = *reinterpret_cast<const MadeBlock*>(made_ + at);
      f(made);
      at += made.size;
    }
  }
  bool was_looked_up(uint32_t number) const { return looked_up_[(number - 1) / 8].load(std::memory_order_relaxed) >> (number - 1) % 8 & 1; }
  // The record that MadeBlock::stored names.
  const StoredBlock& at(uint32_t number) const { return *reinterpret_cast<const StoredBlock*>(body_ + (number - 1) * 8ull); }
  // Calls f for each record that has been taken.
  template <class F>
  void each(F f) const {
    for (size_t at = 0, end = taken(); at < end;) {
      const auto& stored = *reinterpret_cast<const StoredBlock*>(body_ + at);
      f(stored);
      at += stored.size;
    }
  }

 private:
  bool used(size_t offset) const { return used_[offset / 64] >> offset / 8 % 8 & 1; }
  bool enough_notes(size_t size) const { return made_ && made_used_ + size <= made_room_; }

  uint8_t* body_ = nullptr;
  size_t body_size_ = 0, next_ = 0;
  std::atomic<size_t> ready_{0};  // bytes of `body_` that are taken
  std::atomic<size_t> count_{0};
  size_t most_ = 0;
  std::atomic<uint64_t>* index_ = nullptr;  // by key, with linear probing: its upper half, and the record's offset / 8 + 1; 0: free
  size_t index_size_ = 0;                   // a power of two
  uint8_t* used_ = nullptr;                 // bit (offset / 8): was restored, and is noted
  std::atomic<uint8_t>* looked_up_ = nullptr;  // bit (number - 1)
  uint8_t* made_ = nullptr;
  size_t made_used_ = 0, made_room_ = 0, made_new_ = 0;
};

}  // namespace vireo::softkvm
