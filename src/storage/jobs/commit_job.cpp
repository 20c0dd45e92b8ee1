// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/commit_job.h"

#include "storage/jobs/chain.h"

namespace vireo::storage {
namespace {

constexpr uint64_t kAtOnce = 512 << 10;

}  // namespace

CommitJob::CommitJob(Config config, Setup setup) : Job(std::move(config), "commit"), setup_(std::move(setup)) { set_length(setup_.top->size()); }

// The guest reads through the base meanwhile, but not where the base changes: there a layer above it has the bytes.
Result<> CommitJob::run() {
  const uint64_t size = setup_.top->size();
  if (setup_.base->size() < size) TRY_VOID(setup_.base->resize(size, Preallocation::kOff));
  Copier copier(*setup_.top, *setup_.base, false);
  for (uint64_t at = 0; at < size && go_on();) {
    uint64_t length = size - at;
    bool copied = false;
    auto step = [&]() -> std::expected<void, CopyError> {
      auto here = status_above(*setup_.top, setup_.base.get(), at, length);
      if (!here) return std::unexpected(CopyError{std::move(here).error(), true});
      length = std::max<uint64_t>(here->length, 1);
      if (!here->layer) return {};
      if (!here->zero) length = std::min(length, kAtOnce);
      copied = true;
      return copier.copy(at, length, true);
    };
    if (auto done = step(); !done) {
      if (!try_again(done.error().error, done.error().reading)) return std::unexpected(std::move(done).error().error);
      continue;
    }
    at += length;
    set_progress(at, size);
    if (copied) moved(length);
  }
  return {};
}

Result<> CommitJob::finish() {
  // The base must be whole before the overlay's header lets go of what lies between.
  TRY_VOID(setup_.base->flush());
  std::lock_guard graph(*setup_.graph);
  Result<> done;
  setup_.disk->change([&] {
    done = write_backing_name(*setup_.overlay, setup_.base_name, setup_.base->format(), setup_.disk->config().open);
    if (done) setup_.overlay->set_backing(setup_.base);
  });
  return done;
}

void CommitJob::clean() {
  std::lock_guard graph(*setup_.graph);
  setup_.disk->change([&] { setup_.disk->live()->set_backing_changes(false); });
  setup_.top.reset();
  setup_.overlay.reset();
  if (!setup_.reopened) return setup_.base.reset();
  if (auto again = give_back_layer(*setup_.disk, std::exchange(setup_.base, nullptr))) setup_.given_back(*again);
}

}  // namespace vireo::storage
