// SPDX-License-Identifier: Apache-2.0
#include "virtio/transport.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <algorithm>

#include "base/log.h"
#include "memory/guest_memory.h"

namespace vireo::virtio {
namespace {

constexpr uint64_t kRingFeatures = bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_F_RING_PACKED) | bit(VIRTIO_RING_F_EVENT_IDX) |
                                   bit(VIRTIO_RING_F_INDIRECT_DESC);

}  // namespace

Transport::Transport(std::unique_ptr<Device> device, GuestMemory& memory) : device_(std::move(device)), memory_(memory) {
  for (uint16_t max : device_->queue_sizes()) setups_.push_back({.max = max, .size = max});
  states_.resize(setups_.size());
  device_->read_config(0, config_);
}

Transport::~Transport() { deactivate(); }

uint64_t Transport::offered_features() const { return device_->features() | (kRingFeatures & device_->ring_features()); }

uint32_t Transport::device_feature_word(uint32_t select) const {
  return select < 2 ? static_cast<uint32_t>(offered_features() >> (32 * select)) : 0;
}
uint32_t Transport::driver_feature_word(uint32_t select) const {
  return select < 2 ? static_cast<uint32_t>(driver_features_ >> (32 * select)) : 0;
}
void Transport::write_driver_feature_word(uint32_t select, uint32_t value) {
  if (select > 1 || status_ & VIRTIO_CONFIG_S_FEATURES_OK) return;
  unsigned shift = 32 * select;
  driver_features_ = (driver_features_ & ~(0xffffffffull << shift)) | static_cast<uint64_t>(value) << shift;
}

bool Transport::driver_ok() const {
  constexpr uint8_t kBoth = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
  return (status_ & kBoth) == kBoth;
}

void Transport::write_status(uint8_t value) {
  if (value == 0) return reset_transport();
  uint8_t before = status_;
  bool was_ok = driver_ok();
  // 3.1.1: FEATURES_OK stays clear when the device cannot work with the selection; only the modern interface exists here.
  bool acceptable = driver_features_ & bit(VIRTIO_F_VERSION_1) && !(driver_features_ & ~offered_features());
  if (!(before & VIRTIO_CONFIG_S_FEATURES_OK) && !acceptable) value &= ~VIRTIO_CONFIG_S_FEATURES_OK;
  // Bits once set go away by reset only; the device's own bit is not the driver's to set.
  status_.fetch_or(value & ~VIRTIO_CONFIG_S_NEEDS_RESET);
  if (value & ~before & VIRTIO_CONFIG_S_FEATURES_OK) device_->features_accepted(driver_features_);
  if (!was_ok && driver_ok() && !paused_) activate();
}

Transport::QueueSetup* Transport::writable_setup(unsigned index) {
  return status_ & VIRTIO_CONFIG_S_DRIVER_OK ? nullptr : setup(index);
}

void Transport::disable_queue(unsigned index) {
  QueueSetup* s = setup(index);
  if (!s || !s->ready) return;
  const bool was_active = active_;
  deactivate();
  s->ready = false;
  states_[index] = {};
  if (was_active) activate();
}

void Transport::stop() {
  deactivate();
  status_.fetch_and(static_cast<uint8_t>(~VIRTIO_CONFIG_S_DRIVER_OK));
}

void Transport::needs_reset() {
  uint8_t before = status_.fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET);
  if (before & VIRTIO_CONFIG_S_DRIVER_OK) config();  // 2.1.2
}

void Transport::activate() {
  if (active_) return;
  active_ = true;
  queues_.clear();
  std::vector<Queue*> given;
  for (size_t i = 0; i < setups_.size(); ++i) {
    const QueueSetup& s = setups_[i];
    if (!s.ready) {
      queues_.push_back(nullptr);
      given.push_back(nullptr);
      continue;
    }
    Queue::Config config;
    config.format = driver_features_ & bit(VIRTIO_F_RING_PACKED) ? Queue::Format::kPacked : Queue::Format::kSplit;
    config.size = s.size <= s.max ? s.size : 0;  // 0: breaks the queue
    config.descriptors = GuestAddress{s.descriptors};
    config.driver = GuestAddress{s.driver};
    config.device = GuestAddress{s.device};
    config.event_idx = driver_features_ & bit(VIRTIO_RING_F_EVENT_IDX);
    config.indirect = driver_features_ & bit(VIRTIO_RING_F_INDIRECT_DESC);
    queues_.push_back(std::make_unique<Queue>(memory_, config, [this] { needs_reset(); }, states_[i]));
    given.push_back(queues_.back().get());
  }
  device_->activate(driver_features_, given, *this);
}

void Transport::deactivate() {
  if (!active_) return;
  active_ = false;
  device_->deactivate();
  for (size_t i = 0; i < queues_.size(); ++i)
    if (queues_[i]) states_[i] = queues_[i]->state();
  queues_.clear();
}

void Transport::reset_transport() {
  deactivate();
  device_->reset();
  driver_features_ = 0;
  status_ = 0;
  for (QueueSetup& s : setups_) s = {.max = s.max, .size = s.max};
  std::ranges::fill(states_, Queue::State{});
  registers_reset();
}

void Transport::pause() {
  paused_ = true;
  deactivate();
}

void Transport::resume() {
  paused_ = false;
  if (driver_ok()) activate();
}

void Transport::sample_config() {
  // 2.5.3: the generation differs whenever the driver could have seen two states. So it counts the states handed out.
  std::array<std::byte, kMaxConfig> now{};
  device_->read_config(0, now);
  if (now == config_) return;
  config_ = now;
  ++generation_;
}

uint32_t Transport::config_generation() {
  sample_config();
  return generation_;
}

void Transport::read_config(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  if (offset >= kMaxConfig) return;
  sample_config();
  size_t n = std::min<size_t>(data.size(), kMaxConfig - offset);
  std::copy_n(config_.begin() + static_cast<ptrdiff_t>(offset), n, data.begin());
}

void Transport::write_config(uint64_t offset, std::span<const std::byte> data) {
  if (offset < kMaxConfig && data.size() <= kMaxConfig - offset) device_->write_config(offset, data);
}

void Transport::transport_fields(Archive& archive) {
  deactivate();
  uint8_t status = status_;
  archive.field(300, "status", status);
  status_ = status;
  archive.field(301, "driver_features", driver_features_);
  archive.field(302, "config_generation", generation_);
  archive.bytes(303, "config_seen", config_);
  register_fields(archive);
  for (size_t i = 0; i < setups_.size(); ++i) {
    QueueSetup& s = setups_[i];
    unsigned number = 400 + 20 * static_cast<unsigned>(i);
    archive.field(number + 0, "queue_size", s.size);
    archive.field(number + 1, "queue_ready", s.ready);
    archive.field(number + 2, "queue_vector", s.vector);
    archive.field(number + 3, "queue_descriptors", s.descriptors);
    archive.field(number + 4, "queue_driver", s.driver);
    archive.field(number + 5, "queue_device", s.device);
    states_[i].fields(archive, number + 10);
  }
  device_->fields(archive);
  if (driver_features_ & ~offered_features()) {
    log(LogLevel::kWarning, "virtio: the saved device %u used features that this one lacks; its driver must reset it", device_->type());
    driver_features_ = 0;
    status_.fetch_and(~VIRTIO_CONFIG_S_FEATURES_OK);
    status_.fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET);
  }
  if (driver_ok() && !paused_) activate();
}

}  // namespace vireo::virtio
