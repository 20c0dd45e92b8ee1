// SPDX-License-Identifier: Apache-2.0
#include "machine/low_memory.h"

#include <algorithm>

#include "base/log.h"

namespace vireo {

Result<> LowMemory::map() {
  std::lock_guard lock(mutex_);
  return apply(true);
}

void LowMemory::set(Gate gate, bool open) {
  std::lock_guard lock(mutex_);
  open_[static_cast<size_t>(gate)] = open;
  const bool line20 = open_[0] || open_[1];
  if (line20 == line20_) return;
  if (auto done = apply(line20); !done) log(LogLevel::kError, "address line 20: %s", done.error().message.c_str());
}

Result<> LowMemory::hide_end(uint64_t size) {
  std::lock_guard lock(mutex_);
  hidden_ = std::min(size, config_.ram.size);
  return apply(line20_);
}

LowMemory::Pieces LowMemory::wanted(bool line20) const {
  const uint64_t end = config_.ram.size - hidden_;
  Pieces pieces;
  // RAM of [from, to), seen `shift` higher.
  auto add = [&](uint64_t from, uint64_t to, uint64_t shift) {
    for (uint64_t before_end : config_.cuts)
      if (const uint64_t cut = config_.ram.size - before_end; before_end < config_.ram.size && from < cut && cut < to) {
        pieces[from + shift] = {cut - from, config_.ram.host + from, 0};
        from = cut;
      }
    if (from < to) pieces[from + shift] = {to - from, config_.ram.host + from, 0};
  };
  auto add_around_hole = [&](uint64_t from, uint64_t to, uint64_t shift) {
    to = std::min(to, end);
    if (config_.hole == config_.hole_end) return add(from, to, shift);
    add(from, std::min(to, config_.hole), shift);
    add(std::max(from, config_.hole_end), to, shift);
  };
  if (line20) {
    add_around_hole(0, end, 0);
    return pieces;
  }
  for (uint64_t at = 0; at < kWrapEnd; at += 2 * kLine20) {
    add_around_hole(at, at + kLine20, 0);
    add_around_hole(at, at + kLine20, kLine20);
  }
  add_around_hole(kWrapEnd, end, 0);
  return pieces;
}

Result<> LowMemory::apply(bool line20) {
  Pieces next = wanted(line20);
  for (auto it = pieces_.begin(); it != pieces_.end();) {
    auto same = next.find(it->first);
    if (same != next.end() && same->second == it->second) {
      ++it;
      continue;
    }
    TRY_VOID(config_.set_slot(it->second.slot, it->first, 0, nullptr));
    free_slots_.push_back(it->second.slot);
    it = pieces_.erase(it);
  }
  line20_ = line20;
  for (auto& [start, piece] : next) {
    if (pieces_.contains(start)) continue;
    if (free_slots_.empty()) free_slots_.push_back(config_.new_slot());
    piece.slot = free_slots_.back();
    free_slots_.pop_back();
    TRY_VOID(config_.set_slot(piece.slot, start, piece.size, piece.host));
    pieces_[start] = piece;
  }
  return {};
}

}  // namespace vireo
