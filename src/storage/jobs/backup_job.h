// SPDX-License-Identifier: Apache-2.0
// A copy of a disk as it was at one moment: before the guest changes something that is not copied yet, that is copied first.
#pragma once

#include <atomic>

#include "storage/jobs/copy.h"
#include "storage/jobs/dirty_map.h"
#include "storage/jobs/job.h"
#include "storage/jobs/live_disk.h"
#include "storage/jobs/range_lock.h"
#include "storage/qcow2/bitmap.h"

namespace vireo::storage {

class BackupJob final : public Job, private WriteWatcher {
 public:
  enum class Sync { kFull, kTop, kNone, kBitmap };
  struct Setup {
    LiveDisk* disk = nullptr;
    std::shared_ptr<Image> target;
    bool close_target = true;  // it was opened for this job; else it is somebody's, who goes on with it
    Sync sync = Sync::kFull;
    std::optional<qcow2::BitmapBits> bits;  // kBitmap: what to copy
    bool zero_target = false;
    bool compress = false;
    uint64_t granularity = 65536;
    std::mutex* graph = nullptr;
    std::function<void(bool done)> left;  // the bitmap follows the outcome; inside of LiveDisk::change()
  };
  BackupJob(Config config, Setup setup);
  void attach();  // inside of LiveDisk::change(): the moment of the copy
  void abandon();  // the same, when it is not to be started after all
  void set_bits(qcow2::BitmapBits bits) { setup_.bits = std::move(bits); }

 private:
  Result<> run() override;
  Result<> finish() override;
  void undo() override;
  void clean() override;
  void before(uint64_t offset, uint64_t length) override;
  void after(const Change&, bool) override {}
  Result<> choose();
  std::expected<void, CopyError> copy_part(uint64_t offset);
  void detach(bool done);
  Result<> leave_target();

  Setup setup_;
  std::shared_ptr<Image> source_;
  DirtyMap wanted_;
  RangeLock ranges_;
  std::mutex error_mutex_;
  std::optional<Error> error_;  // of a copy that a guest's write waited for
  std::atomic<bool> failed_ = false;
  bool attached_ = false;
};

}  // namespace vireo::storage
