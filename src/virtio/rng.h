// SPDX-License-Identifier: Apache-2.0
// The entropy device: the host kernel's random bytes. Spec: virtio 1.3, 5.4.
#pragma once

#include <memory>

#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/loop_device.h"

namespace vireo::virtio {

struct RngConfig {
  uint64_t max_bytes = 0;  // in each period; 0: as many as the guest likes
  uint32_t period_ms = 1000;
};

class Rng final : public LoopDevice {
 public:
  struct Pins {
    EventLoop& loop;
    Clock& clock;    // the loop's own, but in tests
    Timers& timers;
  };
  static Result<std::unique_ptr<Rng>> create(const RngConfig& config, Pins pins);
  ~Rng() override;

  uint16_t type() const override;
  uint64_t features() const override { return 0; }
  std::vector<uint16_t> queue_sizes() const override { return {64}; }
  void read_config(uint64_t, std::span<std::byte>) override {}
  void fields(Archive&) override {}  // an allowance starts anew

 private:
  Rng(const RngConfig& config, Pins pins);
  void serve(unsigned index) override;
  void stopping() override;
  uint64_t allowance();

  RngConfig config_;
  Clock& clock_;
  uint64_t period_end_ = 0;
  uint64_t left_ = 0;
  std::unique_ptr<Timer> refill_;
};

}  // namespace vireo::virtio
