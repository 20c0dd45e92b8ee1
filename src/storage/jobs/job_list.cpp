// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/job_list.h"

#include <algorithm>

namespace vireo::storage {

Job* JobList::find(const std::string& id) const {
  for (auto& job : jobs_)
    if (!job->gone() && job->state().id == id) return job.get();
  return nullptr;
}

Result<> JobList::check_new(const std::string& id) const {
  if (id.empty()) return fail(ErrorKind::kInvalid, "An explicit job ID is required");
  const bool good = isalpha(static_cast<unsigned char>(id[0])) && std::ranges::all_of(id, [](unsigned char c) { return isalnum(c) || c == '-' || c == '.' || c == '_'; });
  if (!good || id.size() > 127) return fail(ErrorKind::kInvalid, "Invalid job ID '" + id + "'");
  if (find(id)) return fail(ErrorKind::kInvalid, "Job ID '" + id + "' already in use");
  return {};
}

Job* JobList::working_on(const std::string& disk) const {
  for (auto& job : jobs_) {
    const JobState state = job->state();
    if (state.disk == disk && state.status < JobStatus::kConcluded) return job.get();
  }
  return nullptr;
}

std::vector<JobState> JobList::states() const {
  std::vector<JobState> out;
  for (auto& job : jobs_)
    if (!job->gone()) out.push_back(job->state());
  return out;
}

void JobList::reap() {
  std::erase_if(jobs_, [](const std::unique_ptr<Job>& job) { return job->gone(); });
}

void JobList::cancel_all() {
  for (auto& job : jobs_) (void)job->cancel(true);
  for (auto& job : jobs_) job->join();
  jobs_.clear();
}

}  // namespace vireo::storage
