// SPDX-License-Identifier: Apache-2.0
// The MSI-X table and pending bits of one PCI function. Spec: PCI Local Bus 3.0, 6.8.2 and 6.8.3.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "base/archive.h"
#include "devices/device.h"

namespace vireo {

// Where message-signalled interrupts go: a posted write of `data` to `address` in the interrupt window. Thread-safe.
class MsiSink {
 public:
  virtual ~MsiSink() = default;
  virtual void send(uint64_t address, uint32_t data) = 0;
};

class Msix {
 public:
  static constexpr unsigned kMaxVectors = 2048;
  static constexpr uint64_t kEntrySize = 16;

  Msix(unsigned vectors, MsiSink& sink);

  unsigned vectors() const { return static_cast<unsigned>(table_.size()); }
  uint64_t table_size() const { return table_.size() * kEntrySize; }
  uint64_t pba_size() const { return pending_.size() * 8; }

  // Thread-safe: sends the vector's message, or marks it pending while masked or while the function may not write to memory. Nothing happens
  // while MSI-X is off or the vector does not exist.
  void notify(unsigned vector);
  bool enabled() const;

  // Message control as the guest last wrote it: bit 15 enable, bit 14 function mask.
  void set_control(uint16_t control);
  // The command register's bit: a message is a write to memory of the function's own (PCI Express Base 5.0, 7.5.1.1.3).
  void set_bus_master(bool may);

  void read_table(Access access, std::span<std::byte> data) const;
  void write_table(Access access, std::span<const std::byte> data);
  void read_pba(Access access, std::span<std::byte> data) const;  // writes are ignored

  void reset();
  void fields(Archive& archive);  // numbers 200 to 202

 private:
  struct Entry {
    uint32_t address_low = 0;
    uint32_t address_high = 0;
    uint32_t data = 0;
    uint32_t control = 1;  // bit 0: masked
  };
  static_assert(sizeof(Entry) == kEntrySize);

  bool masked(unsigned vector) const;
  void flush_pending();

  mutable std::mutex mutex_;
  MsiSink& sink_;
  std::vector<Entry> table_;
  std::vector<uint64_t> pending_;
  uint16_t control_ = 0;
  bool bus_master_ = false;
};

}  // namespace vireo
