// SPDX-License-Identifier: Apache-2.0
// A running machine's disk: what the guest's device talks to, while images change under it. It counts, keeps to limits, and can hold the
// guest's requests for a moment in which something is changed. A plain raw file is served by its own engine until the first time that
// something wants to change.
#pragma once

#include <atomic>
#include <deque>
#include <mutex>

#include "storage/image/open.h"
#include "storage/image_device.h"
#include "storage/jobs/live_image.h"
#include "storage/jobs/throttle.h"

namespace vireo::storage {

struct DiskStatistics {
  uint64_t read_bytes = 0, write_bytes = 0, reads = 0, writes = 0, flushes = 0, discards = 0, discard_bytes = 0, write_highest = 0;
};

class LiveDisk final : public BlockDevice {
 public:
  struct Config {
    std::string id;      // "disk0"
    std::string path;    // as the user wrote it
    std::string cache = "writeback";
    OpenOptions open;    // how images of it are opened: direct, no_flush, key
    ThrottleConfig throttle;
  };
  // Over an image; and over a raw file.
  static Result<std::unique_ptr<LiveDisk>> create(Config config, std::shared_ptr<Image> image, EventLoop& loop);
  static Result<std::unique_ptr<LiveDisk>> create(Config config, std::unique_ptr<Raw> raw, EventLoop& loop);
  ~LiveDisk() override;

  uint64_t size() const override { return below().size(); }
  bool read_only() const override { return read_only_; }
  Limits limits() const override { return limits_; }
  void read(uint64_t offset, std::span<const iovec> to, Done done) override;
  void write(uint64_t offset, std::span<const iovec> from, Done done) override;
  void flush(Done done) override;
  void discard(uint64_t offset, uint64_t length, Done done) override;
  void write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) override;
  void submit() override { below().submit(); }
  void drain() override;

  // The rest is for other threads than the loop's, one at a time.
  const Config& config() const { return config_; }
  EventLoop& loop() { return loop_; }
  // Null for a raw file that nothing has wanted of yet.
  LiveImage* live() { return live_.get(); }
  // The same, made if need be.
  Result<LiveImage*> go_live();
  // Runs `what` on the loop's thread while no request of any of these disks is under way; the guest waits.
  static void change(std::span<LiveDisk* const> disks, const std::function<void()>& what);
  void change(const std::function<void()>& what) {
    LiveDisk* const self = this;
    change({&self, 1}, what);
  }
  // Inside of change(): tells the guest.
  void resized() {
    if (on_resize_) on_resize_();
  }
  void set_on_resize(std::function<void()> call) { on_resize_ = std::move(call); }
  void set_throttle(const ThrottleConfig& config);
  ThrottleConfig throttle();
  DiskStatistics statistics();

 private:
  struct Waiting {
    bool write;
    uint64_t bytes;
    std::function<void()> go;
  };
  LiveDisk(Config config, EventLoop& loop) : config_(std::move(config)), loop_(loop) {}
  BlockDevice& below() const { return image_device_ ? static_cast<BlockDevice&>(*image_device_) : *raw_; }
  void start();
  void drop_raw();
  // True: it may go at once; else `go` is called when it may.
  template <class Go>
  bool admit(bool write, uint64_t bytes, Go&& go);
  void release();

  Config config_;
  EventLoop& loop_;
  bool read_only_ = false;
  Limits limits_;
  std::unique_ptr<Raw> raw_;  // below, or kept for its lock on the file
  std::shared_ptr<LiveImage> live_;
  std::unique_ptr<ImageDevice> image_device_;
  DiskStatistics statistics_;
  Throttle throttle_;
  std::deque<Waiting> waiting_[2];  // reads, writes
  std::unique_ptr<Timer> timer_;
  std::function<void()> on_resize_;
};

}  // namespace vireo::storage
