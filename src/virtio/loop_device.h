// SPDX-License-Identifier: Apache-2.0
// A virtio device whose work is done on one event loop: bells rung on any thread become serve() there, one call for many
// rings, and stopping waits for the loop.
#pragma once

#include <atomic>
#include <vector>

#include "base/event_loop.h"
#include "virtio/device.h"
#include "virtio/queue.h"

namespace vireo::virtio {

class LoopDevice : public Device {
 public:
  static constexpr unsigned kMaxQueues = 64;

  ~LoopDevice() override;
  void activate(uint64_t accepted_features, std::span<Queue* const> queues, Interrupt& interrupt) final;
  void notify(unsigned index) final;
  void deactivate() final { stop(); }

 protected:
  explicit LoopDevice(EventLoop& loop) : loop_(loop) {}
  // For the destructor of the class that implements the functions below.
  void stop();

  // All on the loop's thread. serve() comes when queue `index` may hold new buffers, and once for each queue after started().
  virtual void started() {}
  virtual void serve(unsigned index) = 0;
  // Must end with no chain held and no callback to come that would use a queue.
  virtual void stopping() {}

  EventLoop& loop() { return loop_; }
  bool running() const { return interrupt_ != nullptr; }
  bool has(unsigned feature_bit) const { return features_ >> feature_bit & 1; }
  uint64_t accepted_features() const { return features_; }
  // Null when the driver did not set it up, or while not running.
  Queue* queue(unsigned index) { return index < queues_.size() ? queues_[index] : nullptr; }
  // Interrupts for queue `index` if the driver wants it for what was pushed: now, or when this round of the loop is done.
  void signal(unsigned index);
  void signal_later(unsigned index);
  void signal_config();  // thread-safe
  // serve(index) comes once more, after what else waits.
  void serve_again(unsigned index);

 private:
  void serve_pending();
  void signal_pending();

  EventLoop& loop_;
  std::atomic<uint64_t> rung_ = 0;
  // The rest belongs to the loop's thread.
  std::vector<Queue*> queues_;
  uint64_t features_ = 0;
  std::atomic<Interrupt*> interrupt_ = nullptr;
  std::mutex interrupt_mutex_;  // keeps interrupt_ alive for signal_config() on other threads
  uint64_t to_signal_ = 0;
};

}  // namespace vireo::virtio
