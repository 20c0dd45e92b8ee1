// SPDX-License-Identifier: Apache-2.0
#include "devices/msix.h"

#include <algorithm>
#include <cstring>

namespace vireo {
namespace {

constexpr uint16_t kEnable = 1u << 15;
constexpr uint16_t kFunctionMask = 1u << 14;

}  // namespace

Msix::Msix(unsigned vectors, MsiSink& sink)
    : sink_(sink), table_(std::clamp(vectors, 1u, kMaxVectors)), pending_((table_.size() + 63) / 64) {}

bool Msix::masked(unsigned vector) const { return !bus_master_ || (control_ & kFunctionMask) || (table_[vector].control & 1); }

bool Msix::enabled() const {
  std::lock_guard lock(mutex_);
  return control_ & kEnable;
}

void Msix::notify(unsigned vector) {
  std::lock_guard lock(mutex_);
  if (!(control_ & kEnable) || vector >= table_.size()) return;
  if (masked(vector)) {
    pending_[vector / 64] |= 1ull << (vector % 64);
    return;
  }
  const Entry& entry = table_[vector];
  sink_.send(uint64_t{entry.address_high} << 32 | entry.address_low, entry.data);
}

void Msix::flush_pending() {
  if (!(control_ & kEnable)) return;
  for (unsigned vector = 0; vector < table_.size(); vector++) {
    uint64_t bit = 1ull << (vector % 64);
    if (!(pending_[vector / 64] & bit) || masked(vector)) continue;
    pending_[vector / 64] &= ~bit;
    const Entry& entry = table_[vector];
    sink_.send(uint64_t{entry.address_high} << 32 | entry.address_low, entry.data);
  }
}

void Msix::set_control(uint16_t control) {
  std::lock_guard lock(mutex_);
  control_ = control & (kEnable | kFunctionMask);
  flush_pending();
}

void Msix::set_bus_master(bool may) {
  std::lock_guard lock(mutex_);
  bus_master_ = may;
  flush_pending();
}

void Msix::read_table(Access access, std::span<std::byte> data) const {
  std::lock_guard lock(mutex_);
  if (access.offset >= table_size() || data.size() > table_size() - access.offset) return;
  memcpy(data.data(), reinterpret_cast<const std::byte*>(table_.data()) + access.offset, data.size());
}

void Msix::write_table(Access access, std::span<const std::byte> data) {
  std::lock_guard lock(mutex_);
  // Software shall use aligned 4 and 8 byte accesses only; the rest is undefined and ignored here.
  if ((data.size() != 4 && data.size() != 8) || access.offset % data.size()) return;
  if (access.offset >= table_size() || data.size() > table_size() - access.offset) return;
  memcpy(reinterpret_cast<std::byte*>(table_.data()) + access.offset, data.data(), data.size());
  Entry& entry = table_[access.offset / kEntrySize];
  entry.control &= 1;  // the other bits are reserved
  entry.address_low &= ~3u;
  flush_pending();
}

void Msix::read_pba(Access access, std::span<std::byte> data) const {
  std::lock_guard lock(mutex_);
  if (access.offset >= pba_size() || data.size() > pba_size() - access.offset) return;
  memcpy(data.data(), reinterpret_cast<const std::byte*>(pending_.data()) + access.offset, data.size());
}

void Msix::reset() {
  std::lock_guard lock(mutex_);
  control_ = 0;
  std::ranges::fill(table_, Entry{});
  std::ranges::fill(pending_, 0);
}

void Msix::fields(Archive& archive) {
  std::lock_guard lock(mutex_);
  archive.bytes(200, "msix_table", std::as_writable_bytes(std::span(table_)));
  archive.bytes(201, "msix_pending", std::as_writable_bytes(std::span(pending_)));
  archive.field(202, "msix_control", control_);
}

}  // namespace vireo
