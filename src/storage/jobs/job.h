// SPDX-License-Identifier: Apache-2.0
// A job on disks that takes its time, beside the guest: a thread of its own, and the states that QEMU's jobs have
// (qapi/job.json, JobStatus): created, running, paused, ready, standby, then waiting, pending, concluded or aborting, concluded, and null.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.h"

namespace vireo::storage {

class Job;

enum class JobStatus { kCreated, kRunning, kPaused, kReady, kStandby, kWaiting, kPending, kAborting, kConcluded, kNull };
const char* word(JobStatus status);

struct JobState {
  std::string id, type, disk, error;  // error: why it failed
  JobStatus status = JobStatus::kCreated;
  uint64_t offset = 0, length = 0, speed = 0;
  bool cancelled = false, paused = false, busy = false, auto_finalize = true, auto_dismiss = true;
  std::string io_status = "ok";
};

// What a job tells. Comes on its thread, or on one that commands it.
class JobListener {
 public:
  virtual ~JobListener() = default;
  virtual void status_changed(const JobState& state) = 0;
  virtual void ready(const JobState& state) = 0;
  virtual void ended(const JobState& state) = 0;  // completed, failed or cancelled; status_changed(concluded) comes after
  virtual void error(const JobState& state, const char* operation, const char* action) = 0;
  virtual void pending(const JobState& state) = 0;
};

enum class ErrorPolicy { kReport, kIgnore, kStop, kEnospc };

class Job {
 public:
  struct Config {
    std::string id, disk;
    uint64_t speed = 0;  // bytes a second; 0: no limit
    bool auto_finalize = true, auto_dismiss = true;
    ErrorPolicy on_source_error = ErrorPolicy::kReport, on_target_error = ErrorPolicy::kReport;
  };
  Job(Config config, const char* type);
  virtual ~Job();  // after the thread's end: see join()

  void start(JobListener& listener);
  JobState state();
  // Commands; what does not fit the state is refused.
  Result<> pause();
  Result<> resume();
  Result<> set_speed(uint64_t speed);
  Result<> cancel(bool force);
  Result<> complete();
  Result<> finalize();
  Result<> dismiss();
  // Nothing of it remains to be done, and nothing of it needs to be kept.
  bool gone();
  void join();

 protected:
  // The work; on the job's thread. A cancelled one ends early, without an error.
  virtual Result<> run() = 0;
  // After run() went well: what makes the result count. May fail still.
  virtual Result<> finish() { return {}; }
  // After a failure or a cancel, and after finish() failed.
  virtual void undo() {}
  // Last of all.
  virtual void clean() {}
  virtual bool can_complete() const { return false; }  // complete() means something, once it is ready
  // A cancel of a ready job that leaves a good result behind.
  virtual bool soft_cancel() const { return false; }

  // For run(). False: it was cancelled. Waits while the job is paused.
  bool go_on();
  // After so many bytes: waits for the speed limit.
  void moved(uint64_t bytes);
  void set_length(uint64_t length);
  void set_progress(uint64_t offset, uint64_t length);
  void add_progress(uint64_t bytes);
  // The job is in step with the guest; returns false when it was cancelled meanwhile.
  void become_ready();
  bool completing();             // by either of the next
  bool completing_by_command();  // complete(), and not a cancel that leaves a copy behind
  bool cancelled();
  // Waits at most that long, or until a command comes.
  void rest(unsigned milliseconds);
  void wake();
  // A transfer failed. True: try again (after a pause, perhaps); false: give up.
  bool try_again(const Error& error, bool reading);

 private:
  void body();
  void change(std::unique_lock<std::mutex>& lock, JobStatus status);
  void wake(std::unique_lock<std::mutex>& lock);
  void set_paused_status(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable changed_;
  JobState state_;
  const Config config_;
  JobListener* listener_ = nullptr;
  bool pause_wanted_ = false, complete_wanted_ = false, cancel_wanted_ = false, soft_ = false, finalize_wanted_ = false, finishing_ = false, was_ready_ = false;
  uint64_t woken_ = 0;
  uint64_t allowed_ns_ = 0;  // when the next bytes may move
  std::thread thread_;
};

}  // namespace vireo::storage
