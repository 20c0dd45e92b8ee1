// SPDX-License-Identifier: Apache-2.0
#include "storage/image/luks_image.h"

#include <algorithm>

#include "storage/crypto/encrypted_io.h"
#include "storage/image/raw_image.h"

namespace vireo::storage {

constexpr uint64_t kSector = SectorCipher::kSector;

Result<std::unique_ptr<LuksImage>> LuksImage::open(std::unique_ptr<File> file, const std::optional<SecretBytes>& password) {
  Luks luks = TRY(Luks::read(*file, 0, file->size()));
  const LuksHeader& h = luks.header();
  // Data over key material would destroy the key.
  for (const LuksSlot& s : h.slots)
    if (h.payload < s.offset + (h.material_bytes() + 511) / 512) return fail(ErrorKind::kCorrupt, "LUKS header: the data begins inside of the key material", EINVAL);
  if (uint64_t{h.payload} * 512 > file->size()) return fail(ErrorKind::kCorrupt, "LUKS header: the data begins behind the end of the file", EINVAL);
  std::unique_ptr<LuksImage> out(new LuksImage(std::move(file), std::move(luks)));
  out->size_ = (out->file_->size() - out->payload()) / kSector * kSector;
  if (password) {
    TRY_VOID(out->luks_.unlock(*out->file_, *password));
    out->cipher_ = TRY(out->luks_.cipher());
  }
  return out;
}

Result<> LuksImage::create(File& file, uint64_t size, const LuksOptions& options, const SecretBytes& password, Preallocation preallocation) {
  Luks luks = TRY(Luks::plan(options));
  if (size > INT64_MAX - luks.area_bytes()) return fail(ErrorKind::kInvalid, "The requested file size is too large", EFBIG);
  TRY_VOID(luks.create(file, 0, password, options.iter_time));
  TRY_VOID(grow_file(file, luks.area_bytes(), luks.area_bytes() + size, preallocation));
  return file.flush();
}

Result<> LuksImage::check(uint64_t offset, uint64_t length) const {
  if (!cipher_) return fail(ErrorKind::kInvalid, "'" + file_->name() + "' is encrypted and was opened without a key", EPERM);
  if (offset > size_ || length > size_ - offset) return fail(ErrorKind::kInvalid, "access past the end of the image", EIO);
  return {};
}

Result<> LuksImage::read(uint64_t offset, std::span<const iovec> to) {
  TRY_VOID(check(offset, total(to)));
  return read_encrypted(*file_, *cipher_, payload() + offset, offset / kSector, to);
}

Result<> LuksImage::write(uint64_t offset, std::span<const iovec> from) {
  const uint64_t length = total(from);
  TRY_VOID(check(offset, length));
  if (length == 0) return {};
  uint64_t lead = offset % kSector, end = offset + length, trail = (kSector - end % kSector) % kSector;
  if (!lead && !trail) return write_encrypted(*file_, *cipher_, payload() + offset, offset / kSector, from);
  std::lock_guard lock(partial_);
  std::byte before[kSector], after[kSector];
  Parts all;
  if (lead) {
    TRY_VOID(Image::read(offset - lead, std::span(before).first(lead)));
    all.push_back(part(before, lead));
  }
  all.insert(all.end(), from.begin(), from.end());
  if (trail) {
    TRY_VOID(Image::read(end, std::span(after).first(trail)));
    all.push_back(part(after, trail));
  }
  return write_encrypted(*file_, *cipher_, payload() + offset - lead, (offset - lead) / kSector, all);
}

// Zeroes of the disk are no zeroes of the file.
Result<> LuksImage::write_zeroes(uint64_t offset, uint64_t length, bool) {
  static const std::vector<std::byte> zeroes(1 << 20);
  for (uint64_t done = 0; done < length; done += zeroes.size())
    TRY_VOID(write(offset + done, std::span(zeroes).first(std::min<uint64_t>(zeroes.size(), length - done))));
  return {};
}

Result<Extent> LuksImage::status(uint64_t, uint64_t length) { return Extent{.length = length, .allocated = true, .data = true}; }

Result<> LuksImage::resize(uint64_t size, Preallocation preallocation) {
  if (size > INT64_MAX - payload()) return fail(ErrorKind::kInvalid, "Image size too large", EFBIG);
  if (size > size_) TRY_VOID(grow_file(*file_, payload() + size_, payload() + size, preallocation));
  else TRY_VOID(file_->truncate(payload() + size));
  size_ = size;
  return {};
}

}  // namespace vireo::storage
