// SPDX-License-Identifier: Apache-2.0
// File I/O by a few threads in plain system calls, for hosts without a usable io_uring.
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/log.h"
#include "base/owned_fd.h"
#include "storage/file_engine.h"

namespace vireo::storage {
namespace {

constexpr unsigned kDefaultThreads = 4;

int64_t perform(const FileOp& op) {
  auto offset = static_cast<off_t>(op.offset);
  int64_t result = -1;
  do switch (op.kind) {
      case FileOp::Kind::kRead: result = preadv(op.fd, op.parts, static_cast<int>(op.part_count), offset); break;
      case FileOp::Kind::kWrite: result = pwritev(op.fd, op.parts, static_cast<int>(op.part_count), offset); break;
      case FileOp::Kind::kDataSync: result = fdatasync(op.fd); break;
      case FileOp::Kind::kAllocate: result = fallocate(op.fd, op.mode, offset, static_cast<off_t>(op.length)); break;
    }
  while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

class ThreadEngine final : public FileEngine {
 public:
  explicit ThreadEngine(EventLoop& loop) : loop_(loop) {}

  ~ThreadEngine() override {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
    }
    work_.notify_all();
    for (auto& thread : threads_) thread.join();
    if (watching_) loop_.unwatch(event_.get());
  }

  Result<> init(unsigned threads) {
    event_ = OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_.valid()) return fail_errno("disk threads: eventfd");
    TRY_VOID(loop_.watch(event_.get(), EPOLLIN, [this](uint32_t) {
      uint64_t count;
      if (::read(event_.get(), &count, sizeof count) < 0 && errno != EAGAIN) panic("disk threads: eventfd: %s", strerror(errno));
      reap();
    }));
    watching_ = true;
    try {
      for (unsigned i = 0; i < threads; ++i) {
        threads_.emplace_back([this] { serve(); });
        pthread_setname_np(threads_.back().native_handle(), "vireo-disk");
      }
    } catch (const std::system_error& error) {
      return fail(ErrorKind::kIo, std::string("disk threads: ") + error.what(), error.code().value());
    }
    return {};
  }

  const char* name() const override { return "threads"; }

  void start(const FileOp& op, Done done) override { fresh_.push_back({op, std::move(done), 0}); }

  void submit() override {
    hand_over();
    reap();
  }

  void wait() override {
    hand_over();
    {
      std::unique_lock lock(mutex_);
      if (in_flight_ == 0) return;
      finished_.wait(lock, [&] { return !done_.empty(); });
    }
    reap();
  }

 private:
  struct Job {
    FileOp op;
    Done done;
    int64_t result;
  };

  void hand_over() {
    if (fresh_.empty()) return;
    size_t count = fresh_.size();
    {
      std::lock_guard lock(mutex_);
      for (Job& job : fresh_) jobs_.push_back(std::move(job));
    }
    in_flight_ += count;
    fresh_.clear();
    count == 1 ? work_.notify_one() : work_.notify_all();
  }

  void reap() {
    std::vector<Job> finished;
    {
      std::lock_guard lock(mutex_);
      finished.swap(done_);
    }
    in_flight_ -= finished.size();
    for (Job& job : finished) job.done(job.result);
    if (!finished.empty()) hand_over();
  }

  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return ending_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job.result = perform(job.op);
      lock.lock();
      bool first = done_.empty();
      done_.push_back(std::move(job));
      if (!first) continue;
      finished_.notify_one();
      uint64_t one = 1;
      if (::write(event_.get(), &one, sizeof one) < 0) panic("disk threads: eventfd: %s", strerror(errno));
    }
  }

  EventLoop& loop_;
  OwnedFd event_;
  bool watching_ = false;
  std::vector<Job> fresh_;  // the loop's thread only, as is in_flight_
  size_t in_flight_ = 0;
  std::mutex mutex_;  // guards what follows
  std::condition_variable work_, finished_;
  std::deque<Job> jobs_;
  std::vector<Job> done_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<FileEngine>> create_thread_engine(EventLoop& loop, unsigned threads) {
  auto engine = std::make_unique<ThreadEngine>(loop);
  TRY_VOID(engine->init(threads ? threads : kDefaultThreads));
  return engine;
}

Result<std::unique_ptr<FileEngine>> create_engine(Aio aio, EventLoop& loop) {
  if (aio != Aio::kThreads) {
    auto engine = create_uring_engine(loop);
    if (engine || aio == Aio::kUring) return engine;
    log(LogLevel::kInfo, "disk: %s; using threads", engine.error().message.c_str());
  }
  return create_thread_engine(loop, kDefaultThreads);
}

}  // namespace vireo::storage
