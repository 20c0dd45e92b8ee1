// SPDX-License-Identifier: Apache-2.0
// The firmware configuration device: numbered items of bytes that the machine tells the guest, some of them files with names. Ports 0x510
// (selector), 0x511 (data) and 0x514 to 0x51b (DMA). Everything behind the selector is the guest's choice and bounded here.
// Spec: the fw_cfg device interface as documented with the QEMU project (docs/specs/fw_cfg).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "devices/device.h"

namespace vireo {

class FwCfg final : public Device {
 public:
  static constexpr uint64_t kPorts = 12;
  static constexpr uint64_t kSelector = 0, kData = 1, kDma = 4;
  static constexpr uint16_t kSignature = 0x00, kId = 0x01, kRamSize = 0x03, kCpuCount = 0x05, kKernelAddress = 0x07, kKernelSize = 0x08,
                            kInitrdAddress = 0x0a, kInitrdSize = 0x0b, kBootMenu = 0x0e, kMaxCpus = 0x0f, kKernelData = 0x11, kInitrdData = 0x12,
                            kCommandLineAddress = 0x13, kCommandLineSize = 0x14, kCommandLineData = 0x15, kSetupAddress = 0x16,
                            kSetupSize = 0x17, kSetupData = 0x18, kFileDirectory = 0x19, kFirstFile = 0x20, kIrq0Override = 0x8002;
  static constexpr size_t kMostFiles = 0x100, kNameRoom = 56;
  // Guest memory for the DMA interface; without it there is none. False: not all of it is memory.
  struct Pins {
    std::function<bool(uint64_t address, std::span<std::byte>)> read_memory;
    std::function<bool(uint64_t address, std::span<const std::byte>)> write_memory;
  };

  explicit FwCfg(Pins pins = {});

  template <class T>
  void set(uint16_t key, T value) {
    auto bytes = std::as_bytes(std::span(&value, 1));
    set_bytes(key, {bytes.begin(), bytes.end()});
  }
  void set_bytes(uint16_t key, std::vector<std::byte> bytes);
  // Bytes that live elsewhere, for longer than the device.
  void set_view(uint16_t key, std::span<const std::byte> bytes);
  // A file in the directory, or its new contents. Names are at most 55 bytes.
  void set_file(const std::string& name, std::vector<std::byte> bytes);
  // ... that the guest may write over, by DMA, byte for byte.
  void set_writable_file(const std::string& name, std::vector<std::byte> bytes);
  // What a file holds now.
  std::span<const std::byte> file(const std::string& name) const;
  // `renew` is called when the guest selects one of `files`, and may set them anew (not longer or shorter: the guest has read the directory).
  void renew_before(const std::vector<std::string>& files, const std::function<void()>& renew);

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

 private:
  struct Item {
    std::vector<std::byte> own;
    std::span<const std::byte> bytes;
    std::function<void()> renew = {};
    bool writable = false;
  };
  void select(uint16_t key);
  void write_directory();
  void transfer(uint64_t control_block);
  bool copy(uint64_t address, uint64_t size);
  bool take(uint64_t address, uint64_t size);

  Pins pins_;
  std::map<uint16_t, Item> items_;
  std::map<std::string, uint16_t> files_;
  uint16_t selected_ = 0;
  uint64_t at_ = 0;
  uint32_t dma_high_ = 0;
};

}  // namespace vireo
