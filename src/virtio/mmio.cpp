// SPDX-License-Identifier: Apache-2.0
#include "virtio/mmio.h"

#include <linux/virtio_mmio.h>

#include <cstring>

namespace vireo::virtio {
namespace {

constexpr uint32_t kMagic = 0x74726976;   // "virt"
constexpr uint32_t kVendor = 0x4f524956;  // "VIRO"

uint64_t with_half(uint64_t old, unsigned shift, uint32_t value) {
  return (old & ~(0xffffffffull << shift)) | static_cast<uint64_t>(value) << shift;
}

}  // namespace

std::unique_ptr<Mmio> Mmio::create(std::unique_ptr<virtio::Device> device, Pins pins) {
  return std::unique_ptr<Mmio>(new Mmio(std::move(device), pins));
}

Mmio::Mmio(std::unique_ptr<virtio::Device> device, Pins pins) : Transport(std::move(device), pins.memory), pins_(pins) {}

// The device may interrupt until it is quiet, and that must not reach a half-destroyed transport.
Mmio::~Mmio() { pause(); }

void Mmio::read(Access access, std::span<std::byte> data) {
  if (access.offset >= VIRTIO_MMIO_CONFIG) return read_config(access.offset - VIRTIO_MMIO_CONFIG, data);
  if (data.size() != 4 || access.offset % 4) return;  // 4.2.2.2: the driver must not
  uint32_t value = read_register(access.offset);
  memcpy(data.data(), &value, 4);
}

void Mmio::write(Access access, std::span<const std::byte> data) {
  if (access.offset >= VIRTIO_MMIO_CONFIG) return write_config(access.offset - VIRTIO_MMIO_CONFIG, data);
  if (data.size() != 4 || access.offset % 4) return;
  uint32_t value;
  memcpy(&value, data.data(), 4);
  write_register(access.offset, value);
}

uint32_t Mmio::read_register(uint64_t offset) {
  const QueueSetup* q = setup(queue_select_);
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE: return kMagic;
    case VIRTIO_MMIO_VERSION: return 2;
    case VIRTIO_MMIO_DEVICE_ID: return device().type();
    case VIRTIO_MMIO_VENDOR_ID: return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES: return device_feature_word(device_features_select_);
    case VIRTIO_MMIO_QUEUE_NUM_MAX: return q ? q->max : 0;
    case VIRTIO_MMIO_QUEUE_READY: return q && q->ready;
    case VIRTIO_MMIO_INTERRUPT_STATUS: {
      std::lock_guard lock(interrupt_mutex_);
      return interrupt_status_;
    }
    case VIRTIO_MMIO_STATUS: return status();
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH: return 0xffffffff;  // no such region
    case VIRTIO_MMIO_CONFIG_GENERATION: return config_generation();
    default: return 0;  // write-only or reserved
  }
}

void Mmio::write_register(uint64_t offset, uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL: device_features_select_ = value; return;
    case VIRTIO_MMIO_DRIVER_FEATURES: write_driver_feature_word(driver_features_select_, value); return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL: driver_features_select_ = value; return;
    case VIRTIO_MMIO_QUEUE_SEL: queue_select_ = value; return;
    case VIRTIO_MMIO_QUEUE_NOTIFY: notify(value & 0xffff); return;
    case VIRTIO_MMIO_INTERRUPT_ACK: {
      std::lock_guard lock(interrupt_mutex_);
      bool was = interrupt_status_;
      interrupt_status_ &= ~value;
      if (was && !interrupt_status_) pins_.irq.set(false);
      return;
    }
    case VIRTIO_MMIO_STATUS: write_status(value & 0xff); return;
    case VIRTIO_MMIO_QUEUE_READY:
      if (!(value & 1)) return disable_queue(queue_select_);  // 4.2.2.2: how a driver stops using a queue, also one that works
      break;
    default: break;
  }
  QueueSetup* q = writable_setup(queue_select_);
  if (!q) return;
  switch (offset) {
    // Out of range values stay out of range and break the queue when it is used.
    case VIRTIO_MMIO_QUEUE_NUM: q->size = value > q->max ? 0 : value; return;
    case VIRTIO_MMIO_QUEUE_READY: q->ready = value & 1; return;
    case VIRTIO_MMIO_QUEUE_DESC_LOW: q->descriptors = with_half(q->descriptors, 0, value); return;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH: q->descriptors = with_half(q->descriptors, 32, value); return;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW: q->driver = with_half(q->driver, 0, value); return;
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH: q->driver = with_half(q->driver, 32, value); return;
    case VIRTIO_MMIO_QUEUE_USED_LOW: q->device = with_half(q->device, 0, value); return;
    case VIRTIO_MMIO_QUEUE_USED_HIGH: q->device = with_half(q->device, 32, value); return;
    default: return;
  }
}

std::vector<Doorbell> Mmio::doorbells() {
  std::vector<Doorbell> bells;
  for (unsigned i = 0; i < queue_count(); ++i)
    bells.push_back({.offset = VIRTIO_MMIO_QUEUE_NOTIFY, .size = 4, .match = true, .value = i, .ring = [this, i] { notify(i); }});
  return bells;
}

void Mmio::raise(uint32_t cause) {
  std::lock_guard lock(interrupt_mutex_);
  bool was = interrupt_status_;
  interrupt_status_ |= cause;
  if (!was) pins_.irq.set(true);
}

void Mmio::queue(unsigned) { raise(VIRTIO_MMIO_INT_VRING); }
void Mmio::config() { raise(VIRTIO_MMIO_INT_CONFIG); }

void Mmio::registers_reset() {
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  std::lock_guard lock(interrupt_mutex_);
  interrupt_status_ = 0;
  pins_.irq.set(false);
}

void Mmio::reset(ResetKind) { reset_transport(); }

void Mmio::register_fields(Archive& archive) {
  archive.field(320, "device_features_select", device_features_select_);
  archive.field(321, "driver_features_select", driver_features_select_);
  archive.field(322, "queue_select", queue_select_);
  std::lock_guard lock(interrupt_mutex_);
  archive.field(323, "interrupt_status", interrupt_status_);
  pins_.irq.set(interrupt_status_ != 0);
}

void Mmio::fields(Archive& archive) { transport_fields(archive); }

}  // namespace vireo::virtio
