// SPDX-License-Identifier: Apache-2.0
// What both ring formats share: chains, their limits, and the queue's state.
#include "virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "base/log.h"

namespace vireo::virtio {
namespace {

// 2.6: "The total size of a buffer" is below 4 GiB, since used lengths have 32 bits.
constexpr uint64_t kMaxChainBytes = UINT32_MAX;

}  // namespace

bool Chain::take(std::span<std::byte> out) {
  if (out.size() > body_->readable_size) return false;
  size_t count = out.size();
  for (const iovec& part : body_->readable) {
    size_t n = std::min(part.iov_len, out.size());
    if (n == 0) break;
    memcpy(out.data(), part.iov_base, n);
    out = out.subspan(n);
  }
  skip(count);
  return true;
}

void Chain::skip(uint64_t count) {
  size_t whole = 0;
  for (iovec& part : body_->readable) {
    size_t n = std::min<uint64_t>(part.iov_len, count);
    part.iov_base = static_cast<std::byte*>(part.iov_base) + n;
    part.iov_len -= n;
    body_->readable_size -= n;
    count -= n;
    if (part.iov_len > 0) break;
    ++whole;
  }
  body_->readable.erase(body_->readable.begin(), body_->readable.begin() + static_cast<ptrdiff_t>(whole));
}

std::byte* Chain::take_last_writable() {
  if (body_->writable.empty()) return nullptr;
  iovec& last = body_->writable.back();
  --body_->writable_size;
  auto* place = static_cast<std::byte*>(last.iov_base) + --last.iov_len;
  if (last.iov_len == 0) body_->writable.pop_back();
  return place;
}

size_t Chain::put(uint64_t offset, std::span<const std::byte> in) {
  size_t done = 0;
  for (const iovec& part : body_->writable) {
    if (in.empty()) break;
    if (offset >= part.iov_len) {
      offset -= part.iov_len;
      continue;
    }
    size_t n = std::min<size_t>(part.iov_len - offset, in.size());
    memcpy(static_cast<std::byte*>(part.iov_base) + offset, in.data(), n);
    in = in.subspan(n);
    done += n;
    offset = 0;
  }
  return done;
}

Queue::Queue(GuestMemory& memory, const Config& config, std::function<void()> on_broken)
    : Queue(memory, config, std::move(on_broken), State{}) {}

Queue::Queue(GuestMemory& memory, const Config& config, std::function<void()> on_broken, const State& state)
    : memory_(memory), config_(config), on_broken_(std::move(on_broken)), packed_(config.format == Format::kPacked), state_(state) {
  if (!placed())
    fail("the rings are not in RAM, misaligned or of a bad size");
  else if (packed_ && (state_.next_avail >= config_.size || state_.next_used >= config_.size))
    // A saved state is outside data as well.
    fail("saved ring position outside the ring");
}

bool Queue::placed() const {
  unsigned size = config_.size;
  if (size == 0 || size > kMaxSize) return false;
  auto aligned = [](GuestAddress a, uint64_t to) { return raw(a) % to == 0; };
  auto in_ram = [&](GuestAddress a, uint64_t n) { return !memory_.range(a, n).empty(); };
  if (!aligned(config_.descriptors, 16) || !in_ram(config_.descriptors, size * 16ull)) return false;
  if (packed_)  // 2.8.10: two event suppression structures of four bytes
    return aligned(config_.driver, 4) && aligned(config_.device, 4) && in_ram(config_.driver, 4) && in_ram(config_.device, 4);
  return std::has_single_bit(size) && aligned(config_.driver, 2) && aligned(config_.device, 4) &&
         in_ram(config_.driver, 6 + 2ull * size) && in_ram(config_.device, 6 + 8ull * size);
}

std::byte* Queue::ring(GuestAddress start, uint64_t offset, uint64_t size) {
  auto bytes = memory_.range(start + offset, size);
  if (!bytes.empty()) return bytes.data();
  // The guest can make memory disappear under a ring (GuestMemory::hide).
  fail("a ring that was in RAM no longer is");
  return nowhere_.data();
}

Queue::Descriptor Queue::load(const std::byte* from) {
  Descriptor d;
  memcpy(&d, from, sizeof d);
  // The guest may be rewriting it: from here on only the copy exists, and the compiler must not go back for a second look.
  asm volatile("" : "+m"(d));
  return d;
}

void Queue::fail(const char* reason) {
  if (state_.broken) return;
  state_.broken = true;
  static RateLimit limit;
  if (limit.allow()) log(LogLevel::kWarning, "virtio: the guest's driver broke a queue: %s", reason);
  if (on_broken_) on_broken_();
}

std::unique_ptr<Chain::Body> Queue::make_body() {
  if (spare_.empty()) return std::make_unique<Chain::Body>();
  auto body = std::move(spare_.back());
  spare_.pop_back();
  body->readable.clear();
  body->writable.clear();
  body->written.clear();
  body->readable_size = body->writable_size = 0;
  body->descriptors = 0;
  return body;
}

bool Queue::add(Chain::Body& body, uint64_t address, uint32_t length, bool writable) {
  if (!writable && !body.written.empty()) return fail("a readable buffer after a writable one"), false;
  if (length == 0) return true;  // nothing to read or write there
  if (body.readable_size + body.writable_size + length > kMaxChainBytes) return fail("a chain over 4 GiB"), false;
  auto bytes = memory_.range(GuestAddress{address}, length);
  if (bytes.empty()) return fail("a buffer outside RAM"), false;
  auto& parts = writable ? body.writable : body.readable;
  if (!parts.empty() && static_cast<std::byte*>(parts.back().iov_base) + parts.back().iov_len == bytes.data())
    parts.back().iov_len += length;
  else
    parts.push_back({bytes.data(), length});
  if (writable) {
    body.writable_size += length;
    auto& written = body.written;
    if (!written.empty() && raw(written.back().first) + written.back().second == address)
      written.back().second += length;
    else
      written.emplace_back(GuestAddress{address}, length);
  } else {
    body.readable_size += length;
  }
  return true;
}

std::optional<Chain> Queue::pop() {
  if (state_.broken) return std::nullopt;
  auto body = packed_ ? pop_packed() : pop_split();
  if (!body || state_.broken) return std::nullopt;
  in_flight_ += body->descriptors;
  return Chain(std::move(body));
}

void Queue::restore(Chain chain) {
  unsigned count = chain.body_->descriptors;
  in_flight_ -= count;
  if (!packed_) {
    --state_.next_avail;
  } else if (state_.next_avail >= count) {
    state_.next_avail -= count;
  } else {
    state_.next_avail += config_.size - count;
    state_.avail_wrap = !state_.avail_wrap;
  }
  spare_.push_back(std::move(chain.body_));
}

void Queue::notice(const Chain::Body& body, uint64_t size) {
  for (auto [address, part] : body.written) {
    if (size == 0) break;
    uint64_t n = std::min(part, size);
    memory_.notice_write(address, n);
    size -= n;
  }
}

void Queue::retire(std::unique_ptr<Chain::Body> body) {
  in_flight_ -= body->descriptors;
  spare_.push_back(std::move(body));
}

void Queue::push(Chain chain, uint32_t used, uint64_t touched) {
  notice(*chain.body_, std::max<uint64_t>(used, touched));
  if (!state_.broken) {
    if (packed_) {
      publish_packed(fill_packed(*chain.body_, used));
    } else {
      fill_split(*chain.body_, used);
      publish_split();
    }
  }
  retire(std::move(chain.body_));
}

void Queue::push_together(std::span<Filled> chains) {
  for (Filled& filled : chains) notice(*filled.chain.body_, filled.used);
  if (!state_.broken && !chains.empty()) {
    if (packed_) {
      PackedSlot first = fill_packed(*chains[0].chain.body_, chains[0].used);
      for (Filled& filled : chains.subspan(1)) publish_packed(fill_packed(*filled.chain.body_, filled.used));
      publish_packed(first);
    } else {
      for (Filled& filled : chains) fill_split(*filled.chain.body_, filled.used);
      publish_split();
    }
  }
  for (Filled& filled : chains) retire(std::move(filled.chain.body_));
}

bool Queue::needs_interrupt() {
  if (state_.broken || state_.unsignalled == 0) return false;
  // The used entries must be visible before the driver's wish is read, or both sides could wait (2.7.7.2, 2.8.10).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  bool wanted = packed_ ? needs_interrupt_packed() : needs_interrupt_split();
  state_.unsignalled = 0;
  state_.ever_signalled = true;
  return wanted;
}

void Queue::disable_notifications() {
  if (!state_.broken) packed_ ? disable_packed() : disable_split();
}

bool Queue::enable_notifications() {
  if (state_.broken) return false;
  return packed_ ? enable_packed() : enable_split();
}

void Queue::State::fields(Archive& archive, unsigned first_number) {
  archive.field(first_number + 0, "next_avail", next_avail);
  archive.field(first_number + 1, "next_used", next_used);
  archive.field(first_number + 2, "avail_wrap", avail_wrap);
  archive.field(first_number + 3, "used_wrap", used_wrap);
  archive.field(first_number + 4, "unsignalled", unsignalled);
  archive.field(first_number + 5, "ever_signalled", ever_signalled);
  archive.field(first_number + 6, "broken", broken);
}

}  // namespace vireo::virtio
