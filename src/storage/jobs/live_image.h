// SPDX-License-Identifier: Apache-2.0
// The top of a running machine's disk: which image is the topmost can change under the guest, and watchers see its writes. Where
// nobody watches, calls go on to the image as they are.
#pragma once

#include <algorithm>
#include <vector>

#include "storage/image/image.h"
#include "storage/jobs/write_watcher.h"

namespace vireo::storage {

class LiveImage final : public Image {
 public:
  explicit LiveImage(std::shared_ptr<Image> top) : top_(std::move(top)) {}
  const std::shared_ptr<Image>& top() const { return top_; }

  // These only while no guest request is under way (LiveDisk::change).
  void set_top(std::shared_ptr<Image> top) { top_ = std::move(top); }
  void add(WriteWatcher& watcher) { watchers_.push_back(&watcher); }
  void remove(WriteWatcher& watcher) { std::erase(watchers_, &watcher); }
  // Reads from images below the top one are the formats' own: somebody writes there.
  void set_backing_changes(bool on) { backing_changes_ = on; }

  const char* format() const override { return top_->format(); }
  File& file() override { return top_->file(); }
  File& data_file() override { return top_->data_file(); }
  uint64_t size() const override { return top_->size(); }
  bool read_only() const override { return top_->read_only(); }
  uint64_t cluster_size() const override { return top_->cluster_size(); }
  uint64_t write_unit() const override { return top_->write_unit(); }
  Image* backing() override { return top_->backing(); }
  using Image::read;
  using Image::write;
  Result<> read(uint64_t offset, std::span<const iovec> to) override { return top_->read(offset, to); }
  Result<> write(uint64_t offset, std::span<const iovec> from) override;
  Result<> write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Result<> discard(uint64_t offset, uint64_t length) override;
  Result<> flush() override { return top_->flush(); }
  Result<Extent> status(uint64_t offset, uint64_t length) override { return top_->status(offset, length); }
  Result<> resize(uint64_t size, Preallocation preallocation) override { return top_->resize(size, preallocation); }
  Result<> close() override { return top_->close(); }
  bool locate(uint64_t offset, uint64_t length, bool for_write, std::vector<Segment>& out, Hold& hold) override;
  bool read_now(uint64_t offset, std::span<const iovec> to) override { return top_->read_now(offset, to); }
  uint64_t read_together() const override { return top_->read_together(); }

 private:
  Result<> watched(const Change& change);

  std::shared_ptr<Image> top_;
  std::vector<WriteWatcher*> watchers_;
  bool backing_changes_ = false;
};

}  // namespace vireo::storage
