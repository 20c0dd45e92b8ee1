// SPDX-License-Identifier: Apache-2.0
// A disk in memory whose requests end when the test wants, and fail when it says so.
#pragma once

#include <cerrno>
#include <cstring>
#include <vector>

#include "storage/block_device.h"

namespace vireo::virtio {

class FakeDisk final : public storage::BlockDevice {
 public:
  struct Controls {
    std::vector<std::byte> bytes;
    bool read_only = false;
    int error = 0;       // what every request ends with
    bool hold = false;   // submit() ends nothing
    unsigned reads = 0, writes = 0, flushes = 0, discards = 0, zeroes = 0, unmaps = 0;
  };
  explicit FakeDisk(Controls& controls) : c(controls) {}

  uint64_t size() const override { return c.bytes.size(); }
  bool read_only() const override { return c.read_only; }
  storage::Limits limits() const override { return {.discard = true}; }

  void read(uint64_t offset, std::span<const iovec> to, storage::Done done) override {
    ++c.reads;
    if (!c.error)
      for (auto& part : to) {
        memcpy(part.iov_base, &c.bytes.at(offset), part.iov_len);
        offset += part.iov_len;
      }
    later(std::move(done));
  }
  void write(uint64_t offset, std::span<const iovec> from, storage::Done done) override {
    ++c.writes;
    if (!c.error)
      for (auto& part : from) {
        memcpy(&c.bytes.at(offset), part.iov_base, part.iov_len);
        offset += part.iov_len;
      }
    later(std::move(done));
  }
  void flush(storage::Done done) override { ++c.flushes, later(std::move(done)); }
  void discard(uint64_t, uint64_t, storage::Done done) override { ++c.discards, later(std::move(done)); }
  void write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, storage::Done done) override {
    ++c.zeroes;
    c.unmaps += may_unmap;
    if (length) memset(&c.bytes.at(offset), 0, length);
    later(std::move(done));
  }
  void submit() override {
    if (!c.hold) end_all();
  }
  void drain() override {
    while (!waiting_.empty()) end_all();
  }

 private:
  void later(storage::Done done) { waiting_.push_back(std::move(done)); }
  void end_all() {
    auto ending = std::exchange(waiting_, {});
    for (auto& done : ending) done(c.error);
  }
  Controls& c;
  std::vector<storage::Done> waiting_;
};

}  // namespace vireo::virtio
