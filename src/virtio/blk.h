// SPDX-License-Identifier: Apache-2.0
// The virtio block device. Spec: virtio 1.3, 5.2. Data moves between the image and guest memory without a copy.
#pragma once

#include <linux/virtio_blk.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "storage/block_device.h"
#include "virtio/loop_device.h"

namespace vireo::virtio {

struct BlkConfig {
  std::string serial;          // at most 20 bytes
  uint16_t queues = 1;
  uint16_t queue_size = 256;   // a power of two
  bool write_cache = true;     // what the guest finds; it can switch (CONFIG_WCE)
  std::string name;            // in messages
};

class Blk final : public LoopDevice {
 public:
  struct Pins {
    EventLoop& loop;  // the one the image was made with
  };
  static Result<std::unique_ptr<Blk>> create(const BlkConfig& config, Pins pins, std::unique_ptr<storage::BlockDevice> disk);
  ~Blk() override;

  uint16_t type() const override;
  uint64_t features() const override;
  std::vector<uint16_t> queue_sizes() const override;
  void read_config(uint64_t offset, std::span<std::byte> data) override;
  void write_config(uint64_t offset, std::span<const std::byte> data) override;
  void features_accepted(uint64_t features) override;
  void reset() override;
  void fields(Archive& archive) override;
  // The image has another size: the driver is told (5.2.5). On the loop's thread.
  void disk_resized();

 private:
  struct Request {
    std::optional<Chain> chain;
    unsigned queue = 0;
    uint32_t type = 0;
    std::byte* status = nullptr;
    uint64_t data_size = 0;  // the device-writable bytes before the status
    uint64_t written = 0;    // of them, from the start
    unsigned parts_left = 0;
    int error = 0;
  };

  Blk(const BlkConfig& config, Pins pins, std::unique_ptr<storage::BlockDevice> disk);
  void serve(unsigned index) override;
  void stopping() override;

  bool handle(unsigned queue, Chain chain);
  void read(Request* request, uint64_t sector);
  void write(Request* request, uint64_t sector);
  void get_id(Request* request);
  void ranges(Request* request);
  bool in_bounds(uint64_t sector, uint64_t bytes) const;
  void part_done(Request* request, int error);
  void stable(Request* request, int error);
  void complete(Request* request, uint8_t status);

  BlkConfig config_;
  std::unique_ptr<storage::BlockDevice> disk_;
  mutable std::mutex space_mutex_;
  virtio_blk_config space_{};
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<Request*> free_;
  bool submit_posted_ = false;
  RateLimit complaints_;
};

}  // namespace vireo::virtio
