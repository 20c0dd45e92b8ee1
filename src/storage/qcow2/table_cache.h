// SPDX-License-Identifier: Apache-2.0
// Metadata tables of one cluster each (L2 tables or refcount blocks) as they lie in the file, kept in memory. Changes stay
// here until a commit takes copies of them; nothing is written behind the owner's back. The owner's lock guards all.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "storage/file/file.h"

namespace vireo::storage::qcow2 {

struct Table {
  uint64_t offset = 0;
  std::unique_ptr<std::byte[]> bytes;
  uint64_t dirty_from = 0, dirty_to = 0;  // empty: clean
  bool writing = false;                   // a commit has copies that may not be in the file yet
  uint64_t used = 0;
};

// What a commit writes.
struct TableWrite {
  uint64_t offset;
  std::vector<std::byte> bytes;
  uint64_t table;  // the table's own offset
};

class TableCache {
 public:
  TableCache(File& file, uint64_t table_size, uint64_t limit_bytes) : file_(file), size_(table_size), limit_(limit_bytes) {}

  Table* find(uint64_t offset);            // null: not in memory
  Result<Table*> load(uint64_t offset);    // valid until trim() or drop()
  Table* fresh(uint64_t offset);           // all zeroes and dirty
  void dirty(Table& table, uint64_t from, uint64_t length);
  void drop(uint64_t offset);              // its cluster is no table any more
  std::vector<TableWrite> take();          // copies of what is dirty, in file order
  // Copies of all that the file may not have yet: what is dirty, and what was taken and is still being written. Nothing changes by it.
  std::vector<TableWrite> unwritten() const;
  void written(const std::vector<TableWrite>& writes, bool ok);
  void trim();                             // forgets clean tables until within the limit
  void forget_all();                       // the file was changed by somebody else
  uint64_t dirty_bytes() const { return dirty_count_ * size_; }
  uint64_t limit() const { return limit_; }

 private:
  File& file_;
  uint64_t size_, limit_;
  uint64_t clock_ = 0, dirty_count_ = 0;
  std::unordered_map<uint64_t, Table> tables_;  // nodes stay where they are
};

}  // namespace vireo::storage::qcow2
