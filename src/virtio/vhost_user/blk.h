// SPDX-License-Identifier: Apache-2.0
// A virtio block device whose requests another process serves, over vhost-user: it maps the guest's memory and works on the rings itself; here are
// its configuration, the bells, and the way back when it is gone: requests that it has not finished are given to the next one.
// Spec: virtio 1.3, 5.2; the vhost-user protocol, "VIRTIO device config space", "Reconnection".
#pragma once

#include <linux/virtio_blk.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/owned_fd.h"
#include "virtio/device.h"
#include "virtio/queue.h"
#include "virtio/vhost_user/front_end.h"

namespace vireo::virtio::vhost_user {

struct BlkConfig {
  std::string path;          // of the back-end's socket
  unsigned queues = 1;       // at most; the back-end may have fewer
  uint16_t queue_size = 128;  // a power of two; what every back-end takes
};

class Blk final : public Device {
 public:
  struct Pins {
    EventLoop& loop;
    GuestMemory& memory;
  };
  static Result<std::unique_ptr<Blk>> create(const BlkConfig& config, Pins pins);
  ~Blk() override;

  uint16_t type() const override;
  uint64_t features() const override;
  uint64_t ring_features() const override;
  std::vector<uint16_t> queue_sizes() const override;
  void read_config(uint64_t offset, std::span<std::byte> data) override;
  void write_config(uint64_t offset, std::span<const std::byte> data) override;
  void features_accepted(uint64_t features) override;
  void activate(uint64_t accepted_features, std::span<Queue* const> queues, Interrupt& interrupt) override;
  void notify(unsigned index) override;
  void deactivate() override;
  void fields(Archive& archive) override;

 private:
  struct Bell {
    OwnedFd kick, call;
  };
  Blk(const BlkConfig& config, Pins pins) : config_(config), pins_(pins) {}
  Result<> connect();
  Result<> start();
  Result<> tell_cache_mode();
  Result<> take_back(unsigned index);
  void lost(const std::string& why);
  void try_again();
  void called(unsigned index);
  uint16_t used_index(const Queue& queue) const;

  BlkConfig config_;
  Pins pins_;
  uint64_t features_ = 0;     // the back-end's that the guest is offered
  std::vector<Bell> bells_;
  std::mutex space_mutex_;
  virtio_blk_config space_{};
  // The rest belongs to the loop's thread.
  std::unique_ptr<FrontEnd> back_end_;  // null: it is gone
  std::unique_ptr<Timer> retry_;
  uint8_t its_cache_mode_ = 0;  // the back-end's "writeback", as it said or was told
  bool told_unfit_ = false;
  std::vector<Queue*> queues_;
  uint64_t accepted_ = 0;
  Interrupt* interrupt_ = nullptr;
};

}  // namespace vireo::virtio::vhost_user
