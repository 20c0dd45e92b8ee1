// SPDX-License-Identifier: Apache-2.0
// The packed virtqueue. Spec: virtio 1.3, 2.8. One ring of descriptors {address, length, id, flags} that driver and device
// both go around; AVAIL and USED flags against each side's wrap counter say whose turn a slot is.
#include <linux/virtio_ring.h>

#include <atomic>

#include "virtio/queue.h"

namespace vireo::virtio {
namespace {

constexpr uint16_t kAvail = 1u << VRING_PACKED_DESC_F_AVAIL;
constexpr uint16_t kUsed = 1u << VRING_PACKED_DESC_F_USED;
constexpr uint64_t kFlagsOffset = 14;
constexpr uint16_t kWrapBit = 1u << VRING_PACKED_EVENT_F_WRAP_CTR;

uint16_t load16(const std::byte* at, int order = __ATOMIC_RELAXED) {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(at), order);
}
void store16(std::byte* at, uint16_t value, int order = __ATOMIC_RELAXED) {
  __atomic_store_n(reinterpret_cast<uint16_t*>(at), value, order);
}

}  // namespace

bool Queue::packed_available() {
  uint16_t flags = load16(ring(config_.descriptors, 16ull * state_.next_avail + kFlagsOffset, 2), __ATOMIC_ACQUIRE);
  return !!(flags & kAvail) == state_.avail_wrap && !!(flags & kUsed) != state_.avail_wrap;
}

std::unique_ptr<Chain::Body> Queue::pop_packed() {
  if (!packed_available()) return nullptr;
  auto body = make_body();
  uint16_t position = state_.next_avail;
  bool wrap = state_.avail_wrap;
  for (unsigned count = 1;; ++count) {
    // The rest of a chain is in place when its first descriptor is (2.8.21), so its flags need no turn check.
    if (in_flight_ + count > config_.size) return fail("more descriptors in flight than the ring holds"), nullptr;
    Descriptor d = load(ring(config_.descriptors, 16ull * position, 16));
    uint16_t flags = d.fourth;
    if (++position == config_.size) position = 0, wrap = !wrap;
    body->id = d.third;
    body->descriptors = count;
    if (flags & VRING_DESC_F_INDIRECT) {
      if (flags & VRING_DESC_F_NEXT || count > 1) return fail("an indirect descriptor inside a chain"), nullptr;
      if (!walk_packed_indirect(*body, d)) return nullptr;
      break;
    }
    if (!add(*body, d.address, d.length, flags & VRING_DESC_F_WRITE)) return nullptr;
    if (!(flags & VRING_DESC_F_NEXT)) break;
  }
  state_.next_avail = position;
  state_.avail_wrap = wrap;
  return body;
}

bool Queue::walk_packed_indirect(Chain::Body& body, const Descriptor& table) {
  if (!config_.indirect) return fail("an indirect descriptor that was not negotiated"), false;
  unsigned entries = table.length / 16;
  if (entries == 0 || table.length % 16 || entries > kMaxIndirect) return fail("an indirect table of a bad size"), false;
  auto bytes = memory_.range(GuestAddress{table.address}, table.length);
  if (bytes.empty()) return fail("an indirect table outside RAM"), false;
  for (unsigned i = 0; i < entries; ++i) {  // 2.8.7: in order, only the write flag has a meaning
    Descriptor d = load(&bytes[16ull * i]);
    if (!add(body, d.address, d.length, d.fourth & VRING_DESC_F_WRITE)) return false;
  }
  return true;
}

Queue::PackedSlot Queue::fill_packed(const Chain::Body& body, uint32_t used) {
  uint64_t offset = 16ull * state_.next_used;
  std::byte* slot = ring(config_.descriptors, offset, 16);
  __atomic_store_n(reinterpret_cast<uint32_t*>(slot + 8), used, __ATOMIC_RELAXED);
  store16(slot + 12, body.id);
  uint16_t flags = (state_.used_wrap ? kAvail | kUsed : 0) | (body.written.empty() ? 0 : VRING_DESC_F_WRITE);
  state_.next_used += body.descriptors;
  state_.unsignalled += body.descriptors;
  if (state_.next_used >= config_.size) {
    state_.next_used -= config_.size;
    state_.used_wrap = !state_.used_wrap;
  }
  return {offset, flags};
}

void Queue::publish_packed(PackedSlot slot) {
  store16(ring(config_.descriptors, slot.offset + kFlagsOffset, 2), slot.flags, __ATOMIC_RELEASE);
  memory_.notice_write(config_.descriptors + slot.offset, 16);
}

bool Queue::needs_interrupt_packed() {
  uint16_t flags = load16(ring(config_.driver, 2, 2), __ATOMIC_ACQUIRE);
  if (flags == VRING_PACKED_EVENT_FLAG_DISABLE) return false;
  if (flags != VRING_PACKED_EVENT_FLAG_DESC || !config_.event_idx || !state_.ever_signalled) return true;
  if (state_.unsignalled >= config_.size) return true;
  uint16_t place = load16(ring(config_.driver, 0, 2));
  uint16_t event = place & (kWrapBit - 1);
  if (!!(place & kWrapBit) != state_.used_wrap) event -= config_.size;
  return vring_need_event(event, state_.next_used, state_.next_used - state_.unsignalled);
}

void Queue::disable_packed() {
  store16(ring(config_.device, 2, 2), VRING_PACKED_EVENT_FLAG_DISABLE);
  memory_.notice_write(config_.device + 2, 2);
}

bool Queue::enable_packed() {
  if (config_.event_idx) {
    store16(ring(config_.device, 0, 2), state_.next_avail | (state_.avail_wrap ? kWrapBit : 0));
    store16(ring(config_.device, 2, 2), VRING_PACKED_EVENT_FLAG_DESC, __ATOMIC_RELEASE);
  } else {
    store16(ring(config_.device, 2, 2), VRING_PACKED_EVENT_FLAG_ENABLE);
  }
  memory_.notice_write(config_.device, 4);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return packed_available();
}

}  // namespace vireo::virtio
