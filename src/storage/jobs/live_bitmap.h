// SPDX-License-Identifier: Apache-2.0
// A dirty bitmap that lives as long as the machine.
#pragma once

#include <mutex>
#include <string>

#include "storage/jobs/write_watcher.h"
#include "storage/qcow2/bitmap.h"

namespace vireo::storage {

class LiveBitmap final : public WriteWatcher {
 public:
  static constexpr uint64_t kPieceBytes = 65536;
  LiveBitmap(std::string name, uint64_t disk_size, unsigned granularity_bits, bool enabled)
      : name_(std::move(name)), enabled_(enabled), bits_(disk_size, granularity_bits, kPieceBytes) {}
  const std::string& name() const { return name_; }
  bool enabled() const { return enabled_; }
  void after(const Change& change, bool) override {
    std::lock_guard lock(mutex_);
    if (enabled_) bits_.set(change.offset, change.length);
  }
  // Only while no guest request is under way.
  void enable(bool on) { enabled_ = on; }
  qcow2::BitmapBits& bits() { return bits_; }
  uint64_t dirty_bytes() {
    std::lock_guard lock(mutex_);
    return bits_.dirty_bytes();
  }

 private:
  const std::string name_;
  std::mutex mutex_;
  bool enabled_;
  qcow2::BitmapBits bits_;
};

}  // namespace vireo::storage
