// SPDX-License-Identifier: Apache-2.0
// What both qcow2 targets do to a file whose every byte may be hostile: check it, open it and look at all that it has, and,
// on an image that may be written, repair, write, take and drop snapshots, and work on its dirty bitmaps.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "storage/file/memory_file.h"
#include "storage/image/raw_image.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

inline constexpr uint64_t kFuzzDisk = 1 << 20, kLargestFile = 8 << 20;

// Tables can send writes anywhere; the disk under them is as large as this.
inline void bound(MemoryFile& file) {
  file.fault = [](MemoryFile::Op op, uint64_t offset, uint64_t length) {
    return op == MemoryFile::Op::kRead || op == MemoryFile::Op::kFlush || (offset < kLargestFile && length < kLargestFile - offset) ? 0 : ENOSPC;
  };
}

inline void look_at_bitmaps(Qcow2& image) {
  for (const Bitmap& bitmap : image.bitmaps()) {
    auto bits = image.bitmap_bits(bitmap.name);
    if (!bits) continue;
    uint64_t at = 0;
    for (int runs = 0; runs < 1000 && at < (*bits)->disk_size(); ++runs) {
      const uint64_t length = (*bits)->run(at).length;
      if (length == 0) __builtin_trap();
      at += length;
    }
    (void)(*bits)->dirty_bytes();
  }
}

inline void change_bitmaps(Qcow2& image) {
  std::vector<std::string> names;
  for (const Bitmap& bitmap : image.bitmaps()) names.push_back(bitmap.name);
  for (size_t i = 0; i < names.size() && i < 4; ++i) {
    if (i == 0) (void)image.enable_bitmap(names[i], !image.bitmaps()[i].enabled());
    if (i == 1) (void)image.remove_bitmap(names[i]);
    auto from = i == 2 ? image.bitmap_bits(names[0]) : std::unexpected(Error{});
    auto to = i > 1 ? image.edit_bitmap(names[i]) : std::unexpected(Error{});
    if (to && from && (*to)->disk_size() == (*from)->disk_size()) (*to)->merge(**from);
    if (to && i == 3) (*to)->clear();
  }
  (void)image.add_bitmap("new", 16, true);
}

inline void exercise(std::unique_ptr<MemoryFile> file, bool write, bool data_file) {
  file->set_read_only(!write);
  bound(*file);
  std::unique_ptr<MemoryFile> data;
  if (data_file) {
    data = std::make_unique<MemoryFile>("data");
    bound(*data);
    data->set_read_only(!write);
  }
  auto opened = Qcow2::open(std::move(file), std::move(data), {.l2_cache = 1 << 16, .refcount_cache = 1 << 16, .secret = SecretBytes(std::string("p"))});
  if (!opened) return;
  Qcow2& image = **opened;
  if (image.header().has_backing) image.set_backing(std::make_shared<RawImage>(std::make_unique<MemoryFile>("base")));
  const uint64_t size = std::min<uint64_t>(image.size(), 4 * kFuzzDisk);
  std::vector<std::byte> bytes(70000);
  for (uint64_t at = 0; at < size; at += bytes.size()) {
    auto piece = std::span(bytes).first(std::min<uint64_t>(bytes.size(), size - at));
    (void)image.read(at, piece);
    for (uint64_t from = at; from < at + piece.size();) {
      auto extent = image.status(from, at + piece.size() - from);
      if (!extent) break;
      if (extent->length == 0 || extent->length > at + piece.size() - from) __builtin_trap();
      from += extent->length;
    }
  }
  (void)image.read_vm_state(0, std::span(bytes).first(5000));
  look_at_bitmaps(image);
  if (write && size > 0) {
    const std::span<const std::byte> some(bytes);
    (void)image.write(size / 3, some.first(std::min<uint64_t>(size - size / 3, 9000)));
    (void)image.write_zeroes(size / 2, size - size / 2, true);
    (void)image.discard(0, size / 4);
    const uint64_t cluster = image.cluster_size();
    if (cluster <= bytes.size()) (void)image.write_compressed(size / 2 / cluster * cluster, some.first(std::min(cluster, size - size / 2 / cluster * cluster)));
    (void)image.flush();
    change_bitmaps(image);
    (void)image.create_snapshot("x", 0, 0);
    if (!image.snapshots().empty() && image.snapshots()[0].disk_size <= 4 * kFuzzDisk) (void)image.apply_snapshot(0);
    (void)image.write(size / 5, some.first(std::min<uint64_t>(size - size / 5, 600)));
    if (!image.snapshots().empty()) (void)image.delete_snapshot(0);
    if (image.size() <= 4 * kFuzzDisk) (void)image.resize(image.size() + cluster, Preallocation::kOff);
    (void)image.close();
  } else if (!write && !image.snapshots().empty()) {
    // What a snapshot holds is read as the disk is.
    if (image.show_snapshot(image.snapshots().size() - 1))
      (void)image.read(0, std::span(bytes).first(std::min<uint64_t>(image.size(), bytes.size())));
  }
  image.abandon();
}

// `what`: one of the four things that can be done.
inline void try_image(std::unique_ptr<MemoryFile> file, unsigned what, bool data_file) {
  auto quiet = [](const std::string&) {};
  if (what == 0) (void)check(*file, Repair::kNone, quiet);
  if (what == 1) {
    bound(*file);
    (void)check(*file, Repair::kAll, quiet);
  }
  if (what >= 2) exercise(std::move(file), what == 3, data_file);
}

}  // namespace vireo::storage::qcow2
