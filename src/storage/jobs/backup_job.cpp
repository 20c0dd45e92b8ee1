// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/backup_job.h"

namespace vireo::storage {

BackupJob::BackupJob(Config config, Setup setup)
    : Job(std::move(config), "backup"), setup_(std::move(setup)), source_(setup_.disk->live()->top()), wanted_(source_->size(), setup_.granularity) {}

void BackupJob::attach() {
  source_ = setup_.disk->live()->top();
  // Without a look at anything that could take long; choose() thins it out.
  if (setup_.sync == Sync::kBitmap) {
    for (uint64_t at = 0; at < source_->size();) {
      const auto run = setup_.bits->run(at);
      if (run.length == 0) break;
      if (run.dirty) wanted_.set(at, run.length);
      at += run.length;
    }
  } else {
    wanted_.set(0, source_->size());
  }
  set_length(setup_.sync == Sync::kNone ? source_->size() : wanted_.dirty_bytes());
  setup_.disk->live()->add(*this);
  attached_ = true;
}

void BackupJob::abandon() {
  if (attached_) setup_.disk->live()->remove(*this);
  attached_ = false;
}

std::expected<void, CopyError> BackupJob::copy_part(uint64_t offset) {
  auto held = ranges_.lock(offset, offset + setup_.granularity);
  std::expected<void, CopyError> done;
  if (wanted_.get(offset)) {
    Copier copier(*source_, *setup_.target, setup_.zero_target, setup_.sync == Sync::kBitmap);
    done = setup_.compress ? copier.compress(offset, setup_.granularity) : copier.copy(offset, setup_.granularity, false);
    if (done) wanted_.take(offset);
  }
  ranges_.unlock(held);
  return done;
}

// The guest's write is not to suffer from what ails the target: a failure ends the backup instead.
void BackupJob::before(uint64_t offset, uint64_t length) {
  if (failed_) return;
  const uint64_t end = std::min(offset + length, source_->size());
  for (uint64_t at = offset / setup_.granularity * setup_.granularity; at < end; at += setup_.granularity) {
    if (!wanted_.get(at)) {
      // Another write may be copying it just now.
      ranges_.unlock(ranges_.lock(at, at + setup_.granularity));
      continue;
    }
    if (auto done = copy_part(at); !done) {
      std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::move(done).error().error;
      failed_ = true;
      wake();
      return;
    }
  }
}

// Parts that this layer does not have are not for a backup of this layer alone.
Result<> BackupJob::choose() {
  if (setup_.sync != Sync::kTop || !source_->backing()) return {};
  const uint64_t size = source_->size(), unit = setup_.granularity;
  for (uint64_t at = 0; at < size && go_on(); at += unit) {
    auto held = ranges_.lock(at, at + unit);
    bool has = false;
    Result<> looked;
    for (uint64_t in = at; in < std::min(at + unit, size) && !has;) {
      auto here = source_->status(in, std::min(at + unit, size) - in);
      if (!here) {
        looked = std::unexpected(std::move(here).error());
        break;
      }
      has = here->allocated;
      in += std::max<uint64_t>(here->length, 1);
    }
    if (looked && !has) wanted_.take(at);
    ranges_.unlock(held);
    TRY_VOID(looked);
  }
  return {};
}

Result<> BackupJob::run() {
  TRY_VOID(choose());
  const uint64_t all = wanted_.dirty_bytes();
  if (setup_.sync != Sync::kNone) set_length(all);
  uint64_t at = 0;
  while (go_on()) {
    if (failed_) {
      std::lock_guard lock(error_mutex_);
      return std::unexpected(*error_);
    }
    if (setup_.sync == Sync::kNone) {
      set_progress(source_->size() - std::min(source_->size(), wanted_.dirty_bytes()), source_->size());
      rest(200);
      continue;
    }
    auto next = wanted_.next(at);
    if (!next && at == 0) return {};
    if (!next) {
      at = 0;
      continue;
    }
    if (auto done = copy_part(*next); !done) {
      if (!try_again(done.error().error, done.error().reading)) return std::unexpected(std::move(done).error().error);
      continue;
    }
    at = *next + setup_.granularity;
    set_progress(all - std::min(all, wanted_.dirty_bytes()), all);
    moved(setup_.granularity);
  }
  return {};
}

void BackupJob::detach(bool done) {
  std::lock_guard graph(*setup_.graph);
  setup_.disk->change([&] {
    if (attached_) setup_.disk->live()->remove(*this);
    attached_ = false;
    if (auto left = std::exchange(setup_.left, nullptr)) left(done);
  });
}

Result<> BackupJob::finish() {
  if (failed_) {
    std::lock_guard lock(error_mutex_);
    return std::unexpected(*error_);
  }
  // All is copied, so that nothing of the guest's goes there any more. Only a copy that is whole counts for the bitmap.
  TRY_VOID(leave_target());
  detach(true);
  return {};
}

void BackupJob::undo() {
  detach(false);
  (void)leave_target();
}

Result<> BackupJob::leave_target() {
  TRY_VOID(setup_.target->flush());
  return setup_.close_target ? setup_.target->close() : Result<>{};
}

// The target is the caller's again, and the bitmap has been told already.
void BackupJob::clean() {
  setup_.left = nullptr;
  setup_.target.reset();
  source_.reset();
}

}  // namespace vireo::storage
