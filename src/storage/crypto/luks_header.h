// SPDX-License-Identifier: Apache-2.0
// The header of a LUKS1 volume: what it says, bounded before anybody uses it.
// Spec: LUKS On-Disk Format Specification 1.2.3, figure 1 and 2.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "storage/crypto/sector_cipher.h"

namespace vireo::storage {

struct LuksSlot {
  bool active = false;
  uint32_t iterations = 0;
  std::array<std::byte, 32> salt{};
  uint32_t offset = 0;  // of the key material, in sectors from the header
  uint32_t stripes = 0;
};

struct LuksHeader {
  static constexpr size_t kBytes = 592, kSlots = 8, kDigest = 20;
  static constexpr size_t kSlotAt = 208, kSlotBytes = 48, kMasterDigestAt = 112;
  static constexpr uint32_t kStripes = 4000;
  // A header could ask for hours; this is minutes of one processor.
  static constexpr uint32_t kMostIterations = 1u << 28;

  CipherSpec spec;
  std::string hash = "sha256", uuid;
  uint32_t payload = 0;  // sectors from the header on
  uint32_t key_bytes = 0;
  std::array<std::byte, kDigest> digest{};
  std::array<std::byte, 32> salt{};
  uint32_t iterations = 0;
  std::array<LuksSlot, kSlots> slots{};

  uint64_t material_bytes() const { return uint64_t{key_bytes} * kStripes; }
  std::string mode_text() const;  // "xts-plain64"
  std::string cipher_text() const;  // "aes-256"

  // `room`: bytes that belong to the header and its key material at most.
  static Result<LuksHeader> parse(std::span<const std::byte> raw, uint64_t room);
  std::array<std::byte, kBytes> serialize() const;
  std::array<std::byte, kSlotBytes> serialize_slot(size_t index) const;
};

bool is_luks(std::span<const std::byte> start);  // of version 1

}  // namespace vireo::storage
