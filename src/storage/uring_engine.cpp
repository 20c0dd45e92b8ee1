// SPDX-License-Identifier: Apache-2.0
// File I/O by io_uring. Sources: io_uring(7), io_uring_setup(2), io_uring_enter(2).
#include <fcntl.h>
#include <liburing.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <deque>
#include <vector>

#include "base/delay_load.h"
#include "base/log.h"
#include "base/owned_fd.h"
#include "storage/file_engine.h"

VIREO_DELAY_LOADED(uring);

namespace vireo::storage {
namespace {

constexpr unsigned kEntries = 256;
// As many as have gathered go to the kernel without being asked for: a disk that is given all of a queue of 32 at once stands still while they
// are made ready, and ends them at once too (4 KiB reads by 32: 0.88 of the time with 8 at a time, as with 4; 0.92 with 16).
constexpr size_t kBatch = 8;

class UringEngine final : public FileEngine {
 public:
  explicit UringEngine(EventLoop& loop) : loop_(loop) {}

  ~UringEngine() override {
    if (watching_) loop_.unwatch(event_.get());
    if (ring_ready_) io_uring_queue_exit(&ring_);
  }

  Result<> init() {
    if (int error = io_uring_queue_init(kEntries, &ring_, IORING_SETUP_CLAMP); error < 0)
      return fail(ErrorKind::kUnsupported, std::string("io_uring: ") + strerror(-error), -error);
    ring_ready_ = true;
    io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
    bool complete = probe && io_uring_opcode_supported(probe, IORING_OP_READV) &&
                    io_uring_opcode_supported(probe, IORING_OP_WRITEV) &&
                    io_uring_opcode_supported(probe, IORING_OP_FSYNC) &&
                    io_uring_opcode_supported(probe, IORING_OP_FALLOCATE);
    if (probe) io_uring_free_probe(probe);
    if (!complete) return fail(ErrorKind::kUnsupported, "io_uring: this kernel's lacks operations that are needed");
    event_ = OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_.valid()) return fail_errno("io_uring: eventfd");
    if (int error = io_uring_register_eventfd(&ring_, event_.get()); error < 0)
      return fail(ErrorKind::kUnsupported, std::string("io_uring: eventfd: ") + strerror(-error), -error);
    TRY_VOID(loop_.watch(event_.get(), EPOLLIN, [this](uint32_t) {
      uint64_t count;
      if (::read(event_.get(), &count, sizeof count) < 0 && errno != EAGAIN) panic("io_uring: eventfd: %s", strerror(errno));
      reap();
    }));
    watching_ = true;
    return {};
  }

  const char* name() const override { return "io_uring"; }

  void start(const FileOp& op, Done done) override {
    Slot* slot = take_slot();
    slot->op = op;
    slot->done = std::move(done);
    waiting_.push_back(slot);
    if (waiting_.size() >= kBatch && in_flight_ < kEntries) fill();
  }

  void submit() override {
    fill();
    reap();
  }

  void wait() override {
    fill();
    // What the kernel did not take does not end by itself.
    while (in_flight_ > 0 && io_uring_sq_ready(&ring_) == in_flight_) {
      usleep(100);
      fill();
    }
    if (in_flight_ == 0) return;
    io_uring_cqe* cqe;
    int error;
    do error = io_uring_wait_cqe(&ring_, &cqe);
    while (error == -EINTR);
    if (error < 0) panic("io_uring: waiting: %s", strerror(-error));
    reap();
  }

 private:
  struct Slot {
    FileOp op;
    Done done;
  };

  Slot* take_slot() {
    if (free_.empty()) {
      slots_.push_back(std::make_unique<Slot>());
      return slots_.back().get();
    }
    Slot* slot = free_.back();
    free_.pop_back();
    return slot;
  }

  // Gives waiting operations to the kernel, no more than the completion queue surely holds.
  void fill() {
    // While we look ourselves there is no need to be woken for what completes at once.
    io_uring_cq_eventfd_toggle(&ring_, false);
    while (!waiting_.empty() && in_flight_ < kEntries) {
      io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
      if (!sqe) {
        enter();
        sqe = io_uring_get_sqe(&ring_);
        if (!sqe) break;
      }
      Slot* slot = waiting_.front();
      waiting_.pop_front();
      prepare(sqe, slot->op);
      io_uring_sqe_set_data(sqe, slot);
      ++in_flight_;
    }
    enter();
    io_uring_cq_eventfd_toggle(&ring_, true);
  }

  void enter() {
    if (io_uring_sq_ready(&ring_) == 0) return;
    int result;
    do result = io_uring_submit(&ring_);
    while (result == -EINTR);
    // EAGAIN and EBUSY mean no memory or too many completions now: what was not taken stays in the ring for another try.
    if (result < 0 && result != -EAGAIN && result != -EBUSY) panic("io_uring: submitting: %s", strerror(-result));
    if (io_uring_sq_ready(&ring_) != 0) {
      if (!retry_) retry_ = loop_.create([this] { submit(); });
      retry_->arm(loop_.now_ns() + 1'000'000);
    }
  }

  static void prepare(io_uring_sqe* sqe, const FileOp& op) {
    switch (op.kind) {
      case FileOp::Kind::kRead:
        if (op.part_count == 1 && op.parts[0].iov_len <= UINT32_MAX / 2)
          return io_uring_prep_read(sqe, op.fd, op.parts[0].iov_base, static_cast<unsigned>(op.parts[0].iov_len), op.offset);
        return io_uring_prep_readv(sqe, op.fd, op.parts, op.part_count, op.offset);
      case FileOp::Kind::kWrite:
        if (op.part_count == 1 && op.parts[0].iov_len <= UINT32_MAX / 2)
          return io_uring_prep_write(sqe, op.fd, op.parts[0].iov_base, static_cast<unsigned>(op.parts[0].iov_len), op.offset);
        return io_uring_prep_writev(sqe, op.fd, op.parts, op.part_count, op.offset);
      case FileOp::Kind::kDataSync: return io_uring_prep_fsync(sqe, op.fd, IORING_FSYNC_DATASYNC);
      case FileOp::Kind::kAllocate:
        return io_uring_prep_fallocate(sqe, op.fd, op.mode, static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
    }
  }

  void reap() {
    bool any;
    do {
      any = false;
      io_uring_cqe* cqe;
      while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
        auto* slot = static_cast<Slot*>(io_uring_cqe_get_data(cqe));
        int result = cqe->res;
        io_uring_cqe_seen(&ring_, cqe);
        --in_flight_;
        Done done = std::move(slot->done);
        free_.push_back(slot);
        any = true;
        done(result);
      }
      if (any && !waiting_.empty()) fill();  // there is room again, or a callback asked for more
    } while (any);
  }

  EventLoop& loop_;
  io_uring ring_{};
  bool ring_ready_ = false;
  bool watching_ = false;
  OwnedFd event_;
  unsigned in_flight_ = 0;
  std::deque<Slot*> waiting_;
  std::vector<Slot*> free_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::unique_ptr<Timer> retry_;
};

}  // namespace

Result<std::unique_ptr<FileEngine>> create_uring_engine(EventLoop& loop) {
  TRY_VOID(load_library(vireo_delay_load_uring));
  auto engine = std::make_unique<UringEngine>(loop);
  TRY_VOID(engine->init());
  return engine;
}

}  // namespace vireo::storage
