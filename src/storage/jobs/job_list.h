// SPDX-License-Identifier: Apache-2.0
// The jobs that there are, by their names.
#pragma once

#include <vector>

#include "storage/jobs/job.h"

namespace vireo::storage {

class JobList {
 public:
  ~JobList() { cancel_all(); }
  Result<> check_new(const std::string& id) const;
  void add(std::unique_ptr<Job> job) { jobs_.push_back(std::move(job)); }
  Job* find(const std::string& id) const;
  // Of this disk, and not over yet; null: none.
  Job* working_on(const std::string& disk) const;
  std::vector<JobState> states() const;
  // Takes away those that are over and dismissed.
  void reap();
  void cancel_all();

 private:
  std::vector<std::unique_ptr<Job>> jobs_;
};

}  // namespace vireo::storage
