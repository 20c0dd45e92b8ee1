// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/mirror_job.h"

#include "base/log.h"
#include "storage/jobs/chain.h"

namespace vireo::storage {
namespace {

constexpr uint64_t kMostAtOnce = 1 << 20;
constexpr uint64_t kLeftAtReady = 16 << 20;  // what may be left to be copied while the guest stands still

}  // namespace

MirrorJob::MirrorJob(Config config, Setup setup)
    : Job(std::move(config), setup.commit ? "commit" : "mirror"), setup_(std::move(setup)), source_(setup_.disk->live()->top()),
      dirty_(source_->size(), setup_.granularity), touched_(source_->size(), setup_.granularity), copier_(*source_, *setup_.target, setup_.zero_target) {}

void MirrorJob::attach() {
  setup_.disk->live()->add(*this);
  attached_ = true;
}

void MirrorJob::before(uint64_t offset, uint64_t length) {
  if (setup_.write_blocking) ranges_.lock(down(offset), up(offset + length));
}

void MirrorJob::after(const Change& change, bool done) {
  if (!setup_.write_blocking) return dirty_.set(change.offset, change.length);
  Result<> copied;
  if (done && change.kind == Change::Kind::kData) copied = setup_.target->write(change.offset, change.data);
  // A discard may leave anything to be read; so it is looked at again.
  else if (done && change.kind == Change::Kind::kZeroes) copied = setup_.target->write_zeroes(change.offset, change.length, change.may_unmap);
  touched_.set(change.offset, change.length);
  // The copy of the job itself tells the error.
  if (!done || !copied || change.kind == Change::Kind::kDiscard) dirty_.set(change.offset, change.length);
  ranges_.unlock(down(change.offset), up(change.offset + change.length));
}

Result<> MirrorJob::find_dirty() {
  const uint64_t size = source_->size();
  if (setup_.sync == Sync::kNone) return {};
  if (setup_.sync == Sync::kFull) return dirty_.set(0, size), Result<>{};
  for (uint64_t at = 0; at < size && go_on();) {
    auto here = TRY(status_above(*source_, setup_.base.get(), at, std::min<uint64_t>(size - at, 1 << 30)));
    // Where a shorter layer ends, zeroes hide what is below it.
    if (here.layer) dirty_.set(at, here.length);
    at += std::max<uint64_t>(here.length, 1);
  }
  return {};
}

// From a dirty part on: it, and those behind it.
std::expected<void, CopyError> MirrorJob::copy_some(uint64_t offset, uint64_t& length) {
  uint64_t end = std::min(offset + setup_.granularity, source_->size());
  while (end < source_->size() && end - offset < kMostAtOnce && dirty_.get(end)) end = std::min(end + setup_.granularity, source_->size());
  auto held = ranges_.lock(offset, up(end));
  std::expected<void, CopyError> done;
  bool overwrite = false;
  for (uint64_t at = offset; at < end; at += setup_.granularity) {
    dirty_.take(at);
    overwrite |= touched_.get(at);
  }
  touched_.set(offset, end - offset);
  done = copier_.copy(offset, end - offset, overwrite);
  if (!done) dirty_.set(offset, end - offset);
  ranges_.unlock(held);
  length = end - offset;
  return done;
}

Result<> MirrorJob::run() {
  TRY_VOID(find_dirty());
  uint64_t at = 0, copied = 0;
  while (go_on()) {
    auto next = dirty_.next(at);
    if (!next && at > 0) {
      at = 0;
      continue;
    }
    const uint64_t left = dirty_.dirty_bytes();
    set_progress(copied, copied + left);
    if (!next) {
      become_ready();
      if (completing()) return {};
      rest(100);
      continue;
    }
    // What is written while the guest stands still for the switch must be little.
    if (completing() && left <= kLeftAtReady) return {};
    uint64_t length = 0;
    if (auto done = copy_some(*next, length); !done) {
      if (!try_again(done.error().error, done.error().reading)) return std::unexpected(std::move(done).error().error);
      continue;
    }
    at = *next + length;
    copied += length;
    moved(length);
  }
  return {};
}

Result<> MirrorJob::copy_rest() {
  while (auto next = dirty_.next(0)) {
    uint64_t length = 0;
    if (auto done = copy_some(*next, length); !done) return std::unexpected(std::move(done).error().error);
  }
  return setup_.target->flush();
}

Result<> MirrorJob::finish() {
  // Most of what the target still has in caches goes out while the guest runs.
  TRY_VOID(setup_.target->flush());
  std::lock_guard graph(*setup_.graph);
  const bool pivot = !cancelled() && completing_by_command();
  Result<> done;
  setup_.disk->change([&] {
    LiveImage& live = *setup_.disk->live();
    done = copy_rest();
    if (!done) return;
    live.remove(*this);
    attached_ = false;
    live.set_backing_changes(false);
    if (!pivot) return;
    live.set_top(setup_.target);
    switched_ = true;
  });
  if (!done) return done;
  if (switched_ && setup_.target->backing() != source_.get())
    if (auto closed = source_->close(); !closed) log(LogLevel::kWarning, "disk %s: closing the image it had before: %s", setup_.disk->config().id.c_str(), closed.error().message.c_str());
  leave();
  return {};
}

void MirrorJob::clean() {
  setup_.left = nullptr;
  setup_.target.reset();
  setup_.base.reset();
  source_.reset();
}

void MirrorJob::undo() {
  std::lock_guard graph(*setup_.graph);
  if (attached_)
    setup_.disk->change([&] {
      setup_.disk->live()->remove(*this);
      setup_.disk->live()->set_backing_changes(false);
    });
  attached_ = false;
  leave();
}

// The base may be opened anew then: whoever keeps the old one keeps its lock.
void MirrorJob::leave() {
  setup_.target.reset();
  setup_.base.reset();
  if (setup_.left) setup_.left(switched_);
}

}  // namespace vireo::storage
