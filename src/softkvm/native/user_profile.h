// SPDX-License-Identifier: Apache-2.0
// Which guest address spaces compute for long between two traps: those are worth a stub process. A stretch of user code between two entries to the
// guest's kernel is measured by the host's TSC; averages over some milliseconds decide. FAST: general registers only.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

struct UserProfile {
  // A trap costs 5 to 20 us in a stub (two switches of processes) and under one in translated code, which in turn is two to four times slower than the
  // bare CPU, and ten times where it has to be translated first. A stretch is measured with what its trap costs. How many switches to a stub and back
  // it has to be worth, and how much at least.
  static constexpr uint64_t kEnterSwitches = 4, kStaySwitches = 2;
  static constexpr uint64_t kEnterMicroseconds = 15, kStayMicroseconds = 8;
  static constexpr uint64_t kWindowMicroseconds = 1500;   // of user time, per decision
  static constexpr uint64_t kStartMicroseconds = 2500;    // of user time before a space is looked at: most processes end sooner
  static constexpr uint64_t kLongMicroseconds = 800;      // stretches that leave no doubt
  static constexpr uint64_t kMostOverhead = 3;             // times what the program itself has computed there: about what translation would take
  // The guest's kernel takes longer behind a stub, which has used the CPU's caches and predictors: three times as long was seen, for calls of 8 us. A
  // program that is there this many times as long as it computes is no quicker in a stub, however little the stub itself costs.
  static constexpr uint64_t kMostKernel = 2;
  static constexpr uint64_t kKernelMicroseconds = 200;    // between two stretches of one space; longer, and others have run, or nobody
  static constexpr unsigned kMostHeldSteps = 200;         // instructions that are stepped through until a page is left
  static constexpr unsigned kMostHolds = 50;              // in one stretch
  static constexpr unsigned kMostPause = 64;              // windows that a space which was given up is left alone, at the most

  struct Space {
    uint64_t cr3 = ~0ull;
    uint64_t total = 0, ticks = 0, stretches = 0;
    uint64_t computed = 0;    // of `ticks`: in a stub, without the switches there and back
    uint64_t kernel = 0;      // between these stretches
    uint32_t pause = 0, next_pause = 1;  // windows to wait; what the next giving-up costs
    bool native = false;
    bool unfit = false;  // what the pause is for: it could not run natively, not that it did not pay
  };
  static constexpr unsigned kSpaces = 64;
  Space spaces[kSpaces];
  Space* current = nullptr;
  uint64_t since = 0;
  const Space* left = nullptr;  // the last one that was, and when
  uint64_t left_at = 0;
  uint64_t computed = 0;      // in this stretch
  uint64_t switch_ticks = 0;  // StubProcess::switch_ticks()
  uint32_t ticks_per_microsecond = 0;  // 0: native running is off
  bool in_user = false;
  bool native = false;  // the current space is to run natively
  bool held = false;    // ... but some instruction of the page `held_page` has to be translated first
  uint64_t held_page = 0;
  uint64_t all_ticks = 0, all_stretches = 0;  // statistics
  unsigned held_steps = 0, holds = 0;

  void enter(uint64_t cr3) {
    in_user = true;
    Space& s = spaces[(cr3 >> 12 ^ cr3 >> 18) % kSpaces];
    if (s.cr3 != cr3) s = Space{}, s.cr3 = cr3;
    current = &s;
    native = s.native;
    held = false;
    holds = 0;
    computed = 0;
    since = __builtin_ia32_rdtsc();
    if (&s == left && since - left_at < kKernelMicroseconds * ticks_per_microsecond) s.kernel += since - left_at;
  }
  void leave() {
    in_user = native = held = false;
    if (!current) return;
    Space& s = *current;
    left = &s;
    left_at = __builtin_ia32_rdtsc();
    const uint64_t ticks = left_at - since;
    s.ticks += ticks;
    s.stretches++;
    s.computed += computed;
    all_ticks += ticks;
    all_stretches++;
    if (s.ticks < kWindowMicroseconds * ticks_per_microsecond && ticks < kLongMicroseconds * ticks_per_microsecond) return;
    s.total += s.ticks;
    decide(s);
    s.ticks = s.stretches = s.computed = s.kernel = 0;
  }
  // The current space cannot be run natively now: whatever asked for more costs than it gives.
  void give_up() {
    if (!current) return;
    pause(*current);
    current->unfit = true;
    native = held = false;
  }
  // Another process has the current space's name.
  void forget() {
    if (!current) return;
    const uint64_t cr3 = current->cr3;
    *current = Space{};
    current->cr3 = cr3;
    native = held = false;
  }
  // A stub was made for so long, once for the space: neither the program's time nor its traps'. Where a timer's tick came meanwhile, the program had
  // computed nothing yet, and the space would be given up before it has begun.
  void made(uint64_t ticks) { since += ticks; }
  // Code at `rip` cannot be run natively: translation goes on until it has left the page, which step_on() watches.
  void hold_page(uint64_t rip) { hold(rip >> 12); }
  // A stub ran for so long, with pages to be mapped before or without: which takes about as long as a switch does.
  void ran(uint64_t ticks, bool mapped) {
    const uint64_t lost = mapped ? 2 * switch_ticks : switch_ticks;
    computed += ticks > lost ? ticks - lost : 0;
  }
  // One instruction cannot.
  void hold_instruction() { hold(~0ull); }
  // Asked before each instruction while `held`. True: translation goes on with one. When that has lasted too long, it goes on to the stretch's end.
  bool step_on(uint64_t rip) {
    if (held_steps == 0) return held = false;
    if (rip >> 12 == held_page || held_steps == kMostHeldSteps) {
      held_steps--;
      return true;
    }
    held = false;
    native = true;
    return false;
  }

 private:
  void hold(uint64_t page) {
    if (current) current->stretches++;  // it costs what a trap costs
    if (++holds > kMostHolds) return give_up();
    native = false;
    held = true;
    held_page = page;
    held_steps = kMostHeldSteps;
  }
  void decide(Space& s) {
    const uint64_t average = s.ticks / s.stretches;
    if (s.native) {
      // What a trap costs differs from host to host, and by what follows: pages that have to be mapped, instructions that are not run there.
      if (average < worth(kStaySwitches, kStayMicroseconds) || s.ticks > kMostOverhead * s.computed || s.kernel > kMostKernel * s.computed) pause(s);
      else if (s.next_pause > 1) s.next_pause--;
      return;
    }
    const bool long_ones = average >= kLongMicroseconds * ticks_per_microsecond;
    if (s.pause && (s.unfit || !long_ones)) {
      const uint64_t windows = s.ticks / (kWindowMicroseconds * ticks_per_microsecond);
      s.pause -= windows < 1 ? 1 : windows < s.pause ? static_cast<uint32_t>(windows) : s.pause;
      return;
    }
    s.native = long_ones || (s.total >= kStartMicroseconds * ticks_per_microsecond && average >= worth(kEnterSwitches, kEnterMicroseconds));
  }
  uint64_t worth(uint64_t switches, uint64_t microseconds) const {
    const uint64_t by_switches = switches * switch_ticks, least = microseconds * ticks_per_microsecond;
    return by_switches > least ? by_switches : least;
  }
  static void pause(Space& s) {
    s.native = s.unfit = false;
    s.pause = s.next_pause;
    s.next_pause = s.next_pause * 2 < kMostPause ? s.next_pause * 2 : kMostPause;
  }
};

}  // namespace vireo::softkvm
