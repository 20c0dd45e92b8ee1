// SPDX-License-Identifier: Apache-2.0
// What the layers above a base have, up to one that is not the topmost, goes into the base; then they are left out of the chain.
#pragma once

#include "storage/jobs/copy.h"
#include "storage/jobs/job.h"
#include "storage/jobs/live_disk.h"

namespace vireo::storage {

class CommitJob final : public Job {
 public:
  struct Setup {
    LiveDisk* disk = nullptr;
    std::shared_ptr<Image> overlay;  // of `top`
    std::shared_ptr<Image> top;
    std::shared_ptr<Image> base;     // writable
    std::string base_name;           // as the overlay's header shall have it
    bool reopened = false;           // the base is to be read-only again afterwards
    std::mutex* graph = nullptr;
    std::function<void(Image&)> given_back;  // read-only again, it is another image
  };
  CommitJob(Config config, Setup setup);

 private:
  Result<> run() override;
  Result<> finish() override;
  void clean() override;

  Setup setup_;
};

}  // namespace vireo::storage
