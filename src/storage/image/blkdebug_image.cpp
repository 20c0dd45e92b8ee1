// SPDX-License-Identifier: Apache-2.0
#include "storage/image/blkdebug_image.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace vireo::storage {
namespace {

constexpr uint64_t kLargest = 1 << 30;

// In pieces that end at multiples of `most`.
Result<> in_pieces(uint64_t offset, uint64_t length, uint64_t most, const std::function<Result<>(uint64_t, uint64_t)>& act) {
  if (!most) return act(offset, length);
  for (uint64_t end = offset + length; offset < end;) {
    uint64_t n = std::min(end - offset, most - offset % most);
    TRY_VOID(act(offset, n));
    offset += n;
  }
  return {};
}

}  // namespace

Result<BlkdebugImage::Limits> BlkdebugImage::Limits::take(ImageSpec& spec) {
  Limits out;
  auto size = [&](const char* name) -> Result<uint64_t> { return (TRY(spec.take_size(name))).value_or(0); };
  out.align = TRY(size("align"));
  if (out.align && (out.align > kLargest || !std::has_single_bit(out.align)))
    return fail(ErrorKind::kInvalid, "Cannot meet constraints with align " + std::to_string(out.align), EINVAL);
  const uint64_t align = std::max<uint64_t>(out.align, 1);
  auto limit = [&](const char* name, uint64_t& to, uint64_t multiple_of) -> Result<> {
    to = TRY(size(name));
    if (to >= kLargest || to % multiple_of) return fail(ErrorKind::kInvalid, std::string("Cannot meet constraints with ") + name + " " + std::to_string(to), EINVAL);
    return {};
  };
  uint64_t& best_zero = out.best_write_zero;
  uint64_t best_discard = 0;
  TRY_VOID(limit("max-transfer", out.max_transfer, align));
  TRY_VOID(limit("opt-write-zero", best_zero, align));
  TRY_VOID(limit("max-write-zero", out.max_write_zero, std::max(best_zero, align)));
  TRY_VOID(limit("opt-discard", best_discard, align));
  TRY_VOID(limit("max-discard", out.max_discard, std::max(best_discard, align)));
  return out;
}

Result<> BlkdebugImage::check(IoType type, uint64_t offset, uint64_t length) {
  if (int code = rules_->check(type, offset, length)) return fail_errno("'" + name() + "'", code);
  return {};
}

Result<> BlkdebugImage::read(uint64_t offset, std::span<const iovec> to) {
  return in_pieces(offset, total(to), limits_.max_transfer, [&](uint64_t at, uint64_t n) -> Result<> {
    TRY_VOID(check(IoType::kRead, at, n));
    return image_->read(at, slice(to, at - offset, n));
  });
}

Result<> BlkdebugImage::write(uint64_t offset, std::span<const iovec> from) {
  return in_pieces(offset, total(from), limits_.max_transfer, [&](uint64_t at, uint64_t n) -> Result<> {
    TRY_VOID(check(IoType::kWrite, at, n));
    return image_->write(at, slice(from, at - offset, n));
  });
}

Result<> BlkdebugImage::write_compressed(uint64_t offset, std::span<const std::byte> data) {
  TRY_VOID(check(IoType::kWrite, offset, data.size()));
  return image_->write_compressed(offset, data);
}

Result<> BlkdebugImage::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  const uint64_t best = limits_.best_write_zero;
  return in_pieces(offset, length, limits_.max_write_zero ? limits_.max_write_zero : best, [&](uint64_t at, uint64_t n) -> Result<> {
    if (best && (at % best || n % best)) {  // less than what the disk zeroes in one go is written
      const std::vector<std::byte> zeroes(n);
      return write(at, std::span<const std::byte>(zeroes));
    }
    TRY_VOID(check(IoType::kWriteZeroes, at, n));
    return image_->write_zeroes(at, n, may_unmap);
  });
}

Result<> BlkdebugImage::discard(uint64_t offset, uint64_t length) {
  return in_pieces(offset, length, limits_.max_discard, [&](uint64_t at, uint64_t n) -> Result<> {
    TRY_VOID(check(IoType::kDiscard, at, n));
    return image_->discard(at, n);
  });
}

Result<> BlkdebugImage::flush() {
  TRY_VOID(check(IoType::kFlush, 0, size()));
  return image_->flush();
}

Result<Extent> BlkdebugImage::status(uint64_t offset, uint64_t length) {
  TRY_VOID(check(IoType::kBlockStatus, offset, length));
  return image_->status(offset, length);
}

}  // namespace vireo::storage
