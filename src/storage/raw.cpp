// SPDX-License-Identifier: Apache-2.0
#include "storage/raw.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "storage/file/file.h"
#include "storage/file_lock.h"

namespace vireo::storage {
namespace {

constexpr uint64_t kSector = 512;
// Requests that need an aligned copy go through one of this size, so that the guest cannot make us allocate at will.
constexpr uint64_t kBounceSize = 256 << 10;
constexpr uint64_t kZeroSize = 64 << 10;
constexpr unsigned kZeroParts = 64;
alignas(4096) std::byte g_zeroes[kZeroSize];  // never written

uint64_t down(uint64_t value, uint64_t to) { return value / to * to; }
uint64_t up(uint64_t value, uint64_t to) { return down(value + to - 1, to); }

}  // namespace

Result<std::unique_ptr<Raw>> Raw::create(const RawConfig& config, EventLoop& loop) {
  return create(config, TRY(create_engine(config.aio, loop)));
}

Result<std::unique_ptr<Raw>> Raw::create(const RawConfig& config, std::unique_ptr<FileEngine> engine) {
  std::unique_ptr<Raw> raw(new Raw(config, std::move(engine)));
  TRY_VOID(raw->open());
  return raw;
}

Raw::~Raw() { drain(); }

Result<> Raw::open() {
  const std::string what = "disk '" + config_.path + "'";
  auto usable = [](const struct stat& s) { return S_ISREG(s.st_mode) || S_ISBLK(s.st_mode); };
  struct stat st;
  // Before it is opened: a FIFO would be waited for.
  if (config_.fd < 0 && ::stat(config_.path.c_str(), &st) == 0 && !usable(st)) return fail(ErrorKind::kInvalid, what + ": neither a regular file nor a block device");
  int flags = (config_.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | (config_.direct ? O_DIRECT : 0);
  fd_ = OwnedFd(config_.fd >= 0 ? fcntl(config_.fd, F_DUPFD_CLOEXEC, 3) : ::open(config_.path.c_str(), flags));
  if (!fd_.valid()) {
    if (errno == EINVAL && config_.direct)
      return fail(ErrorKind::kUnsupported, what + ": its file system has no O_DIRECT (direct=on)", EINVAL);
    return fail_errno(what);
  }
  if (fstat(fd_.get(), &st) != 0) return fail_errno(what);
  regular_ = S_ISREG(st.st_mode);
  if (!usable(st)) return fail(ErrorKind::kInvalid, what + ": neither a regular file nor a block device");
  if (config_.lock && config_.fd < 0) TRY_VOID(lock_image(fd_.get(), !config_.read_only, config_.path));
  if (regular_) {
    file_size_ = static_cast<uint64_t>(st.st_size);
    limits_.physical_block = 4096;
  } else {
    int logical = 512;
    unsigned physical = 512;
    if (ioctl(fd_.get(), BLKGETSIZE64, &file_size_) != 0 || ioctl(fd_.get(), BLKSSZGET, &logical) != 0 ||
        ioctl(fd_.get(), BLKPBSZGET, &physical) != 0)
      return fail_errno(what + ": asking for its geometry");
    limits_.logical_block = static_cast<uint32_t>(logical);
    limits_.physical_block = std::max<uint32_t>(physical, limits_.logical_block);
  }
  size_ = config_.fd >= 0 ? down(INT64_MAX, kSector) : up(file_size_, kSector);
  limits_.discard = config_.discard && !config_.read_only;
  if (!config_.direct) return {};

  alignment_ = direct_blocks(fd_.get());
  if (alignment_.offset == 0) return fail(ErrorKind::kUnsupported, what + ": its file system has no O_DIRECT (direct=on)");
  if (alignment_.offset > kBounceSize / 4 || alignment_.memory > kBounceSize)
    return fail(ErrorKind::kUnsupported, what + ": O_DIRECT (direct=on) with blocks of " + std::to_string(alignment_.offset));
  return {};
}

Raw::Request* Raw::take(Kind kind, uint64_t offset, uint64_t length, Done done) {
  if (free_.empty()) {
    requests_.push_back(std::make_unique<Request>());
    free_.push_back(requests_.back().get());
  }
  Request* request = free_.back();
  free_.pop_back();
  request->kind = kind;
  request->done = std::move(done);
  request->offset = offset;
  request->length = length;
  request->parts.clear();
  request->next = 0;
  request->writes = kind == Kind::kWrite || kind == Kind::kDiscard || kind == Kind::kWriteZeroes;
  request->exclusive = false;
  ++active_;
  return request;
}

void Raw::finish(Request* request, int error) {
  if (request->writes && config_.direct) {
    --writes_active_;
    if (request->exclusive) exclusive_active_ = false;
  }
  request->bounce.reset();
  Done done = std::move(request->done);
  free_.push_back(request);
  --active_;
  done(error);
  while (!held_.empty() && !exclusive_active_) {
    Request* next = held_.front();
    if (next->exclusive && writes_active_ > 0) break;
    held_.pop_front();
    begin(next);
  }
}

void Raw::finish_later(Request* request, int error) { ready_.emplace_back(request, error); }

void Raw::read(uint64_t offset, std::span<const iovec> to, Done done) {
  uint64_t length = total(to);
  Request* request = take(Kind::kRead, offset, length, std::move(done));
  request->parts.assign(to.begin(), to.end());
  if (!in_bounds(offset, length)) return finish_later(request, EIO);
  if (length == 0) return finish_later(request, 0);
  aligned(*request) ? transfer(request) : bounce(request);
}

void Raw::write(uint64_t offset, std::span<const iovec> from, Done done) {
  uint64_t length = total(from);
  Request* request = take(Kind::kWrite, offset, length, std::move(done));
  request->parts.assign(from.begin(), from.end());
  admit(request);
}

void Raw::discard(uint64_t offset, uint64_t length, Done done) {
  admit(take(Kind::kDiscard, offset, length, std::move(done)));
}

void Raw::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) {
  Request* request = take(Kind::kWriteZeroes, offset, length, std::move(done));
  request->may_unmap = may_unmap;
  admit(request);
}

void Raw::flush(Done done) {
  Request* request = take(Kind::kFlush, 0, 0, std::move(done));
  if (config_.read_only || config_.no_flush) return finish_later(request, 0);
  lost_ ? finish_later(request, lost_) : sync(request);
}

void Raw::sync(Request* request) {
  engine_->start({.kind = FileOp::Kind::kDataSync, .fd = fd_.get()}, [this, request](int64_t result) {
    if (result == -EAGAIN || result == -EINTR) return sync(request);
    const int error = result < 0 ? static_cast<int>(-result) : 0;
    // The page cache counts as clean what it could not write: the next call would say that all is well.
    if (error && !config_.direct) lost_ = error;
    finish(request, error);
  });
}

void Raw::admit(Request* request) {
  int error = config_.read_only ? EROFS : !in_bounds(request->offset, request->length) ? EIO : 0;
  bool nothing = request->length == 0 || (request->kind == Kind::kDiscard && !(limits_.discard && punch_works_));
  if (error || nothing) {
    request->writes = false;
    return finish_later(request, error);
  }
  if (!config_.direct) return begin(request);
  // A write that covers only part of a block reads, changes and writes all of it: no other write may come between.
  request->exclusive = request->kind != Kind::kDiscard && (request->offset | request->length) % alignment_.offset;
  if (!held_.empty() || exclusive_active_ || (request->exclusive && writes_active_ > 0))
    held_.push_back(request);
  else
    begin(request);
}

void Raw::begin(Request* request) {
  if (config_.direct) {
    ++writes_active_;
    exclusive_active_ |= request->exclusive;
  }
  switch (request->kind) {
    case Kind::kDiscard:
      return allocate(request, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    case Kind::kWriteZeroes:
      if (request->may_unmap && limits_.discard && punch_works_)
        return allocate(request, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
      if (zero_range_works_) return allocate(request, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
      return zero_by_writing(request);
    default: return aligned(*request) ? transfer(request) : bounce(request);
  }
}

bool Raw::aligned(const Request& request) const {
  if (!config_.direct) return true;
  if ((request.offset | request.length) % alignment_.offset) return false;
  return std::ranges::all_of(request.parts, [&](const iovec& part) {
    return (reinterpret_cast<uintptr_t>(part.iov_base) | part.iov_len) % alignment_.memory == 0 &&
           part.iov_len % alignment_.offset == 0;
  });
}

void Raw::consume(Request& request, uint64_t count) {
  request.offset += count;
  request.length -= count;
  while (count > 0) {
    iovec& part = request.parts[request.next];
    size_t n = std::min<uint64_t>(part.iov_len, count);
    part.iov_base = static_cast<std::byte*>(part.iov_base) + n;
    part.iov_len -= n;
    count -= n;
    if (part.iov_len == 0) ++request.next;
  }
  while (request.next < request.parts.size() && request.parts[request.next].iov_len == 0) ++request.next;
}

void Raw::copy(Request& request, std::byte* buffer, uint64_t count, bool to_request) {
  for (size_t i = request.next; count > 0 && i < request.parts.size(); ++i) {
    const iovec& part = request.parts[i];
    size_t n = std::min<uint64_t>(part.iov_len, count);
    if (to_request)
      buffer ? memcpy(part.iov_base, buffer, n) : memset(part.iov_base, 0, n);
    else
      memcpy(buffer, part.iov_base, n);
    if (buffer) buffer += n;
    count -= n;
  }
}

void Raw::transfer(Request* request) {
  FileOp op;
  op.kind = request->kind == Kind::kRead ? FileOp::Kind::kRead : FileOp::Kind::kWrite;
  op.fd = fd_.get();
  op.parts = &request->parts[request->next];
  op.part_count = static_cast<unsigned>(std::min<size_t>(request->parts.size() - request->next, IOV_MAX));
  op.offset = request->offset;
  engine_->start(op, [this, request](int64_t result) { transferred(request, result); });
}

void Raw::transferred(Request* request, int64_t result) {
  if (result == -EAGAIN || result == -EINTR) return transfer(request);
  if (result < 0) return finish(request, static_cast<int>(-result));
  if (result == 0) {
    if (request->kind != Kind::kRead) return finish(request, EIO);
    // The end of the file inside the disk: its last sector, or the file was cut behind our back.
    copy(*request, nullptr, request->length, true);
    return finish(request, 0);
  }
  consume(*request, std::min<uint64_t>(static_cast<uint64_t>(result), request->length));
  if (request->length == 0)
    request->kind == Kind::kWriteZeroes ? write_more_zeroes(request) : finish(request, 0);
  else
    // A short transfer may end inside a block, which O_DIRECT cannot go on from.
    aligned(*request) ? transfer(request) : bounce(request);
}

// One aligned buffer after the other, until nothing is left.
void Raw::bounce(Request* request) {
  if (!request->bounce) {
    uint64_t align = std::max<uint64_t>({alignment_.memory, sizeof(void*), 4096});
    request->bounce.reset(static_cast<std::byte*>(aligned_alloc(align, up(kBounceSize, align))));
    if (!request->bounce) panic("disk: no memory for an aligned copy");
  }
  uint64_t start = down(request->offset, alignment_.offset);
  uint64_t end = std::min(up(request->offset + request->length, alignment_.offset), down(start + kBounceSize, alignment_.offset));
  request->bounce_start = start;
  request->bounce_size = end - start;
  bool whole = request->offset == start && request->offset + request->length >= end;
  if (request->kind != Kind::kRead && whole) {
    copy(*request, request->bounce.get(), request->bounce_size, false);
    return bounce_write(request, 0);
  }
  bounce_read(request, 0);
}

void Raw::bounce_read(Request* request, uint64_t loaded) {
  request->bounce_part = {request->bounce.get() + loaded, request->bounce_size - loaded};
  engine_->start({.kind = FileOp::Kind::kRead, .fd = fd_.get(), .parts = &request->bounce_part, .part_count = 1,
                  .offset = request->bounce_start + loaded},
                 [this, request, loaded](int64_t result) { bounce_loaded(request, loaded, result); });
}

void Raw::bounce_loaded(Request* request, uint64_t loaded, int64_t result) {
  if (result == -EAGAIN || result == -EINTR) return bounce_read(request, loaded);
  if (result < 0) return finish(request, static_cast<int>(-result));
  loaded += static_cast<uint64_t>(result);
  // A read that ends inside a block has met the end of the file; what is beyond it reads as zeroes.
  if (loaded < request->bounce_size && result > 0 && loaded % alignment_.offset == 0) return bounce_read(request, loaded);
  memset(request->bounce.get() + loaded, 0, request->bounce_size - loaded);
  uint64_t skip = request->offset - request->bounce_start;
  uint64_t count = std::min(request->length, request->bounce_size - skip);
  copy(*request, request->bounce.get() + skip, count, request->kind == Kind::kRead);
  if (request->kind != Kind::kRead) return bounce_write(request, 0);
  consume(*request, count);
  request->length == 0 ? finish(request, 0) : bounce(request);
}

void Raw::bounce_write(Request* request, uint64_t done) {
  request->bounce_part = {request->bounce.get() + done, request->bounce_size - done};
  engine_->start({.kind = FileOp::Kind::kWrite, .fd = fd_.get(), .parts = &request->bounce_part, .part_count = 1,
                  .offset = request->bounce_start + done},
                 [this, request, done](int64_t result) {
                   if (result == -EAGAIN || result == -EINTR) return bounce_write(request, done);
                   if (result <= 0) return finish(request, result ? static_cast<int>(-result) : EIO);
                   uint64_t written = down(done + static_cast<uint64_t>(result), alignment_.offset);
                   if (written == done) return finish(request, EIO);
                   if (written < request->bounce_size) return bounce_write(request, written);
                   // Whole blocks may reach past the end of an image of odd size, and would make the disk larger.
                   if (regular_ && request->bounce_start + request->bounce_size > size_ &&
                       ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0)
                     return finish(request, errno);
                   uint64_t skip = request->offset - request->bounce_start;
                   consume(*request, std::min(request->length, request->bounce_size - skip));
                   if (request->length > 0) return bounce(request);
                   request->kind == Kind::kWriteZeroes ? write_more_zeroes(request) : finish(request, 0);
                 });
}

void Raw::allocate(Request* request, int mode) {
  FileOp op{.kind = FileOp::Kind::kAllocate, .fd = fd_.get(), .offset = request->offset, .length = request->length, .mode = mode};
  engine_->start(op, [this, request, mode](int64_t result) {
    if (result == -EINTR || result == -EAGAIN) return allocate(request, mode);
    bool punch = mode & FALLOC_FL_PUNCH_HOLE;
    bool impossible = result == -EOPNOTSUPP || result == -ENOSYS;
    if (impossible) (punch ? punch_works_ : zero_range_works_) = false;
    // A block device refuses what its blocks do not divide.
    if (impossible || result == -EINVAL) {
      if (request->kind == Kind::kDiscard) return finish(request, 0);
      if (punch && zero_range_works_) return allocate(request, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
      return zero_by_writing(request);
    }
    finish(request, result < 0 ? static_cast<int>(-result) : 0);
  });
}

// What is left goes out as ordinary writes, one after the other.
void Raw::zero_by_writing(Request* request) {
  request->zeroes_left = request->length;
  request->length = 0;
  write_more_zeroes(request);
}

void Raw::write_more_zeroes(Request* request) {
  if (request->zeroes_left == 0) return finish(request, 0);
  request->parts.clear();
  request->next = 0;
  while (request->zeroes_left > 0 && request->parts.size() < kZeroParts) {
    uint64_t n = std::min(request->zeroes_left, kZeroSize);
    request->parts.push_back({g_zeroes, n});
    request->length += n;
    request->zeroes_left -= n;
  }
  aligned(*request) ? transfer(request) : bounce(request);
}

void Raw::submit() {
  engine_->submit();
  auto ready = std::move(ready_);
  ready_.clear();
  for (auto [request, error] : ready) finish(request, error);
  if (!ready.empty()) engine_->submit();
}

void Raw::drain() {
  submit();
  while (active_ > 0) {
    if (ready_.empty()) engine_->wait();
    submit();
  }
}

}  // namespace vireo::storage
