// SPDX-License-Identifier: Apache-2.0
// Making new qcow2 files, and telling beforehand how large one will be.
#pragma once

#include <memory>
#include <string>

#include "storage/crypto/luks.h"
#include "storage/image/image.h"
#include "storage/qcow2/header.h"

namespace vireo::storage::qcow2 {

struct CreateConfig {
  uint64_t size = 0;
  uint32_t version = 3;
  uint64_t cluster_size = 65536;
  bool extended_l2 = false;
  unsigned refcount_bits = 16;
  Compression compression = Compression::kZlib;
  bool lazy_refcounts = false;
  std::string backing_file, backing_format;
  std::string data_file;
  bool data_file_raw = false;
  Preallocation preallocation = Preallocation::kOff;
  Crypt crypt = Crypt::kNone;
  LuksOptions luks;
  std::optional<SecretBytes> secret;  // the password, with encryption
};

// What is wrong with it, before anything is written.
Result<> validate(const CreateConfig& config);
// Writes an empty image into `file`, which it takes as empty. Layout: header, refcount table, first refcount block, L1.
Result<> create(File& file, const CreateConfig& config);

// Bytes that a file needs for all its clusters; `data_clusters` of them have data.
uint64_t file_size_for(const CreateConfig& config, uint64_t data_clusters);

}  // namespace vireo::storage::qcow2
