// SPDX-License-Identifier: Apache-2.0
// A virtqueue seen from the device, in either ring format. Everything in it is written by the guest, on other threads, at
// any time: a chain is copied out and checked whole before a device sees it, and a ring that breaks the rules breaks the
// queue, never the process: it stays empty until the driver resets the device.
// Spec: virtio 1.3, 2.6 to 2.8. One thread at a time uses a queue.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/archive.h"
#include "memory/guest_memory.h"

namespace vireo::virtio {

// One request: what the driver lets the device read, then what it lets the device write, as host memory. Valid until it
// is pushed back; whoever drops a chain without that loses the driver's buffer.
class Chain {
 public:
  Chain(Chain&&) noexcept = default;
  Chain& operator=(Chain&&) noexcept = default;

  std::span<const iovec> readable() const { return body_->readable; }
  std::span<const iovec> writable() const { return body_->writable; }
  uint64_t readable_size() const { return body_->readable_size; }
  uint64_t writable_size() const { return body_->writable_size; }

  // Takes bytes off the front of the readable part. False, and nothing taken, when there are fewer.
  bool take(std::span<std::byte> out);
  template <class T>
  bool take_value(T& out) {
    return take(std::as_writable_bytes(std::span(&out, 1)));
  }
  // Drops bytes off the front of the readable part, at most as many as there are.
  void skip(uint64_t count);
  // Cuts the last byte off the writable part: the place of a status byte. Null when nothing is writable.
  std::byte* take_last_writable();
  // Copies to the writable part from its byte `offset` on; returns how much fitted.
  size_t put(uint64_t offset, std::span<const std::byte> in);

 private:
  friend class Queue;
  struct Body {
    std::vector<iovec> readable, writable;
    uint64_t readable_size = 0, writable_size = 0;
    std::vector<std::pair<GuestAddress, uint64_t>> written;  // the writable part as the driver gave it
    uint16_t id = 0;           // split: the head; packed: the buffer id
    uint16_t descriptors = 0;  // ring slots it takes
  };
  explicit Chain(std::unique_ptr<Body> body) : body_(std::move(body)) {}
  std::unique_ptr<Body> body_;
};

class Queue {
 public:
  enum class Format { kSplit, kPacked };
  struct Config {
    Format format = Format::kSplit;
    uint16_t size = 0;
    // 2.6: the descriptor area, the driver area (available ring) and the device area (used ring).
    GuestAddress descriptors{}, driver{}, device{};
    bool event_idx = false;  // VIRTIO_F_EVENT_IDX accepted
    bool indirect = false;   // VIRTIO_F_INDIRECT_DESC accepted
  };
  // Where the device is in the ring; complete while nothing is in flight.
  struct State {
    // Split: free-running counters. Packed: ring positions with their wrap counters.
    uint16_t next_avail = 0;
    uint16_t next_used = 0;
    bool avail_wrap = true;
    bool used_wrap = true;
    uint16_t unsignalled = 0;  // used slots since the last decision about an interrupt
    bool ever_signalled = false;
    bool broken = false;
    void fields(Archive& archive, unsigned first_number);  // takes 7 numbers
  };
  static constexpr unsigned kMaxSize = 32768;
  // Longest indirect table taken. The driver should stay below the queue size (2.7.5.3.1), but not all do.
  static constexpr unsigned kMaxIndirect = 1024;

  // `on_broken` is called once when the queue breaks, on the thread that uses it (also from here, for impossible rings).
  Queue(GuestMemory& memory, const Config& config, std::function<void()> on_broken);
  Queue(GuestMemory& memory, const Config& config, std::function<void()> on_broken, const State& state);

  uint16_t size() const { return config_.size; }
  bool broken() const { return state_.broken; }
  // The device found nonsense in a request that leaves it no way to answer. Breaks the queue.
  void fail(const char* reason);

  std::optional<Chain> pop();
  // Puts back the chain popped last and not yet pushed; for several, the latest first.
  void restore(Chain chain);
  // Gives the chain back with `used` bytes written from the start of its writable part. `touched` says up to where bytes
  // may have changed, when that is further.
  void push(Chain chain, uint32_t used, uint64_t touched = 0);
  // Gives several chains back so that the driver sees all of them or none.
  struct Filled {
    Chain chain;
    uint32_t used;
  };
  void push_together(std::span<Filled> chains);
  // After one or several push(): must the driver be interrupted?
  bool needs_interrupt();

  // Whether the driver shall ring for new buffers. enable returns true when there already are some, which it will not
  // ring for.
  void disable_notifications();
  bool enable_notifications();
  // Calls `handle(Chain)` for every buffer there is, with the bell off meanwhile. `handle` returns false to stop early;
  // then the bell stays off and the caller must drain() again.
  template <class Handle>
  void drain(Handle&& handle) {
    do {
      disable_notifications();
      while (auto chain = pop())
        if (!handle(std::move(*chain))) return;
    } while (enable_notifications());
  }

  const Config& config() const { return config_; }
  // Somebody else has worked on the (split) ring and is now there in it, with nothing in flight.
  void move_to(uint16_t next_avail, uint16_t next_used) {
    state_.next_avail = next_avail;
    state_.next_used = next_used;
  }
  unsigned in_flight() const { return in_flight_; }
  const State& state() const { return state_; }

 private:
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t third;   // split: flags; packed: buffer id
    uint16_t fourth;  // split: next; packed: flags
  };
  static_assert(sizeof(Descriptor) == 16);

  bool placed() const;
  std::byte* ring(GuestAddress start, uint64_t offset, uint64_t size);  // at most 16 bytes
  static Descriptor load(const std::byte* from);
  std::unique_ptr<Chain::Body> make_body();
  bool add(Chain::Body& body, uint64_t address, uint32_t length, bool writable);

  std::unique_ptr<Chain::Body> pop_split();
  bool walk_split(Chain::Body& body, uint16_t head);
  bool walk_split_indirect(Chain::Body& body, const Descriptor& table);
  void notice(const Chain::Body& body, uint64_t size);
  void retire(std::unique_ptr<Chain::Body> body);
  // Filled entries become visible by publish: of a group in a split ring with one call, in a packed one the first slot last.
  void fill_split(const Chain::Body& body, uint32_t used);
  void publish_split();
  bool needs_interrupt_split();
  void disable_split();
  bool enable_split();

  bool packed_available();
  std::unique_ptr<Chain::Body> pop_packed();
  bool walk_packed_indirect(Chain::Body& body, const Descriptor& table);
  struct PackedSlot {
    uint64_t offset;
    uint16_t flags;
  };
  PackedSlot fill_packed(const Chain::Body& body, uint32_t used);
  void publish_packed(PackedSlot slot);
  bool needs_interrupt_packed();
  void disable_packed();
  bool enable_packed();

  GuestMemory& memory_;
  Config config_;
  std::function<void()> on_broken_;
  bool packed_;
  State state_;
  alignas(16) std::array<std::byte, 16> nowhere_{};  // stands for a place in a ring that is gone
  unsigned in_flight_ = 0;         // ring slots popped and not yet pushed
  std::vector<std::unique_ptr<Chain::Body>> spare_;  // kept for their capacity
};

}  // namespace vireo::virtio
