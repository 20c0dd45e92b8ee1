// SPDX-License-Identifier: Apache-2.0
// A qcow2 file made of arbitrary bytes: header, L1, L2, refcounts, snapshots, bitmaps and compressed data. It is checked,
// opened, read, and, on a copy, repaired, written and snapshotted. The input is a small image that is patched: records of
// {where (24 bits), length (8 bits), bytes}, so that the fuzzer gets deep from the first input on.
#include <cstdint>
#include <cstring>

#include "base/log.h"
#include "storage/file/memory_file.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/qcow2.h"

using namespace vireo;
using namespace vireo::storage;
using namespace vireo::storage::qcow2;

namespace {

constexpr uint64_t kSize = 1 << 20, kLargest = 8 << 20;

// A plain image with data, compressed clusters, zero clusters and a snapshot.
std::unique_ptr<MemoryFile> seed(bool extended, bool zstd) {
  auto file = std::make_unique<MemoryFile>();
  CreateConfig config{.size = kSize, .cluster_size = extended ? 16384u : 4096u, .extended_l2 = extended,
                      .compression = zstd ? Compression::kZstd : Compression::kZlib};
  if (!create(*file, config)) abort();
  MemoryFile* raw = file.get();
  auto image = Qcow2::open(std::move(file), nullptr, {});
  if (!image) abort();
  std::vector<std::byte> data(config.cluster_size, std::byte{1});
  (void)(*image)->write(0, data);
  (void)(*image)->write_compressed(config.cluster_size * 4, data);
  (void)(*image)->write_compressed(config.cluster_size * 5, data);
  (void)(*image)->create_snapshot("s", 0, 0);
  (void)(*image)->write(1000, data);
  (void)(*image)->write_zeroes(config.cluster_size * 9, config.cluster_size, false);
  (void)(*image)->close();
  return raw->copy();
}

void exercise(std::unique_ptr<MemoryFile> file, bool write) {
  OpenConfig config{.l2_cache = 1 << 16, .refcount_cache = 1 << 16};
  file->set_read_only(!write);
  MemoryFile* raw = file.get();
  // Tables can send writes anywhere; the disk under them is as large as this.
  raw->fault = [](MemoryFile::Op op, uint64_t offset, uint64_t length) {
    return op == MemoryFile::Op::kRead || op == MemoryFile::Op::kFlush || (offset < kLargest && length < kLargest - offset) ? 0 : ENOSPC;
  };
  auto image = Qcow2::open(std::move(file), nullptr, config);
  if (!image) return;
  const uint64_t size = std::min<uint64_t>((*image)->size(), 4 * kSize);
  std::vector<std::byte> data(70000);
  for (uint64_t at = 0; at < size; at += data.size()) {
    auto piece = std::span(data).first(std::min<uint64_t>(data.size(), size - at));
    (void)(*image)->read(at, piece);
    (void)(*image)->status(at, piece.size());
  }
  if (write && size > 0) {
    (void)(*image)->write(size / 3, std::span<const std::byte>(data).first(std::min<uint64_t>(size - size / 3, 9000)));
    (void)(*image)->write_zeroes(size / 2, size - size / 2, true);
    (void)(*image)->discard(0, size / 4);
    (void)(*image)->flush();
    (void)(*image)->create_snapshot("x", 0, 0);
    if (!(*image)->snapshots().empty() && (*image)->snapshots()[0].disk_size <= 4 * kSize) (void)(*image)->apply_snapshot(0);
    if (!(*image)->snapshots().empty()) (void)(*image)->delete_snapshot(0);
    (void)(*image)->close();
  }
  (*image)->abandon();
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
    for (int i = 0; i < 4; ++i) all.push_back(seed(i & 1, i & 2));
    return all;
  }();
  auto file = seeds[data[0] & 3]->copy();
  const unsigned what = data[0] >> 2 & 3;
  for (size_t at = 1; at + 4 <= size;) {
    uint64_t where = data[at] | data[at + 1] << 8 | (data[at + 2] & 3) << 16;
    size_t length = std::min<size_t>(data[at + 3], size - at - 4);
    std::vector<std::byte> bytes(length);
    memcpy(bytes.data(), data + at + 4, length);
    (void)file->write(where, bytes);
    at += 4 + length;
  }
  auto quiet = [](const std::string&) {};
  if (what == 0) (void)check(*file, Repair::kNone, quiet);
  if (what == 1) {
    MemoryFile* raw = file.get();
    raw->fault = [](MemoryFile::Op op, uint64_t offset, uint64_t length) {
      return op == MemoryFile::Op::kRead || op == MemoryFile::Op::kFlush || (offset < kLargest && length < kLargest - offset) ? 0 : ENOSPC;
    };
    (void)check(*file, Repair::kAll, quiet);
  }
  if (what == 2) exercise(std::move(file), false);
  if (what == 3) exercise(std::move(file), true);
  return 0;
}
