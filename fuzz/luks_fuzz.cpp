// SPDX-License-Identifier: Apache-2.0
// LUKS headers made of arbitrary bytes: a small good volume that is patched by records of {where (16 bits), length (8 bits),
// bytes}. It is parsed, opened with the right password, read, written, and its key slots are changed.
#include <cstdint>
#include <cstring>

#include "base/log.h"
#include "storage/file/memory_file.h"
#include "storage/image/luks_image.h"

using namespace vireo;
using namespace vireo::storage;

namespace {

constexpr uint64_t kSize = 8 << 10;

std::unique_ptr<MemoryFile> seed() {
  auto file = std::make_unique<MemoryFile>();
  LuksOptions options{.cipher = "aes-128", .mode = "cbc", .ivgen = {}, .ivgen_hash = {}, .hash = "sha1", .iter_time = 0};
  if (!LuksImage::create(*file, kSize, options, SecretBytes(std::string("p")), Preallocation::kOff)) abort();
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  set_log_level(LogLevel::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto good = seed();
  if (size < 1) return 0;
  auto file = good->copy();
  const bool change = data[0] & 1;
  for (size_t at = 1; at + 3 <= size;) {
    uint64_t where = data[at] | (data[at + 1] & 3) << 8;
    size_t length = std::min<size_t>(data[at + 2], size - at - 3);
    std::vector<std::byte> bytes(length);
    if (length) memcpy(bytes.data(), data + at + 3, length);
    (void)file->write(where, bytes);
    at += 3 + length;
  }
  auto header = Luks::read(*file, 0, file->size());
  if (!header) return 0;
  // What is valid comes out as it went in, but for bytes that mean nothing.
  auto raw = header->header().serialize();
  auto again = LuksHeader::parse(raw, file->size());
  if (!again || again->serialize() != raw) abort();
  // Many iterations are allowed and slow: not here.
  uint64_t work = header->header().iterations;
  for (const LuksSlot& s : header->header().slots) work += s.active ? s.iterations : 0;
  SecretBytes password(std::string("p"));
  auto image = LuksImage::open(std::move(file), work < 20000 ? std::optional(password) : std::nullopt);
  if (!image) return 0;
  std::vector<std::byte> bytes(std::min<uint64_t>((*image)->size(), 3000));
  (void)(*image)->read(0, bytes);
  (void)(*image)->write((*image)->size() - bytes.size(), std::span<const std::byte>(bytes));
  if (change && (*image)->luks().unlocked()) {
    (void)(*image)->luks().set_slot((*image)->file(), data[0] >> 1 & 7, password, 0);
    (void)(*image)->luks().erase_slot((*image)->file(), data[0] >> 4 & 7);
  }
  return 0;
}
