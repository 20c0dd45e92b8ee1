// SPDX-License-Identifier: Apache-2.0
// The images of model_test.cpp: which features are drawn together, and every combination of features that an image can have.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "storage/qcow2/create.h"

namespace vireo::storage::qcow2::model {

using Random = std::mt19937_64;
constexpr uint64_t kUnit = 512;  // the model's grain

struct Case {
  CreateConfig create;
  bool backing = false;
  bool reserves_ahead = false;
  bool snapshots = false, snapshot_heavy = false, bitmaps = false;
};

// A small key, whose key slots do not make the file a thousand times the disk.
inline void encrypt(Case& c, Crypt crypt) {
  c.create.crypt = crypt;
  c.create.luks = {.cipher = "aes-128", .mode = "cbc", .ivgen = {}, .ivgen_hash = {}, .hash = "sha256", .iter_time = 0};
  c.create.secret = SecretBytes(std::string("secret"));
}

inline Case random_case(Random& r) {
  Case c;
  c.create.version = r() % 5 ? 3 : 2;
  c.create.cluster_size = 512ull << r() % 8;
  if (c.create.version == 3) {
    c.create.refcount_bits = 1u << r() % 7;
    c.create.lazy_refcounts = r() % 4 == 0;
    c.create.compression = r() % 2 ? Compression::kZstd : Compression::kZlib;
    if (r() % 4 == 0) {
      c.create.extended_l2 = true;
      c.create.cluster_size = 16384ull << r() % 2;
    }
  }
  uint64_t clusters = c.create.cluster_size >= 16384 ? 6 + r() % 20 : 40 + r() % 200;
  c.create.size = clusters * c.create.cluster_size - (r() % 3 == 0 ? kUnit * (r() % (c.create.cluster_size / kUnit)) : 0);
  c.backing = r() % 2;
  c.reserves_ahead = r() % 2;
  if (r() % 4 == 0) {
    // Many refcount blocks, so that making them and growing their table is part of it.
    c.create.cluster_size = 512;
    c.create.extended_l2 = false;
    if (c.create.version == 3) c.create.refcount_bits = 64;
    c.create.size = 512 * (300 + r() % 3000);
  }
  c.snapshots = c.create.refcount_bits > 1 && r() % 2;
  c.snapshot_heavy = r() % 2;
  if (c.backing) c.create.backing_file = "base";
  if (unsigned crypt = r() % 10; crypt < 2) encrypt(c, crypt ? Crypt::kLuks : Crypt::kAes);
  c.bitmaps = c.create.version == 3 && r() % 3 == 0;
  return c;
}

// What an image has, but for sizes.
struct Features {
  unsigned version = 3, refcount_bits = 16;
  bool zstd = false, lazy = false, extended = false, backing = false, snapshots = false, bitmaps = false;
  bool data_file = false, data_file_raw = false;
  Crypt crypt = Crypt::kNone;

  std::string text() const {
    std::string out = "v" + std::to_string(version) + " refcount_bits=" + std::to_string(refcount_bits);
    auto add = [&](bool on, const char* name) { out += on ? std::string(" ") + name : std::string(); };
    add(zstd, "zstd"), add(lazy, "lazy"), add(extended, "extended_l2"), add(backing, "backing"), add(snapshots, "snapshots"), add(bitmaps, "bitmaps");
    add(data_file, data_file_raw ? "data_file_raw" : "data_file"), add(crypt == Crypt::kAes, "aes"), add(crypt == Crypt::kLuks, "luks");
    return out;
  }
};

// All that go together. Compression's kind counts where clusters can be compressed: in no encrypted image, and in none with a data file.
inline std::vector<Features> all_features() {
  std::vector<Features> out;
  for (Crypt crypt : {Crypt::kNone, Crypt::kAes, Crypt::kLuks})
    for (bool backing : {false, true}) {
      for (bool snapshots : {false, true}) out.push_back({.version = 2, .backing = backing, .snapshots = snapshots, .crypt = crypt});
      for (unsigned order = 0; order <= 6; ++order)
        for (unsigned flags = 0; flags < 32; ++flags)
          for (unsigned data = 0; data < 3; ++data) {
            Features f{.refcount_bits = 1u << order, .zstd = (flags & 1) != 0, .lazy = (flags & 2) != 0, .extended = (flags & 4) != 0, .backing = backing,
                       .snapshots = (flags & 8) != 0, .bitmaps = (flags & 16) != 0, .data_file = data > 0, .data_file_raw = data == 2, .crypt = crypt};
            if (f.zstd && (crypt != Crypt::kNone || data)) continue;
            if (f.snapshots && (order == 0 || data)) continue;
            if (f.data_file_raw && (backing || crypt != Crypt::kNone)) continue;
            out.push_back(f);
          }
    }
  return out;
}

inline Case case_of(const Features& f, Random& r) {
  Case c;
  c.create.version = f.version;
  c.create.refcount_bits = f.refcount_bits;
  c.create.compression = f.zstd ? Compression::kZstd : Compression::kZlib;
  c.create.lazy_refcounts = f.lazy;
  c.create.extended_l2 = f.extended;
  c.create.cluster_size = f.extended ? 16384ull << r() % 2 : 512ull << r() % 8;
  uint64_t clusters = c.create.cluster_size >= 16384 ? 6 + r() % 20 : 40 + r() % 200;
  if (!f.extended && r() % 4 == 0) c.create.cluster_size = 512, clusters = 300 + r() % 3000;
  c.create.size = clusters * c.create.cluster_size - (r() % 3 == 0 ? kUnit * (r() % (c.create.cluster_size / kUnit)) : 0);
  c.backing = f.backing;
  if (c.backing) c.create.backing_file = "base";
  c.reserves_ahead = r() % 2;
  c.snapshots = f.snapshots;
  c.snapshot_heavy = r() % 2;
  c.bitmaps = f.bitmaps;
  if (f.data_file) c.create.data_file = "data", c.create.data_file_raw = f.data_file_raw;
  if (f.crypt != Crypt::kNone) encrypt(c, f.crypt);
  return c;
}

}  // namespace vireo::storage::qcow2::model
