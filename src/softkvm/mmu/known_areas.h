// SPDX-License-Identifier: Apache-2.0
// Where areas of 2 MiB are that one entry of the guest's page tables maps, for all address spaces (G): what a CPU holds in one entry of its TLB. The
// engine's entries are of 4 KiB; from here they are filled without a walk. One object is for one set of rights. An area grants what it says, and
// refuses nothing: what it does not grant is asked of the page tables. FAST.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

class KnownArea {
 public:
  static constexpr unsigned kShift = 21;
  static constexpr uint64_t kBytes = 1ull << kShift;

  KnownArea() = default;
  KnownArea(uint64_t linear, uint64_t gpa, bool writable) : tag_((linear & ~(kBytes - 1)) | kThere | (writable ? kWritable : 0)), gpa_(gpa & ~(kBytes - 1)) {}

  bool there() const { return tag_; }
  bool has(uint64_t linear) const { return (tag_ & ~kWritable) == ((linear & ~(kBytes - 1)) | kThere); }
  uint64_t begin() const { return tag_ & ~(kBytes - 1); }
  uint64_t gpa(uint64_t linear) const { return gpa_ | (linear & (kBytes - 1)); }  // of what lies at `linear`
  bool writable() const { return tag_ & kWritable; }

  static constexpr uint64_t kThere = 1, kWritable = 2;
  uint64_t tag_ = 0;
  uint64_t gpa_ = 0;
};

class KnownAreas {
 public:
  static constexpr unsigned kMost = 64;  // a flush may look at each

  const KnownArea* find(uint64_t linear) const {
    const Set& set = sets_[index(linear)];
    for (const KnownArea& area : set.at)
      if (area.has(linear)) return &area;
    return nullptr;
  }

  // Another one may have to go for it.
  void add(const KnownArea& area) {
    Set& set = sets_[index(area.begin())];
    unsigned way = kWays;
    for (unsigned i = kWays; i-- > 0;)
      if (!set.at[i].there()) way = i;
    for (unsigned i = 0; i < kWays; i++)
      if (set.at[i].has(area.begin())) way = i;
    if (way == kWays) way = next_++ % kWays;
    KnownArea& place = set.at[way];
    // What the TLB has of the old one is in no books any more.
    if (place.there() && !(place.has(area.begin()) && place.gpa(0) == area.gpa(0) && place.writable() <= area.writable())) lost_ = true;
    place = area;
    const auto at = static_cast<uint8_t>(index(area.begin()) * kWays + way);
    if (listed_[at]) return;
    listed_[at] = true;
    if (count_ < kMost) {
      list_[count_++] = at;
      return;
    }
    uint8_t& old = list_[next_++ % kMost];
    lost_ |= this->at(old).there();
    this->at(old) = {};
    listed_[old] = false;
    old = at;
  }

  // One was here that is not any more, by which the TLB may still have something.
  bool lost() const { return lost_; }
  // Forgets those for which keep(area) is false. Were all kept?
  template <class F>
  bool keep_if(F keep) {
    unsigned kept = 0;
    bool all = true;
    for (unsigned i = 0; i < count_; i++) {
      KnownArea& area = at(list_[i]);
      const bool there = area.there();
      if (there && keep(area)) {
        list_[kept++] = list_[i];
        continue;
      }
      if (there) all = false;
      area = {};
      listed_[list_[i]] = false;
    }
    count_ = kept;
    return all;
  }
  // INVLPG: what the TLB has of it goes, too.
  void drop(uint64_t linear) {
    for (KnownArea& area : sets_[index(linear)].at)
      if (area.has(linear)) area = {};
  }
  void clear() {
    keep_if([](const KnownArea&) { return false; });
    lost_ = false;
  }

 private:
  static constexpr unsigned kSets = 64, kWays = 4;
  struct alignas(64) Set {
    KnownArea at[kWays];
  };

  // The kernel's image, its modules and its map of all memory lie far apart, each in a row.
  static unsigned index(uint64_t linear) { return (linear >> KnownArea::kShift ^ linear >> 27 ^ linear >> 39) & (kSets - 1); }
  KnownArea& at(unsigned place) { return sets_[place / kWays].at[place % kWays]; }

  Set sets_[kSets];
  bool listed_[kSets * kWays] = {};
  uint8_t list_[kMost] = {};
  unsigned count_ = 0, next_ = 0;
  bool lost_ = false;
};

}  // namespace vireo::softkvm
