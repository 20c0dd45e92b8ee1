// SPDX-License-Identifier: Apache-2.0
#include "preload/slots.h"

#include <algorithm>

namespace vireo::preload {

void Slots::forget(uintptr_t begin, uintptr_t end) {
  for (size_t i = slots_.size(); i-- > 0;) {
    const Slot old = slots_[i];
    if (old.end <= begin || old.begin >= end) continue;
    slots_[i] = slots_.back();
    slots_.pop_back();
    if (old.begin < begin) slots_.push_back({old.begin, begin, old.ran});
    if (end < old.end) slots_.push_back({end, old.end, old.ran});
  }
}

bool Slots::has_run(uintptr_t begin, uintptr_t end) const {
  return std::any_of(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.ran && s.begin < end && s.end > begin; });
}

void Slots::note(uintptr_t begin, uintptr_t end) {
  constexpr size_t kMany = 1024;
  if (std::any_of(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.begin <= begin && s.end >= end; })) return;
  if (slots_.size() < kMany) slots_.push_back({begin, end, false});
}

void Slots::note_run() {
  for (Slot& s : slots_) s.ran = true;
}

void Slots::widen(uintptr_t& low, uintptr_t& high) const {
  for (const Slot& s : slots_) low = std::min(low, s.begin), high = std::max(high, s.end);
}

}  // namespace vireo::preload
