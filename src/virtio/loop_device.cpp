// SPDX-License-Identifier: Apache-2.0
#include "virtio/loop_device.h"

#include <bit>

namespace vireo::virtio {

LoopDevice::~LoopDevice() {
  loop_.call([] {});  // posted calls that name this object are done after this
}

void LoopDevice::activate(uint64_t accepted_features, std::span<Queue* const> queues, Interrupt& interrupt) {
  loop_.call([&] {
    queues_.assign(queues.begin(), queues.end());
    features_ = accepted_features;
    to_signal_ = 0;
    {
      std::lock_guard lock(interrupt_mutex_);
      interrupt_ = &interrupt;
    }
    started();
  });
  for (unsigned i = 0; i < queues.size(); ++i)
    if (queues[i]) notify(i);
}

void LoopDevice::notify(unsigned index) {
  if (index >= kMaxQueues) return;
  // Direct when the bell is watched by the loop itself; else one post carries all rings until it runs.
  if (rung_.fetch_or(1ull << index) != 0) return;
  if (loop_.on_loop_thread())
    serve_pending();
  else
    loop_.post([this] { serve_pending(); });
}

void LoopDevice::serve_pending() {
  uint64_t rung = rung_.exchange(0);
  while (rung) {
    unsigned index = static_cast<unsigned>(std::countr_zero(rung));
    rung &= rung - 1;
    if (running() && queue(index)) serve(index);
  }
}

void LoopDevice::serve_again(unsigned index) {
  if (rung_.fetch_or(1ull << index) == 0) loop_.post([this] { serve_pending(); });
}

void LoopDevice::stop() {
  loop_.call([&] {
    if (!running()) return;
    stopping();
    signal_pending();
    std::lock_guard lock(interrupt_mutex_);
    interrupt_ = nullptr;
    queues_.clear();
  });
  loop_.call([] {});  // what stopping() posted names parts that the caller may be about to destroy
}

void LoopDevice::signal(unsigned index) {
  if (Queue* q = queue(index); q && q->needs_interrupt()) interrupt_.load()->queue(index);
}

void LoopDevice::signal_later(unsigned index) {
  if (to_signal_ == 0) loop_.post([this] { signal_pending(); });
  to_signal_ |= 1ull << index;
}

void LoopDevice::signal_pending() {
  uint64_t pending = std::exchange(to_signal_, 0);
  while (pending) {
    unsigned index = static_cast<unsigned>(std::countr_zero(pending));
    pending &= pending - 1;
    if (running()) signal(index);
  }
}

void LoopDevice::signal_config() {
  std::lock_guard lock(interrupt_mutex_);
  if (Interrupt* interrupt = interrupt_) interrupt->config();
}

}  // namespace vireo::virtio
