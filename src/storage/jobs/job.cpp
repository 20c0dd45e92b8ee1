// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/job.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <system_error>

namespace vireo::storage {
namespace {

uint64_t now_ns() { return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()); }

std::unexpected<Error> not_now(const JobState& state, const char* verb) {
  return fail(ErrorKind::kInvalid, "Job '" + state.id + "' in state '" + word(state.status) + "' cannot accept command verb '" + verb + "'");
}

}  // namespace

const char* word(JobStatus status) {
  static constexpr const char* kWords[] = {"created", "running", "paused", "ready", "standby", "waiting", "pending", "aborting", "concluded", "null"};
  return kWords[static_cast<size_t>(status)];
}

Job::Job(Config config, const char* type) : config_(std::move(config)) {
  state_.id = config_.id;
  state_.type = type;
  state_.disk = config_.disk;
  state_.speed = config_.speed;
  state_.auto_finalize = config_.auto_finalize;
  state_.auto_dismiss = config_.auto_dismiss;
}

Job::~Job() { join(); }

void Job::join() {
  if (thread_.joinable()) thread_.join();
}

JobState Job::state() {
  std::lock_guard lock(mutex_);
  return state_;
}

// The listener is told without the lock, so that it may ask.
void Job::change(std::unique_lock<std::mutex>& lock, JobStatus status) {
  if (state_.status == status) return;
  state_.status = status;
  const JobState now = state_;
  lock.unlock();
  if (listener_) listener_->status_changed(now);
  lock.lock();
}

void Job::start(JobListener& listener) {
  listener_ = &listener;
  {
    std::unique_lock lock(mutex_);
    const JobState now = state_;
    lock.unlock();
    listener_->status_changed(now);
    lock.lock();
    state_.busy = true;
    change(lock, JobStatus::kRunning);
  }
  try {
    thread_ = std::thread([this] { body(); });
    pthread_setname_np(thread_.native_handle(), "vireo-job");
  } catch (const std::system_error&) {
    body();  // no thread can be had: then the one who asked waits
  }
}

// Whoever waits in the job's thread looks again.
void Job::wake(std::unique_lock<std::mutex>& lock) {
  ++woken_;
  lock.unlock();
  changed_.notify_all();
}

void Job::body() {
  Result<> result = run();
  std::unique_lock lock(mutex_);
  state_.busy = false;
  bool good = result.has_value() && (!cancel_wanted_ || soft_);
  if (good) {
    change(lock, JobStatus::kWaiting);
    change(lock, JobStatus::kPending);
    if (!config_.auto_finalize) {
      const JobState now = state_;
      lock.unlock();
      listener_->pending(now);
      lock.lock();
      changed_.wait(lock, [&] { return finalize_wanted_ || (cancel_wanted_ && !soft_); });
    }
    // A cancel that was accepted while the listener was told counts; later ones are refused.
    good = !cancel_wanted_ || soft_;
  }
  if (good) {
    finishing_ = true;
    lock.unlock();
    result = finish();
    lock.lock();
    good = result.has_value();
  }
  if (!good) {
    state_.cancelled = result.has_value();
    state_.error = result ? "" : result.error().message;
    change(lock, JobStatus::kAborting);
    lock.unlock();
    undo();
    lock.lock();
  }
  lock.unlock();
  clean();
  lock.lock();
  // Whoever hears of the end finds it over: the next job may begin at once.
  state_.status = JobStatus::kConcluded;
  const JobState concluded = state_;
  if (config_.auto_dismiss) state_.status = JobStatus::kNull;
  const JobState last = state_;
  lock.unlock();
  listener_->ended(concluded);
  listener_->status_changed(concluded);
  if (config_.auto_dismiss) listener_->status_changed(last);
}

void Job::set_paused_status(std::unique_lock<std::mutex>& lock) {
  if (state_.status == JobStatus::kRunning) change(lock, JobStatus::kPaused);
  else if (state_.status == JobStatus::kReady) change(lock, JobStatus::kStandby);
}

bool Job::go_on() {
  std::unique_lock lock(mutex_);
  if (pause_wanted_ && !cancel_wanted_) {
    state_.busy = false;
    set_paused_status(lock);
    changed_.wait(lock, [&] { return !pause_wanted_ || cancel_wanted_; });
    state_.busy = true;
    change(lock, was_ready_ ? JobStatus::kReady : JobStatus::kRunning);
  }
  return !cancel_wanted_;
}

void Job::moved(uint64_t bytes) {
  std::unique_lock lock(mutex_);
  const uint64_t now = now_ns();
  allowed_ns_ = std::max(allowed_ns_, now);
  if (!state_.speed) return;
  allowed_ns_ += static_cast<uint64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(state_.speed));
  // Slices of a tenth of a second, as in QEMU: less is not worth a wait.
  if (allowed_ns_ < now + 100'000'000) return;
  const uint64_t woken = woken_;
  changed_.wait_for(lock, std::chrono::nanoseconds(allowed_ns_ - now), [&] { return woken_ != woken; });
}

void Job::set_length(uint64_t length) {
  std::lock_guard lock(mutex_);
  state_.length = length;
}
void Job::set_progress(uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  state_.offset = offset;
  state_.length = length;
}
void Job::add_progress(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  state_.offset += bytes;
}

void Job::become_ready() {
  std::unique_lock lock(mutex_);
  if (std::exchange(was_ready_, true)) return;
  change(lock, JobStatus::kReady);
  const JobState now = state_;
  lock.unlock();
  listener_->ready(now);
}

bool Job::completing() {
  std::lock_guard lock(mutex_);
  return complete_wanted_ || soft_;
}

bool Job::completing_by_command() {
  std::lock_guard lock(mutex_);
  return complete_wanted_ && !soft_;
}

bool Job::cancelled() {
  std::lock_guard lock(mutex_);
  return cancel_wanted_ && !soft_;
}

void Job::rest(unsigned milliseconds) {
  std::unique_lock lock(mutex_);
  const uint64_t woken = woken_;
  changed_.wait_for(lock, std::chrono::milliseconds(milliseconds), [&] { return woken_ != woken; });
}

void Job::wake() {
  {
    std::lock_guard lock(mutex_);
    ++woken_;
  }
  changed_.notify_all();
}

bool Job::try_again(const Error& error, bool reading) {
  const ErrorPolicy policy = reading ? config_.on_source_error : config_.on_target_error;
  const bool full = error.code == ENOSPC;
  const bool stop = policy == ErrorPolicy::kStop || (policy == ErrorPolicy::kEnospc && full);
  const bool ignore = policy == ErrorPolicy::kIgnore;
  std::unique_lock lock(mutex_);
  if (stop) {
    state_.io_status = full ? "nospace" : "failed";
    pause_wanted_ = state_.paused = true;
  }
  const JobState now = state_;
  lock.unlock();
  listener_->error(now, reading ? "read" : "write", stop ? "stop" : ignore ? "ignore" : "report");
  if (ignore) rest(100);
  return stop || ignore;
}

Result<> Job::pause() {
  std::unique_lock lock(mutex_);
  if (state_.status != JobStatus::kRunning && state_.status != JobStatus::kReady) return not_now(state_, "pause");
  if (state_.paused) return fail(ErrorKind::kInvalid, "Job is already paused");
  pause_wanted_ = state_.paused = true;
  wake(lock);
  return {};
}

Result<> Job::resume() {
  std::unique_lock lock(mutex_);
  if (!state_.paused) return fail(ErrorKind::kInvalid, "Can't resume a job that was not paused");
  pause_wanted_ = state_.paused = false;
  state_.io_status = "ok";
  wake(lock);
  return {};
}

Result<> Job::set_speed(uint64_t speed) {
  std::unique_lock lock(mutex_);
  if (state_.status >= JobStatus::kWaiting) return not_now(state_, "set-speed");
  state_.speed = speed;
  allowed_ns_ = 0;
  wake(lock);
  return {};
}

Result<> Job::cancel(bool force) {
  std::unique_lock lock(mutex_);
  if (finishing_ || state_.status >= JobStatus::kAborting) return not_now(state_, "cancel");
  soft_ = was_ready_ && !force && soft_cancel() && !cancel_wanted_;
  cancel_wanted_ = !soft_;
  if (soft_) pause_wanted_ = state_.paused = false;
  wake(lock);
  return {};
}

Result<> Job::complete() {
  std::unique_lock lock(mutex_);
  if (state_.status != JobStatus::kReady) return not_now(state_, "complete");
  if (!can_complete() || state_.paused) return fail(ErrorKind::kInvalid, "The active block job '" + state_.id + "' cannot be completed");
  complete_wanted_ = true;
  wake(lock);
  return {};
}

Result<> Job::finalize() {
  std::unique_lock lock(mutex_);
  if (state_.status != JobStatus::kPending) return not_now(state_, "finalize");
  finalize_wanted_ = true;
  lock.unlock();
  changed_.notify_all();
  return {};
}

Result<> Job::dismiss() {
  std::unique_lock lock(mutex_);
  if (state_.status != JobStatus::kConcluded) return not_now(state_, "dismiss");
  change(lock, JobStatus::kNull);
  return {};
}

bool Job::gone() {
  std::lock_guard lock(mutex_);
  return state_.status == JobStatus::kNull;
}

}  // namespace vireo::storage
