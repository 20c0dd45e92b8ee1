// SPDX-License-Identifier: Apache-2.0
// A copy of a disk that follows it, until the job is completed: then the guest goes on with the copy. With a layer of the chain as the
// target it is the commit of the topmost image.
#pragma once

#include <atomic>

#include "storage/jobs/copy.h"
#include "storage/jobs/dirty_map.h"
#include "storage/jobs/job.h"
#include "storage/jobs/live_disk.h"
#include "storage/jobs/range_lock.h"

namespace vireo::storage {

class MirrorJob final : public Job, private WriteWatcher {
 public:
  enum class Sync { kFull, kTop, kNone };
  struct Setup {
    LiveDisk* disk = nullptr;
    std::shared_ptr<Image> target;
    std::shared_ptr<Image> base;   // kTop: layers from here on are not copied
    Sync sync = Sync::kFull;
    bool write_blocking = false;   // the guest's writes go to both at once
    bool zero_target = false;      // it is new: reads as zeroes
    bool commit = false;           // the target is `base`
    uint64_t granularity = 65536;
    std::mutex* graph = nullptr;   // held while the chain changes
    // On the way out: `switched`: the guest has the target now.
    std::function<void(bool switched)> left;
  };
  MirrorJob(Config config, Setup setup);
  // Inside of LiveDisk::change(), before start().
  void attach();

 private:
  using Taken = std::pair<uint64_t, uint64_t>;
  Result<> run() override;
  Result<> finish() override;
  void undo() override;
  void clean() override;
  bool can_complete() const override { return true; }
  bool soft_cancel() const override { return true; }
  void before(uint64_t offset, uint64_t length) override;
  void after(const Change& change, bool done) override;

  Result<> find_dirty();
  std::expected<void, CopyError> copy_some(uint64_t offset, uint64_t& length);
  Result<> copy_rest();
  void leave();
  uint64_t down(uint64_t offset) const { return offset / setup_.granularity * setup_.granularity; }
  uint64_t up(uint64_t offset) const { return down(offset + setup_.granularity - 1); }

  Setup setup_;
  std::shared_ptr<Image> source_;
  DirtyMap dirty_, touched_;
  RangeLock ranges_;
  Copier copier_;
  bool switched_ = false, attached_ = false;
};

}  // namespace vireo::storage
