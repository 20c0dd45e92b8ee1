// SPDX-License-Identifier: Apache-2.0
// What the layers between an image and its base have goes into the image, which then lies on the base alone (or on none).
#pragma once

#include "storage/jobs/copy.h"
#include "storage/jobs/job.h"
#include "storage/jobs/live_disk.h"
#include "storage/jobs/range_lock.h"

namespace vireo::storage {

class StreamJob final : public Job, private WriteWatcher {
 public:
  struct Setup {
    LiveDisk* disk = nullptr;
    std::shared_ptr<Image> top;   // writable; the topmost or another
    std::shared_ptr<Image> base;  // null: none remains
    std::string base_name, base_format;  // as the header shall have them
    bool reopened = false;        // it is to be read-only again afterwards
    std::mutex* graph = nullptr;
    std::function<void(Image&)> given_back;  // read-only again, it is another image
  };
  StreamJob(Config config, Setup setup);
  void attach();  // inside of LiveDisk::change(), before start()

 private:
  Result<> run() override;
  Result<> finish() override;
  void clean() override;
  void before(uint64_t offset, uint64_t length) override { ranges_.lock(offset, offset + length); }
  void after(const Change& change, bool) override { ranges_.unlock(change.offset, change.offset + change.length); }
  std::expected<void, CopyError> fill(uint64_t offset, uint64_t& length, bool& copied);

  Setup setup_;
  RangeLock ranges_;
  std::vector<std::byte> buffer_;
  bool attached_ = false;
};

}  // namespace vireo::storage
