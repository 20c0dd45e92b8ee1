// SPDX-License-Identifier: Apache-2.0
// A qcow2 file made of arbitrary bytes: header, L1, L2, refcounts, snapshots, bitmaps and compressed data. It is checked,
// opened, read, and, on a copy, repaired, written and snapshotted. The input is a small image that is patched: records of
// {where (24 bits), length (8 bits), bytes}, so that the fuzzer gets deep from the first input on. Its first byte says which
// image (bits 0, 1, 4, 5), what is done (2, 3) and whether there is an external data file (6).
#include <cstdint>
#include <cstring>

#include "base/log.h"
#include "qcow2_exercise.h"
#include "storage/qcow2/create.h"

using namespace vireo;
using namespace vireo::storage;
using namespace vireo::storage::qcow2;

namespace {

struct Kind {
  bool extended, zstd, bitmaps, narrow;
};

// An image with data, compressed clusters, zero clusters and snapshots, one of them with a machine's state.
std::unique_ptr<MemoryFile> seed(Kind kind) {
  auto file = std::make_unique<MemoryFile>();
  CreateConfig config{.size = kFuzzDisk, .cluster_size = kind.extended ? 16384u : 4096u, .extended_l2 = kind.extended,
                      .refcount_bits = kind.narrow ? 4u : 16u, .compression = kind.zstd ? Compression::kZstd : Compression::kZlib,
                      .lazy_refcounts = kind.narrow};
  if (!create(*file, config)) abort();
  MemoryFile* raw = file.get();
  auto image = Qcow2::open(std::move(file), nullptr, {});
  if (!image) abort();
  std::vector<std::byte> data(config.cluster_size, std::byte{1});
  (void)(*image)->write(0, data);
  if (kind.bitmaps && (!(*image)->add_bitmap("all", 9, true) || !(*image)->add_bitmap("off", 16, false) || !(*image)->add_bitmap("c", 12, true))) abort();
  (void)(*image)->write_compressed(config.cluster_size * 4, data);
  (void)(*image)->write_compressed(config.cluster_size * 5, data);
  if (kind.narrow) (void)(*image)->write_vm_state(0, std::span<const std::byte>(data).first(3000));
  if (!(*image)->create_snapshot("s", 0, 0)) abort();
  (void)(*image)->write(1000, data);
  if (!(*image)->create_snapshot("second", 1, 2)) abort();
  (void)(*image)->write_zeroes(config.cluster_size * 9, config.cluster_size, false);
  if (!(*image)->close()) abort();
  return raw->copy();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  set_log_level(LogLevel::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  static const auto seeds = [] {
    std::vector<std::unique_ptr<MemoryFile>> all;
    for (int i = 0; i < 16; ++i) all.push_back(seed({.extended = (i & 1) != 0, .zstd = (i & 2) != 0, .bitmaps = (i & 4) != 0, .narrow = (i & 8) != 0}));
    return all;
  }();
  auto file = seeds[(data[0] & 3) | (data[0] >> 2 & 12)]->copy();
  for (size_t at = 1; at + 4 <= size;) {
    uint64_t where = data[at] | data[at + 1] << 8 | (data[at + 2] & 3) << 16;
    size_t length = std::min<size_t>(data[at + 3], size - at - 4);
    std::vector<std::byte> bytes(length);
    if (length) memcpy(bytes.data(), data + at + 4, length);
    (void)file->write(where, bytes);
    at += 4 + length;
  }
  try_image(std::move(file), data[0] >> 2 & 3, data[0] & 0x40);
  return 0;
}
