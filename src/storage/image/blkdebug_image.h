// SPDX-License-Identifier: Apache-2.0
// The same faults above a format, where a machine's or a tool's own requests meet them; and limits on requests' sizes.
#pragma once

#include "storage/file/blkdebug_rules.h"
#include "storage/image/image.h"

namespace vireo::storage {

class BlkdebugImage final : public Image {
 public:
  struct Limits {  // bytes; 0: none
    uint64_t align = 0, max_transfer = 0, best_write_zero = 0, max_write_zero = 0, max_discard = 0;
    // align, max-transfer, opt-write-zero, max-write-zero, opt-discard, max-discard
    static Result<Limits> take(ImageSpec& spec);
  };
  BlkdebugImage(std::shared_ptr<Image> image, std::unique_ptr<BlkdebugRules> rules, Limits limits) : image_(std::move(image)), rules_(std::move(rules)), limits_(limits) {}
  BlkdebugRules& rules() { return *rules_; }

  const char* format() const override { return "blkdebug"; }
  File& file() override { return image_->file(); }
  File& data_file() override { return image_->data_file(); }
  uint64_t size() const override { return image_->size(); }
  bool read_only() const override { return image_->read_only(); }
  uint64_t cluster_size() const override { return image_->cluster_size(); }
  uint64_t write_unit() const override { return image_->write_unit(); }
  Image* backing() override { return image_->backing(); }
  void set_backing(std::shared_ptr<Image> backing) override { image_->set_backing(std::move(backing)); }
  using Image::read;
  using Image::write;
  Result<> read(uint64_t offset, std::span<const iovec> to) override;
  Result<> write(uint64_t offset, std::span<const iovec> from) override;
  Result<> write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Result<> write_compressed(uint64_t offset, std::span<const std::byte> data) override;
  Result<> discard(uint64_t offset, uint64_t length) override;
  Result<> flush() override;
  Result<Extent> status(uint64_t offset, uint64_t length) override;
  Result<> resize(uint64_t size, Preallocation preallocation) override { return image_->resize(size, preallocation); }
  Result<> close() override { return image_->close(); }

 private:
  Result<> check(IoType type, uint64_t offset, uint64_t length);

  std::shared_ptr<Image> image_;
  std::unique_ptr<BlkdebugRules> rules_;
  Limits limits_;
};

}  // namespace vireo::storage
