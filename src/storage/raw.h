// SPDX-License-Identifier: Apache-2.0
// A raw image: a regular file or a host block device whose bytes are the disk's bytes.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "storage/block_device.h"
#include "storage/file/file.h"
#include "storage/file_engine.h"

namespace vireo::storage {

struct RawConfig {
  std::string path;
  bool read_only = false;
  bool direct = false;    // O_DIRECT: past the host's page cache
  bool no_flush = false;  // flush() does nothing: fast, and lost on a host crash
  bool discard = true;    // discard() gives space back
  bool lock = true;
  int fd = -1;            // already open (and locked): a copy is used, `path` is its name. It may grow.
  Aio aio = Aio::kAuto;
};

class Raw final : public BlockDevice {
 public:
  // The loop must outlive the device.
  static Result<std::unique_ptr<Raw>> create(const RawConfig& config, EventLoop& loop);
  // The same on an engine of the caller's, which replaces config.aio.
  static Result<std::unique_ptr<Raw>> create(const RawConfig& config, std::unique_ptr<FileEngine> engine);
  ~Raw() override;

  uint64_t size() const override { return size_; }
  bool read_only() const override { return config_.read_only; }
  Limits limits() const override { return limits_; }
  int fd() const { return fd_.get(); }
  uint64_t block() const { return alignment_.offset; }  // writes of less read as well
  const char* engine_name() const { return engine_->name(); }

  void read(uint64_t offset, std::span<const iovec> to, Done done) override;
  void write(uint64_t offset, std::span<const iovec> from, Done done) override;
  void flush(Done done) override;
  void discard(uint64_t offset, uint64_t length, Done done) override;
  void write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) override;
  void submit() override;
  void drain() override;

 private:
  enum class Kind { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };
  struct Free {
    void operator()(std::byte* p) const { ::free(p); }
  };
  struct Request {
    Kind kind = Kind::kRead;
    Done done;
    uint64_t offset = 0;       // of what is left
    uint64_t length = 0;       // left
    std::vector<iovec> parts;  // left; consumed from `next`
    size_t next = 0;
    uint64_t zeroes_left = 0;  // to be written after the parts
    bool may_unmap = false;
    bool writes = false;     // counts in writes_active_
    bool exclusive = false;  // no other write meanwhile
    std::unique_ptr<std::byte, Free> bounce;
    uint64_t bounce_start = 0, bounce_size = 0;
    iovec bounce_part{};
  };

  Raw(const RawConfig& config, std::unique_ptr<FileEngine> engine) : config_(config), engine_(std::move(engine)) {}
  Result<> open();

  Request* take(Kind kind, uint64_t offset, uint64_t length, Done done);
  void admit(Request* request);
  void begin(Request* request);
  void finish(Request* request, int error);
  void finish_later(Request* request, int error);
  bool in_bounds(uint64_t offset, uint64_t length) const { return offset <= size_ && length <= size_ - offset; }

  bool aligned(const Request& request) const;
  void sync(Request* request);
  void transfer(Request* request);
  void transferred(Request* request, int64_t result);
  void bounce(Request* request);
  void bounce_read(Request* request, uint64_t loaded);
  void bounce_loaded(Request* request, uint64_t loaded, int64_t result);
  void bounce_write(Request* request, uint64_t done);
  void allocate(Request* request, int mode);
  void zero_by_writing(Request* request);
  void write_more_zeroes(Request* request);
  void consume(Request& request, uint64_t count);
  void copy(Request& request, std::byte* buffer, uint64_t count, bool to_request);

  RawConfig config_;
  std::unique_ptr<FileEngine> engine_;
  OwnedFd fd_;
  uint64_t size_ = 0;
  bool regular_ = false;
  uint64_t file_size_ = 0;  // at open; `size_` rounds it up
  Limits limits_;
  DirectBlocks alignment_{1, 1};  // 1 without O_DIRECT
  bool zero_range_works_ = true, punch_works_ = true;
  int lost_ = 0;  // why what the page cache had may be lost: an error of a flush

  unsigned active_ = 0;  // requests not finished
  unsigned writes_active_ = 0;
  bool exclusive_active_ = false;
  std::deque<Request*> held_;                          // writes behind an exclusive one
  std::vector<std::pair<Request*, int>> ready_;        // to be finished outside the caller's call
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<Request*> free_;
};

}  // namespace vireo::storage
