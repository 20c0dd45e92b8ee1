// SPDX-License-Identifier: Apache-2.0
// The split virtqueue. Spec: virtio 1.3, 2.7. Offsets: the available ring is flags, idx, ring[size], used_event; the used
// ring is flags, idx, {id, len}[size], avail_event.
#include <linux/virtio_ring.h>

#include <atomic>

#include "virtio/queue.h"

namespace vireo::virtio {
namespace {

uint16_t load16(const std::byte* at, int order = __ATOMIC_RELAXED) {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(at), order);
}
void store16(std::byte* at, uint16_t value, int order = __ATOMIC_RELAXED) {
  __atomic_store_n(reinterpret_cast<uint16_t*>(at), value, order);
}

}  // namespace

std::unique_ptr<Chain::Body> Queue::pop_split() {
  uint16_t idx = load16(ring(config_.driver, 2, 2), __ATOMIC_ACQUIRE);
  uint16_t waiting = idx - state_.next_avail;
  if (waiting == 0) return nullptr;
  if (waiting > config_.size) return fail("the available index ran ahead of the ring"), nullptr;
  // Buffers given again before they came back would make in-flight requests unbounded.
  if (in_flight_ >= config_.size) return fail("more buffers in flight than the ring holds"), nullptr;
  uint16_t slot = state_.next_avail & (config_.size - 1);
  uint16_t head = load16(ring(config_.driver, 4 + 2ull * slot, 2));
  auto body = make_body();
  body->id = head;
  body->descriptors = 1;  // a head holds one place in the used ring, however long its chain
  if (!walk_split(*body, head)) return nullptr;
  ++state_.next_avail;
  return body;
}

bool Queue::walk_split(Chain::Body& body, uint16_t head) {
  uint16_t index = head;
  for (unsigned count = 0;; ++count) {
    if (index >= config_.size) return fail("a descriptor index outside the table"), false;
    if (count >= config_.size) return fail("a chain longer than the table: it loops"), false;
    Descriptor d = load(ring(config_.descriptors, 16ull * index, 16));
    uint16_t flags = d.third;
    if (flags & VRING_DESC_F_INDIRECT) {
      if (flags & VRING_DESC_F_NEXT) return fail("an indirect descriptor with a next one"), false;
      return walk_split_indirect(body, d);
    }
    if (!add(body, d.address, d.length, flags & VRING_DESC_F_WRITE)) return false;
    if (!(flags & VRING_DESC_F_NEXT)) return true;
    index = d.fourth;
  }
}

bool Queue::walk_split_indirect(Chain::Body& body, const Descriptor& table) {
  if (!config_.indirect) return fail("an indirect descriptor that was not negotiated"), false;
  unsigned entries = table.length / 16;
  if (entries == 0 || table.length % 16) return fail("an indirect table of a bad size"), false;
  auto bytes = memory_.range(GuestAddress{table.address}, table.length);
  if (bytes.empty()) return fail("an indirect table outside RAM"), false;
  uint16_t index = 0;
  for (unsigned count = 0;; ++count) {
    if (index >= entries) return fail("a descriptor index outside its indirect table"), false;
    if (count >= std::min(entries, kMaxIndirect)) return fail("an indirect chain that loops or is too long"), false;
    Descriptor d = load(&bytes[16ull * index]);
    uint16_t flags = d.third;
    if (flags & VRING_DESC_F_INDIRECT) return fail("an indirect table inside another"), false;
    if (!add(body, d.address, d.length, flags & VRING_DESC_F_WRITE)) return false;
    if (!(flags & VRING_DESC_F_NEXT)) return true;
    index = d.fourth;
  }
}

void Queue::fill_split(const Chain::Body& body, uint32_t used) {
  uint16_t slot = state_.next_used & (config_.size - 1);
  uint64_t offset = 4 + 8ull * slot;
  auto* element = reinterpret_cast<uint32_t*>(ring(config_.device, offset, 8));
  __atomic_store_n(element, body.id, __ATOMIC_RELAXED);
  __atomic_store_n(element + 1, used, __ATOMIC_RELAXED);
  memory_.notice_write(config_.device + offset, 8);
  ++state_.next_used;
  ++state_.unsignalled;
}

void Queue::publish_split() {
  store16(ring(config_.device, 2, 2), state_.next_used, __ATOMIC_RELEASE);
  memory_.notice_write(config_.device + 2, 2);
}

bool Queue::needs_interrupt_split() {
  if (!config_.event_idx) return !(load16(ring(config_.driver, 0, 2)) & VRING_AVAIL_F_NO_INTERRUPT);
  if (!state_.ever_signalled || state_.unsignalled >= config_.size) return true;
  uint16_t event = load16(ring(config_.driver, 4 + 2ull * config_.size, 2));
  return vring_need_event(event, state_.next_used, state_.next_used - state_.unsignalled);
}

void Queue::disable_split() {
  // With EVENT_IDX there is nothing to do: the event index left behind rings at most once more.
  if (config_.event_idx) return;
  store16(ring(config_.device, 0, 2), VRING_USED_F_NO_NOTIFY);
  memory_.notice_write(config_.device, 2);
}

bool Queue::enable_split() {
  if (config_.event_idx) {
    uint64_t offset = 4 + 8ull * config_.size;
    store16(ring(config_.device, offset, 2), state_.next_avail);
    memory_.notice_write(config_.device + offset, 2);
  } else {
    store16(ring(config_.device, 0, 2), 0);
    memory_.notice_write(config_.device, 2);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return load16(ring(config_.driver, 2, 2)) != state_.next_avail;
}

}  // namespace vireo::virtio
