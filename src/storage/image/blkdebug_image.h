// SPDX-License-Identifier: Apache-2.0
// The same faults above a format, where a machine's or a tool's own requests meet them; and limits on requests' sizes.
#pragma once

#include "storage/file/blkdebug_rules.h"
#include "storage/image/filter_image.h"

namespace vireo::storage {

class BlkdebugImage final : public FilterImage {
 public:
  struct Limits {  // bytes; 0: none
    uint64_t align = 0, max_transfer = 0, best_write_zero = 0, max_write_zero = 0, max_discard = 0;
    // align, max-transfer, opt-write-zero, max-write-zero, opt-discard, max-discard
    static Result<Limits> take(ImageSpec& spec);
  };
  BlkdebugImage(std::shared_ptr<Image> image, std::unique_ptr<BlkdebugRules> rules, Limits limits) : FilterImage(std::move(image)), rules_(std::move(rules)), limits_(limits) {}
  BlkdebugRules& rules() { return *rules_; }

  const char* format() const override { return "blkdebug"; }
  using Image::read;
  using Image::write;
  Result<> read(uint64_t offset, std::span<const iovec> to) override;
  Result<> write(uint64_t offset, std::span<const iovec> from) override;
  Result<> write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Result<> write_compressed(uint64_t offset, std::span<const std::byte> data) override;
  Result<> discard(uint64_t offset, uint64_t length) override;
  Result<> flush() override;
  Result<Extent> status(uint64_t offset, uint64_t length) override;

 private:
  Result<> check(IoType type, uint64_t offset, uint64_t length);

  std::unique_ptr<BlkdebugRules> rules_;
  Limits limits_;
};

}  // namespace vireo::storage
