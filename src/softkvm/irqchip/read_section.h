// SPDX-License-Identifier: Apache-2.0
// Tables that are read on the hot path and replaced now and then: readers never wait; who replaces a table waits until the
// last reader of the old one has left. A reader counts itself in one of two counters and only then loads the pointer, so
// a writer that has seen both counters at zero after publishing knows that nobody holds the old table. The phase moves
// new readers to the other counter, so that the wait ends under steady load.
#pragma once

#include <atomic>

#include "softkvm/irqchip/raw_syscall.h"

namespace vireo::softkvm {

template <class T>
class Published {
 public:
  class Reader {
   public:
    explicit Reader(Published& owner) : counter_(owner.counters_[owner.phase_.load() & 1].readers) {
      counter_.fetch_add(1);
      value_ = owner.value_.load();
    }
    ~Reader() { counter_.fetch_sub(1); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    const T* operator->() const { return value_; }
    const T* get() const { return value_; }
    explicit operator bool() const { return value_ != nullptr; }

   private:
    std::atomic<unsigned>& counter_;
    const T* value_;
  };

  // Swaps the table and returns the old one once no reader can hold it. One writer at a time, not from inside a reader.
  const T* replace(const T* value) {
    const T* old = value_.exchange(value);
    wait();
    return old;
  }
  // For the writer, and for asking whether there is a table at all.
  const T* current() const { return value_.load(); }

 private:
  struct alignas(64) Counter {
    std::atomic<unsigned> readers{0};
  };

  void drain(std::atomic<unsigned>& counter) {
    for (unsigned spins = 1; counter.load() != 0; ++spins) {
      __builtin_ia32_pause();
      if (spins % 128 == 0) raw_syscall(SYS_sched_yield);
    }
  }
  void wait() {
    const unsigned phase = phase_.load();
    drain(counters_[(phase + 1) & 1].readers);
    phase_.store(phase + 1);
    drain(counters_[phase & 1].readers);
  }

  std::atomic<const T*> value_{nullptr};
  std::atomic<unsigned> phase_{0};
  Counter counters_[2];
};

}  // namespace vireo::softkvm
