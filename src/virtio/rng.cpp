// SPDX-License-Identifier: Apache-2.0
#include "virtio/rng.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace vireo::virtio {
namespace {

// One answer; a guest that wants more asks again (5.4.6.1 leaves the amount to the device).
constexpr uint64_t kMaxAnswer = 64 << 10;
constexpr unsigned kAnswersPerTurn = 16;

size_t fill(std::span<const iovec> parts, uint64_t limit) {
  size_t done = 0;
  for (const iovec& part : parts) {
    size_t want = std::min<uint64_t>(part.iov_len, limit - done);
    for (size_t got = 0; got < want;) {
      ssize_t n = getrandom(static_cast<std::byte*>(part.iov_base) + got, want - got, 0);
      if (n < 0 && errno != EINTR) panic("getrandom: %s", strerror(errno));
      if (n > 0) got += static_cast<size_t>(n);
    }
    done += want;
    if (done == limit) break;
  }
  return done;
}

}  // namespace

Result<std::unique_ptr<Rng>> Rng::create(const RngConfig& config, Pins pins) {
  if (config.max_bytes && config.period_ms == 0) return fail(ErrorKind::kInvalid, "rng period=0: must not be 0 with max-bytes");
  return std::unique_ptr<Rng>(new Rng(config, pins));
}

Rng::Rng(const RngConfig& config, Pins pins) : LoopDevice(pins.loop), config_(config), clock_(pins.clock) {
  refill_ = pins.timers.create([this] { serve_again(0); });
}

Rng::~Rng() { stop(); }

uint16_t Rng::type() const { return VIRTIO_ID_RNG; }

void Rng::stopping() { refill_->cancel(); }

uint64_t Rng::allowance() {
  if (config_.max_bytes == 0) return kMaxAnswer;
  uint64_t now = clock_.now_ns();
  if (now >= period_end_) {
    period_end_ = now + config_.period_ms * 1'000'000ull;
    left_ = config_.max_bytes;
  }
  return std::min(left_, kMaxAnswer);
}

void Rng::serve(unsigned) {
  Queue* q = queue(0);
  unsigned left = kAnswersPerTurn;
  q->drain([&](Chain chain) {
    uint64_t allowed = allowance();
    if (allowed == 0) {
      q->restore(std::move(chain));
      refill_->arm(period_end_);
      return false;
    }
    size_t given = fill(chain.writable(), allowed);
    if (config_.max_bytes) left_ -= given;
    q->push(std::move(chain), static_cast<uint32_t>(given));
    if (--left > 0) return true;
    serve_again(0);  // others want the loop too
    return false;
  });
  signal_later(0);
}

}  // namespace vireo::virtio
