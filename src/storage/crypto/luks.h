// SPDX-License-Identifier: Apache-2.0
// A LUKS1 volume's keys: the master key that encrypts the disk, locked into up to eight key slots by passwords. It lies at
// the start of a volume of its own, or in clusters of a qcow2 image. A key slot changes so that a power cut leaves it as it
// was or as it shall be. Spec: LUKS On-Disk Format Specification 1.2.3.
#pragma once

#include <memory>
#include <optional>

#include "storage/crypto/luks_header.h"
#include "storage/file/file.h"

namespace vireo::storage {

struct LuksOptions {
  std::string cipher = "aes-256", mode = "xts", ivgen, ivgen_hash, hash = "sha256";
  uint64_t iter_time = 2000;  // ms of processor time that opening shall cost
};

class Luks {
 public:
  // The header at `base`; it and its key material have `room` bytes at most.
  static Result<Luks> read(File& file, uint64_t base, uint64_t room);
  // A new volume with a key of its own; nothing is written yet.
  static Result<Luks> plan(const LuksOptions& options);
  // Header and the first key slot, in area_bytes() at `base`, all of which is written.
  Result<> create(File& file, uint64_t base, const SecretBytes& password, uint64_t iter_time);

  const LuksHeader& header() const { return header_; }
  uint64_t area_bytes() const;  // from the header to where data begins, for a volume made by plan()

  // Finds the key slot that the password opens.
  Result<> unlock(File& file, const SecretBytes& password);
  bool unlocked() const { return key_.size() != 0; }
  Result<std::unique_ptr<SectorCipher>> cipher() const;

  // Whether the password opens that slot.
  Result<bool> opens(File& file, size_t slot, const SecretBytes& password);
  Result<> set_slot(File& file, size_t slot, const SecretBytes& password, uint64_t iter_time);  // needs the master key
  Result<> erase_slot(File& file, size_t slot);

 private:
  Result<SecretBytes> key_in(File& file, size_t slot, const SecretBytes& password);

  LuksHeader header_;
  uint64_t base_ = 0;
  SecretBytes key_;
};

}  // namespace vireo::storage
