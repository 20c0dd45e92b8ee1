// SPDX-License-Identifier: Apache-2.0
// An image as a machine's disk: what lies plainly in a file moves by the file's own asynchronous engine, straight from and
// to the guest's memory; what needs the format's help (allocation, copies, compression, tables that are not in memory)
// is done by threads, as many as have work, so that a disk that copies on write has enough requests at a time.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "base/event_loop.h"
#include "storage/block_device.h"
#include "storage/image/image.h"
#include "storage/raw.h"

namespace vireo::storage {

class ImageDevice final : public BlockDevice {
 public:
  struct Config {
    bool direct = false;  // the files were opened with O_DIRECT
    Aio aio = Aio::kAuto;
    unsigned threads = 16;  // at most; each is started when all before it are at work and more is to be done
  };
  static Result<std::unique_ptr<ImageDevice>> create(std::shared_ptr<Image> image, const Config& config, EventLoop& loop);
  ~ImageDevice() override;

  uint64_t size() const override { return image_->size() / 512 * 512; }
  bool read_only() const override { return image_->read_only(); }
  Limits limits() const override;
  void read(uint64_t offset, std::span<const iovec> to, Done done) override { move(offset, to, false, std::move(done)); }
  void write(uint64_t offset, std::span<const iovec> from, Done done) override { move(offset, from, true, std::move(done)); }
  void flush(Done done) override;
  void discard(uint64_t offset, uint64_t length, Done done) override;
  void write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) override;
  void submit() override;
  void drain() override;

  Image& image() { return *image_; }
  // With nothing in flight: the chain has other files than before.
  void image_changed();

 private:
  struct Request {
    Done done;
    unsigned parts_left = 0;
    int error = 0;
    Hold hold;
    std::vector<Segment> segments;
    uint64_t from = 0, to = 0;  // of a write under way with O_DIRECT
    bool partial = false;       // of blocks
  };
  struct Held {
    Request* request;
    uint64_t offset, length;
    std::function<void()> go;
  };
  struct Job {
    Request* request;
    std::function<Result<>()> work;
    uint64_t read_offset = UINT64_MAX;  // of a read
  };
  Result<> take_files();
  ImageDevice(std::shared_ptr<Image> image, EventLoop& loop) : image_(std::move(image)), loop_(loop), alive_(std::make_shared<bool>(true)) {}
  void move(uint64_t offset, std::span<const iovec> parts, bool write, Done done);
  void begin(Request* request, uint64_t offset, std::span<const iovec> parts, bool write);
  bool must_wait(Request* request, uint64_t offset, uint64_t length);
  void let_go();
  Request* take(Done done);
  void part_done(Request* request, int error);
  void slowly(Request* request, std::function<Result<>()> work, uint64_t read_offset = UINT64_MAX);
  void send();
  Result<> start_thread();
  void serve();
  void reap();

  std::shared_ptr<Image> image_;
  Config config_;
  EventLoop& loop_;
  unsigned most_threads_ = 1;
  std::unordered_map<File*, std::unique_ptr<Raw>> files_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<Request*> free_;
  unsigned active_ = 0;
  std::vector<std::pair<Request*, int>> ready_;  // to be finished outside the caller's call
  std::vector<Job> new_jobs_;  // not yet sent to the threads
  // With O_DIRECT: a write of a part of a block puts all of it back, so none that overlaps with it is under way beside it.
  uint64_t block_ = 1;
  bool small_units_ = false;  // whole blocks of the disk need not be whole ones of the file
  unsigned partial_active_ = 0;
  std::deque<Held> held_;
  std::shared_ptr<bool> alive_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable work_, finished_;
  std::deque<Job> jobs_;
  std::vector<std::pair<Request*, int>> done_;
  bool ending_ = false, posted_ = false;
  std::vector<std::thread> threads_;
  unsigned idle_ = 0;
};

}  // namespace vireo::storage
