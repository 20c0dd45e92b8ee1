// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/copy.h"

#include <algorithm>

namespace vireo::storage {
namespace {

std::unexpected<CopyError> failed(Error error, bool reading) { return std::unexpected(CopyError{std::move(error), reading}); }

}  // namespace

std::expected<void, CopyError> Copier::copy(uint64_t offset, uint64_t length, bool overwrite) {
  const uint64_t end = std::min(offset + length, to_.size());
  for (uint64_t at = offset; at < end;) {
    uint64_t n = end - at;
    bool zero = false;
    if (at >= from_.size()) {
      zero = true;
    } else {
      auto here = status_above(from_, nullptr, at, std::min(n, from_.size() - at));
      if (!here) return failed(std::move(here).error(), true);
      n = std::min(n, std::max<uint64_t>(here->length, 1));
      zero = here->zero || !here->allocated;
    }
    if (zero && !explicit_zeroes_) {
      if (overwrite || !zero_target_)
        if (auto done = to_.write_zeroes(at, n, true); !done) return failed(std::move(done).error(), false);
    } else {
      n = std::min<uint64_t>(n, 4 << 20);
      if (buffer_.size() < n) buffer_.resize(n);
      const std::span<std::byte> bytes(buffer_.data(), n);
      const iovec one = part(bytes.data(), n);
      if (auto done = read_padded(&from_, at, {&one, 1}); !done) return failed(std::move(done).error(), true);
      if (auto done = to_.write(at, std::span<const std::byte>(bytes)); !done) return failed(std::move(done).error(), false);
    }
    at += n;
  }
  return {};
}

std::expected<void, CopyError> Copier::compress(uint64_t offset, uint64_t length) {
  const uint64_t n = std::min(offset + length, to_.size()) - offset;
  if (buffer_.size() < n) buffer_.resize(n);
  const iovec one = part(buffer_.data(), n);
  if (auto done = read_padded(&from_, offset, {&one, 1}); !done) return failed(std::move(done).error(), true);
  if (zero_target_ && all_zero(buffer_.data(), n)) return {};
  if (auto done = to_.write_compressed(offset, std::span<const std::byte>(buffer_.data(), n)); !done) return failed(std::move(done).error(), false);
  return {};
}

}  // namespace vireo::storage
