// SPDX-License-Identifier: Apache-2.0
// Asynchronous system calls on files, by io_uring or by a few threads. Results are those of the calls: bytes moved, or a
// negative errno; short transfers are the caller's to go on with.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/result.h"

namespace vireo::storage {

struct FileOp {
  enum class Kind { kRead, kWrite, kDataSync, kAllocate };
  Kind kind = Kind::kRead;
  int fd = -1;
  const iovec* parts = nullptr;  // stay the caller's until done
  unsigned part_count = 0;       // at most IOV_MAX
  uint64_t offset = 0;
  uint64_t length = 0;  // kAllocate
  int mode = 0;         // kAllocate: of fallocate(2)
};

class FileEngine {
 public:
  using Done = std::move_only_function<void(int64_t result)>;
  virtual ~FileEngine() = default;
  virtual const char* name() const = 0;
  // `done` comes on the loop's thread, in submit() or drain() or from the loop, never in start().
  virtual void start(const FileOp& op, Done done) = 0;
  virtual void submit() = 0;
  // Waits for at least one completion and runs what has completed. Nothing to do when nothing is in flight.
  virtual void wait() = 0;
};

enum class Aio { kAuto, kUring, kThreads };

// kUnsupported when the host has no usable io_uring (not compiled in, forbidden by seccomp or sysctl).
Result<std::unique_ptr<FileEngine>> create_uring_engine(EventLoop& loop);
Result<std::unique_ptr<FileEngine>> create_thread_engine(EventLoop& loop, unsigned threads);
// kAuto takes io_uring where it works, threads else.
Result<std::unique_ptr<FileEngine>> create_engine(Aio aio, EventLoop& loop);

}  // namespace vireo::storage
