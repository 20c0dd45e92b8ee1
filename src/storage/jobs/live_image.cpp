// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/live_image.h"

#include <ranges>

namespace vireo::storage {

Result<> LiveImage::watched(const Change& change) {
  for (WriteWatcher* watcher : watchers_) watcher->before(change.offset, change.length);
  Result<> done;
  switch (change.kind) {
    case Change::Kind::kData: done = top_->write(change.offset, change.data); break;
    case Change::Kind::kZeroes: done = top_->write_zeroes(change.offset, change.length, change.may_unmap); break;
    case Change::Kind::kDiscard: done = top_->discard(change.offset, change.length); break;
  }
  for (WriteWatcher* watcher : watchers_ | std::views::reverse) watcher->after(change, done.has_value());
  return done;
}

Result<> LiveImage::write(uint64_t offset, std::span<const iovec> from) {
  if (watchers_.empty()) return top_->write(offset, from);
  return watched({.kind = Change::Kind::kData, .offset = offset, .length = total(from), .data = from});
}

Result<> LiveImage::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  if (watchers_.empty()) return top_->write_zeroes(offset, length, may_unmap);
  return watched({.kind = Change::Kind::kZeroes, .offset = offset, .length = length, .data = {}, .may_unmap = may_unmap});
}

Result<> LiveImage::discard(uint64_t offset, uint64_t length) {
  if (watchers_.empty()) return top_->discard(offset, length);
  return watched({.kind = Change::Kind::kDiscard, .offset = offset, .length = length, .data = {}});
}

bool LiveImage::locate(uint64_t offset, uint64_t length, bool for_write, std::vector<Segment>& out, Hold& hold) {
  if (for_write && !watchers_.empty()) return false;
  const size_t before = out.size();
  if (!top_->locate(offset, length, for_write, out, hold)) return false;
  if (!backing_changes_) return true;
  File* own = &top_->data_file();
  if (std::ranges::all_of(out.begin() + static_cast<ptrdiff_t>(before), out.end(), [&](const Segment& s) { return !s.file || s.file == own; })) return true;
  out.resize(before);
  hold = {};
  return false;
}

}  // namespace vireo::storage
