// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace vireo::preload {

// Memory that is or was a slot. After a guest has run it is not moved: what the guest writes meanwhile would be lost.
class Slots {
 public:
  void note(uintptr_t begin, uintptr_t end);
  // [begin, end) is no slot's memory any more.
  void forget(uintptr_t begin, uintptr_t end);
  void forget_all() { slots_.clear(); }
  // A guest has run with those that there are.
  void note_run();
  bool has_run(uintptr_t begin, uintptr_t end) const;
  // Makes [low, high) wider, around all.
  void widen(uintptr_t& low, uintptr_t& high) const;

 private:
  struct Slot {
    uintptr_t begin, end;
    bool ran;
  };
  std::vector<Slot> slots_;
};

}  // namespace vireo::preload
