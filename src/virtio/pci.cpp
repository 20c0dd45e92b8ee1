// SPDX-License-Identifier: Apache-2.0
#include "virtio/pci.h"

#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>

#include <algorithm>
#include <cstring>

namespace vireo::virtio {
namespace {

constexpr uint16_t kVendor = 0x1af4;       // 4.1.2
constexpr uint16_t kFirstDevice = 0x1040;
constexpr uint16_t kSubsystem = 0x40;      // 4.1.2.1: modern devices are above legacy ones
constexpr uint8_t kIsrQueue = 1, kIsrConfig = 2;  // 4.1.4.5
constexpr uint32_t kCommonSize = sizeof(virtio_pci_common_cfg);
constexpr size_t kWindowData = sizeof(virtio_pci_cap);  // pci_cfg_data in its capability

// PCI Code and ID Assignment Specification 1.11, appendix D.
uint32_t class_of(uint16_t type) {
  switch (type) {
    case VIRTIO_ID_NET: return 0x020000;      // Ethernet
    case VIRTIO_ID_BLOCK: return 0x018000;    // other mass storage
    case VIRTIO_ID_CONSOLE: return 0x078000;  // other communication
    case VIRTIO_ID_SCSI: return 0x010000;
    default: return 0x00ff00;                 // anything else
  }
}

PciDevice::Identity identity_of(uint16_t type) {
  return {.vendor = kVendor,
          .device = static_cast<uint16_t>(kFirstDevice + type),
          .class_code = class_of(type),
          .revision = 1,
          .subsystem_vendor = kVendor,
          .subsystem = kSubsystem};
}

uint64_t value_of(std::span<const std::byte> data) {
  uint64_t value = 0;
  memcpy(&value, data.data(), std::min<size_t>(data.size(), sizeof value));
  return value;
}

}  // namespace

std::unique_ptr<Pci> Pci::create(std::unique_ptr<virtio::Device> device, Pins pins) {
  return std::unique_ptr<Pci>(new Pci(std::move(device), std::move(pins)));
}

Pci::Pci(std::unique_ptr<virtio::Device> device, Pins pins)
    : PciDevice(identity_of(device->type()), pins.pci), Transport(std::move(device), pins.memory) {
  add_bar(kBar, kBarSize, BarType::kMemory64);
  if (!pins.rom.empty()) add_rom(std::move(pins.rom));
  add_structure(VIRTIO_PCI_CAP_COMMON_CFG, kCommon, kCommonSize);
  add_structure(VIRTIO_PCI_CAP_ISR_CFG, kIsr, 1);
  add_structure(VIRTIO_PCI_CAP_DEVICE_CFG, kDeviceConfig, kMaxConfig);
  add_structure(VIRTIO_PCI_CAP_NOTIFY_CFG, kNotify, kNotifyStride * queue_count());
  add_structure(VIRTIO_PCI_CAP_PCI_CFG, 0, 0);
  if (pins.pci.msi) {
    vectors_ = queue_count() + 1;  // one for changes of the configuration
    add_msix(vectors_, kBar, kMsixTable, kMsixPending);
  }
  for (unsigned i = 0; i < queue_count(); ++i)
    add_doorbell(kBar, {.offset = kNotify + i * kNotifyStride, .size = 2, .ring = [this, i] { notify(i); }});
}

// The device may interrupt until it is quiet, and that must not reach a half-destroyed transport.
Pci::~Pci() { pause(); }

void Pci::add_structure(uint8_t type, uint32_t offset, uint32_t length) {
  struct {
    virtio_pci_cap cap;
    uint32_t extra;  // the notify structure's multiplier, or the window's data
  } c{}, mask{};
  bool notify = type == VIRTIO_PCI_CAP_NOTIFY_CFG, window = type == VIRTIO_PCI_CAP_PCI_CFG;
  size_t size = sizeof c.cap + (notify || window ? 4 : 0);
  c.cap.cap_len = static_cast<uint8_t>(size);
  c.cap.cfg_type = type;
  c.cap.bar = kBar;
  c.cap.offset = offset;
  c.cap.length = length;
  if (notify) c.extra = kNotifyStride;
  if (window) {
    mask.cap.bar = 0xff;
    mask.cap.offset = mask.cap.length = mask.extra = 0xffffffff;
  }
  constexpr size_t kHead = 2;  // id and next pointer are the base class's
  unsigned at = add_capability(PCI_CAP_ID_VNDR, std::as_bytes(std::span(&c, 1)).subspan(kHead, size - kHead),
                               std::as_bytes(std::span(&mask, 1)).subspan(kHead, size - kHead));
  if (window) window_capability_ = at;
}

void Pci::read_bar(unsigned, Access access, std::span<std::byte> data) {
  uint64_t offset = access.offset;
  if (offset < kIsr) return read_common(offset, data);
  if (offset < kDeviceConfig) {
    std::ranges::fill(data, std::byte{0});
    if (offset != kIsr) return;
    std::lock_guard lock(isr_mutex_);  // 4.1.4.5: reading clears it and lowers the pin
    data[0] = std::byte{std::exchange(isr_, 0)};
    return update_pin();
  }
  if (offset < kNotify) return Transport::read_config(offset - kDeviceConfig, data);
  std::ranges::fill(data, std::byte{0});
}

void Pci::write_bar(unsigned, Access access, std::span<const std::byte> data) {
  uint64_t offset = access.offset;
  if (offset < kIsr) return write_common(offset, value_of(data), data.size());
  if (offset < kDeviceConfig) return;
  if (offset < kNotify) return Transport::write_config(offset - kDeviceConfig, data);
  // The place decides, not the value, as in a doorbell.
  if (offset < kNotify + kNotifyStride * queue_count() && (offset - kNotify) % kNotifyStride == 0)
    notify(static_cast<unsigned>((offset - kNotify) / kNotifyStride));
}

void Pci::read_common(uint64_t offset, std::span<std::byte> data) {
  virtio_pci_common_cfg c{};
  c.device_feature_select = device_features_select_;
  c.device_feature = device_feature_word(device_features_select_);
  c.guest_feature_select = driver_features_select_;
  c.guest_feature = driver_feature_word(driver_features_select_);
  c.msix_config = config_vector_;
  c.num_queues = static_cast<uint16_t>(queue_count());
  c.device_status = status();
  c.config_generation = static_cast<uint8_t>(config_generation());
  c.queue_select = queue_select_;
  c.queue_msix_vector = kNoVector;
  if (const QueueSetup* q = setup(queue_select_)) {
    c.queue_size = q->size;
    c.queue_msix_vector = q->vector;
    c.queue_enable = q->ready;
    c.queue_notify_off = queue_select_;
    c.queue_desc_lo = static_cast<uint32_t>(q->descriptors);
    c.queue_desc_hi = static_cast<uint32_t>(q->descriptors >> 32);
    c.queue_avail_lo = static_cast<uint32_t>(q->driver);
    c.queue_avail_hi = static_cast<uint32_t>(q->driver >> 32);
    c.queue_used_lo = static_cast<uint32_t>(q->device);
    c.queue_used_hi = static_cast<uint32_t>(q->device >> 32);
  }
  std::ranges::fill(data, std::byte{0});
  if (offset >= sizeof c) return;
  memcpy(data.data(), reinterpret_cast<const std::byte*>(&c) + offset, std::min<size_t>(data.size(), sizeof c - offset));
}

uint16_t Pci::valid_vector(uint64_t value) const {
  // 4.1.5.1.2.1: a vector that cannot be mapped reads back as none.
  return value < vectors_ ? static_cast<uint16_t>(value) : kNoVector;
}

void Pci::write_address(uint64_t& address, unsigned offset, uint64_t value, size_t size) {
  if (size == 8 && offset == 0)
    address = value;
  else if (size == 4 && offset % 4 == 0)
    address = (address & ~(0xffffffffull << (8 * offset))) | value << (8 * offset);
}

void Pci::write_common(uint64_t offset, uint64_t value, size_t size) {
  switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT: device_features_select_ = static_cast<uint32_t>(value); return;
    case VIRTIO_PCI_COMMON_GFSELECT: driver_features_select_ = static_cast<uint32_t>(value); return;
    case VIRTIO_PCI_COMMON_GF: write_driver_feature_word(driver_features_select_, static_cast<uint32_t>(value)); return;
    case VIRTIO_PCI_COMMON_MSIX: config_vector_ = valid_vector(value); return;
    case VIRTIO_PCI_COMMON_STATUS: write_status(static_cast<uint8_t>(value)); return;
    case VIRTIO_PCI_COMMON_Q_SELECT: queue_select_ = static_cast<uint16_t>(value); return;
    case VIRTIO_PCI_COMMON_Q_MSIX:
      // 4.1.5.1.2 sets no end to it: illumos maps its queues' vectors after DRIVER_OK and fails when that does not take.
      if (QueueSetup* q = setup(queue_select_)) std::atomic_ref(q->vector) = valid_vector(value);
      return;
    default: break;
  }
  QueueSetup* q = writable_setup(queue_select_);
  if (!q) return;
  switch (offset) {
    // Out of range values stay out of range and break the queue when it is used.
    case VIRTIO_PCI_COMMON_Q_SIZE: q->size = value > q->max ? 0 : static_cast<uint16_t>(value); return;
    case VIRTIO_PCI_COMMON_Q_ENABLE: q->ready |= value == 1; return;  // 4.1.4.3.2: never back to 0 but by reset
    default: break;
  }
  if (offset < VIRTIO_PCI_COMMON_Q_DESCLO || offset > VIRTIO_PCI_COMMON_Q_USEDHI) return;
  auto part = static_cast<unsigned>(offset - VIRTIO_PCI_COMMON_Q_DESCLO);
  uint64_t* addresses[] = {&q->descriptors, &q->driver, &q->device};
  write_address(*addresses[part / 8], part % 8, value, size);
}

void Pci::send(uint16_t vector) {
  if (vector != kNoVector) msix()->notify(vector);
}

void Pci::set_isr(uint8_t bit) {
  std::lock_guard lock(isr_mutex_);
  isr_ |= bit;
  update_pin();
}

// 4.1.4.5.1: the pin shows the bits, but where MSI-X takes its place. With the mutex held.
void Pci::update_pin() { set_intx(isr_ != 0 && !msix_enabled()); }

void Pci::queue(unsigned index) { msix_enabled() ? send(std::atomic_ref(setup(index)->vector)) : set_isr(kIsrQueue); }

// 4.1.4.5.1: this bit is set with MSI-X as well; a driver may tell by it what a vector that means several things stands for.
void Pci::config() {
  set_isr(kIsrConfig);
  if (msix_enabled()) send(config_vector_);
}

std::optional<Pci::Window> Pci::window() const {
  virtio_pci_cap cap;
  memcpy(&cap, const_cast<Pci*>(this)->PciDevice::config().data() + window_capability_, sizeof cap);
  // 4.1.4.9.1: length 1, 2 or 4, and the offset a multiple of it.
  if (cap.bar != kBar || (cap.length != 1 && cap.length != 2 && cap.length != 4) || cap.offset % cap.length) return std::nullopt;
  return Window{cap.bar, cap.offset, cap.length};
}

bool Pci::touches_window_data(uint16_t offset, size_t size) const {
  unsigned data = window_capability_ + kWindowData;
  return offset < data + 4 && data < offset + size;
}

void Pci::before_config_read(uint16_t offset, size_t size) {
  if (!touches_window_data(offset, size)) return;
  auto w = window();
  if (!w) return;
  auto data = PciDevice::config().subspan(window_capability_ + kWindowData, w->length);
  std::ranges::fill(data, std::byte{0xff});
  PciDevice::read(w->bar, {w->offset}, data);
}

void Pci::after_config_write(uint16_t offset, size_t size) {
  {
    std::lock_guard lock(isr_mutex_);
    update_pin();  // MSI-X may have been switched
  }
  if (offset < PCI_COMMAND + 2 && PCI_COMMAND < offset + size && !bus_master()) stop();
  if (!touches_window_data(offset, size)) return;
  auto w = window();
  if (!w) return;
  std::byte data[4];
  std::copy_n(PciDevice::config().begin() + window_capability_ + kWindowData, w->length, data);
  PciDevice::write(w->bar, {w->offset}, {data, w->length});
}

void Pci::registers_reset() {
  device_features_select_ = driver_features_select_ = 0;
  queue_select_ = 0;
  config_vector_ = kNoVector;
  std::lock_guard lock(isr_mutex_);
  isr_ = 0;
  update_pin();
}

void Pci::device_reset(ResetKind) { reset_transport(); }

void Pci::register_fields(Archive& archive) {
  archive.field(320, "device_features_select", device_features_select_);
  archive.field(321, "driver_features_select", driver_features_select_);
  archive.field(322, "queue_select", queue_select_);
  uint16_t vector = config_vector_;
  archive.field(323, "config_vector", vector);
  config_vector_ = valid_vector(vector);
  std::lock_guard lock(isr_mutex_);
  archive.field(324, "isr", isr_);
  update_pin();
}

void Pci::device_fields(Archive& archive) { transport_fields(archive); }

}  // namespace vireo::virtio
