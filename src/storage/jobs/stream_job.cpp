// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/stream_job.h"

#include "storage/jobs/chain.h"

namespace vireo::storage {
namespace {

constexpr uint64_t kAtOnce = 512 << 10;

std::unexpected<CopyError> failed(Error error, bool reading) { return std::unexpected(CopyError{std::move(error), reading}); }

}  // namespace

StreamJob::StreamJob(Config config, Setup setup) : Job(std::move(config), "stream"), setup_(std::move(setup)) { set_length(setup_.top->size()); }

void StreamJob::attach() {
  setup_.disk->live()->add(*this);
  attached_ = true;
}

// Between the question what the top has and the write to it the guest must not write there.
std::expected<void, CopyError> StreamJob::fill(uint64_t offset, uint64_t& length, bool& copied) {
  Image& top = *setup_.top;
  auto held = ranges_.lock(offset, offset + length);
  auto work = [&]() -> std::expected<void, CopyError> {
    auto here = top.status(offset, length);
    if (!here) return failed(std::move(here).error(), true);
    length = std::min(length, std::max<uint64_t>(here->length, 1));
    if (here->allocated || !top.backing()) return {};
    auto below = status_above(*top.backing(), setup_.base.get(), offset, length);
    if (!below) return failed(std::move(below).error(), true);
    length = std::min(length, std::max<uint64_t>(below->length, 1));
    if (!below->layer) return {};  // the base shows, or nothing does
    copied = true;
    if (below->zero) {
      if (auto done = top.write_zeroes(offset, length, true); !done) return failed(std::move(done).error(), false);
      return {};
    }
    buffer_.resize(length);
    const iovec one = part(buffer_.data(), length);
    if (auto done = read_padded(&top, offset, {&one, 1}); !done) return failed(std::move(done).error(), true);
    if (auto done = top.write(offset, std::span<const std::byte>(buffer_)); !done) return failed(std::move(done).error(), false);
    return {};
  };
  auto done = work();
  ranges_.unlock(held);
  return done;
}

Result<> StreamJob::run() {
  const uint64_t size = setup_.top->size();
  for (uint64_t at = 0; at < size && go_on();) {
    uint64_t length = std::min(kAtOnce, size - at);
    bool copied = false;
    if (auto done = fill(at, length, copied); !done) {
      if (!try_again(done.error().error, done.error().reading)) return std::unexpected(std::move(done).error().error);
      continue;
    }
    at += length;
    set_progress(at, size);
    if (copied) moved(length);
  }
  return {};
}

Result<> StreamJob::finish() {
  TRY_VOID(setup_.top->flush());
  std::lock_guard graph(*setup_.graph);
  Result<> done;
  setup_.disk->change([&] {
    done = write_backing_name(*setup_.top, setup_.base_name, setup_.base_format, setup_.disk->config().open);
    if (done) setup_.top->set_backing(setup_.base);
  });
  return done;
}

void StreamJob::clean() {
  std::lock_guard graph(*setup_.graph);
  setup_.disk->change([&] {
    setup_.disk->live()->remove(*this);
    setup_.disk->live()->set_backing_changes(false);
  });
  setup_.base.reset();
  if (!setup_.reopened) return setup_.top.reset();
  if (auto again = give_back_layer(*setup_.disk, std::exchange(setup_.top, nullptr))) setup_.given_back(*again);
}

}  // namespace vireo::storage
