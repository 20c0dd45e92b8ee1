// SPDX-License-Identifier: Apache-2.0
// The header of a qcow2 image: all fields, the header extensions (unknown ones kept byte for byte), the backing file's
// name. Spec: "Header" and "Header extensions". Every value is bounded here, before anybody uses it.
#pragma once

#include <string>
#include <vector>

#include "storage/file/file.h"
#include "storage/qcow2/layout.h"

namespace vireo::storage::qcow2 {

struct Extension {
  uint32_t type = 0;
  std::vector<std::byte> data;
};

struct Header {
  uint32_t version = 3;
  Geometry geometry;
  uint64_t size = 0;
  Crypt crypt = Crypt::kNone;
  uint32_t l1_size = 0;
  uint64_t l1_offset = 0;
  uint64_t reftable_offset = 0;
  uint32_t reftable_clusters = 0;
  uint32_t snapshot_count = 0;
  uint64_t snapshots_offset = 0;
  uint64_t incompatible = 0, compatible = 0, autoclear = 0;
  Compression compression = Compression::kZlib;
  std::vector<std::byte> unknown;  // header bytes after those we know
  std::vector<Extension> extensions;
  std::string backing_file;
  bool has_backing = false;

  bool extended_l2() const { return incompatible & incompatible::kExtendedL2; }
  bool has_data_file() const { return incompatible & incompatible::kDataFile; }
  bool data_file_raw() const { return autoclear & autoclear::kRawData; }
  bool lazy_refcounts() const { return compatible & compatible::kLazyRefcounts; }
  const Extension* find(uint32_t type) const;
  void set(uint32_t type, std::vector<std::byte> data);  // empty data removes it
  std::string text(uint32_t type) const;                 // of an extension that is a string
  std::string backing_format() const { return text(extension::kBackingFormat); }
  std::string data_file_name() const { return text(extension::kDataFile); }


  // Reads and checks.
  // `any_snapshots`: even more of them than there may be.
  static Result<Header> read(File& file, bool any_snapshots = false);
  // Header, extensions and backing name as they lie in the first cluster; fails when they do not fit in it.
  Result<std::vector<std::byte>> serialize() const;
  static std::vector<std::byte> feature_names();
};

bool is_qcow2(std::span<const std::byte> start);

}  // namespace vireo::storage::qcow2
