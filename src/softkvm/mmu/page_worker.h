// SPDX-License-Identifier: Apache-2.0
// A thread that gets pages from the host before a vCPU needs them: a new page costs whoever touches it first microseconds, a large one up to
// milliseconds where the host has to find it. ask() is thread-safe; start() and stop() are for one thread.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

namespace vireo::softkvm {

class PageWorker {
 public:
  enum class Work : uint8_t {
    kLarge = 1,     // make_large(), also where there is no page at all yet; else small pages
    kRead = 2,      // map the large page's worth of memory for reading and running
    kWritable = 3,  // map it for writing
  };

  PageWorker() = default;
  ~PageWorker() { stop(); }
  PageWorker(const PageWorker&) = delete;
  PageWorker& operator=(const PageWorker&) = delete;

  // Not FAST. False: no thread can be had.
  bool start();
  void stop();
  bool running() const { return running_; }

  // `area`: a multiple of the large page's size. What it asks for is done in order. False: too much is waiting. FAST.
  bool ask(const void* area, Work work);

 private:
  static constexpr unsigned kMost = 64;
  void run();

  std::atomic<uint64_t> jobs_[kMost] = {};  // address and work; 0: none
  std::atomic<uint32_t> asked_{0}, taken_{0};
  std::atomic<uint32_t> sleeping_{0}, stop_{0};
  bool running_ = false;
  pthread_t thread_{};
};

}  // namespace vireo::softkvm
