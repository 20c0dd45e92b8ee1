// SPDX-License-Identifier: Apache-2.0
// A regular file or host block device by plain system calls. With O_DIRECT, what is not aligned goes through a copy.
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>

#include "base/owned_fd.h"
#include "storage/file/file.h"
#include "storage/file/resident_pages.h"
#include "storage/file_lock.h"

namespace vireo::storage {
namespace {

constexpr size_t kBounce = 1 << 20, kBufferAlign = 65536;

class PosixFile final : public File {
 public:
  explicit PosixFile(const FileConfig& config) : config_(config) {}

  Result<> open() {
    int flags = (config_.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | (config_.direct ? O_DIRECT : 0);
    fd_ = OwnedFd(::open(config_.path.c_str(), flags));
    if (!fd_.valid()) return fail_errno("Could not open '" + config_.path + "'");
    struct stat st;
    if (fstat(fd_.get(), &st) != 0) return fail_errno("Could not open '" + config_.path + "'");
    regular_ = S_ISREG(st.st_mode);
    if (!regular_ && !S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode))
      return fail(ErrorKind::kInvalid, "Could not open '" + config_.path + "': neither a regular file nor a block device", EINVAL);
    if (S_ISCHR(st.st_mode)) return {};  // /dev/zero and the like: nothing to lock, no size
    // What is odd is refused elsewhere, or works as far as these do.
    if (DirectBlocks blocks; config_.direct && (blocks = direct_blocks(fd_.get())).offset && std::max(blocks.offset, blocks.memory) <= kBufferAlign) blocks_ = blocks;
    if (config_.direct && config_.read_only && regular_) resident_ = ResidentPages::open(fd_.get());
    if (config_.lock) TRY_VOID(lock_image(fd_.get(), !config_.read_only, config_.path, config_.share_writers));
    return {};
  }

  const std::string& name() const override { return config_.path; }
  bool read_only() const override { return config_.read_only; }
  int fd() const override { return fd_.get(); }
  bool grows() const override { return regular_; }
  bool new_space_is_zero() const override { return regular_; }

  uint64_t size() const override {
    if (!regular_) {
      uint64_t size = 0;
      return ioctl(fd_.get(), BLKGETSIZE64, &size) == 0 ? size : 0;
    }
    struct stat st;
    return fstat(fd_.get(), &st) == 0 ? static_cast<uint64_t>(st.st_size) : 0;
  }
  uint64_t allocated() const override {
    struct stat st;
    return fstat(fd_.get(), &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
  }

  Result<> readv(uint64_t offset, std::span<const iovec> to) override {
    if (resident_ && resident_->has(offset, total(to))) return move(resident_->fd(), false, offset, to, false);
    return move(fd_.get(), config_.direct, offset, to, false);
  }
  Result<> writev(uint64_t offset, std::span<const iovec> from) override { return move(fd_.get(), config_.direct, offset, from, true); }

  Result<> flush() override {
    if (config_.no_flush || config_.read_only) return {};
    if (int code = lost_) return error("flushing", code);
    if (fdatasync(fd_.get()) == 0 || errno == EINVAL) return {};
    // The page cache counts as clean what it could not write: the next call would say that all is well.
    const int code = errno;
    if (!config_.direct || through_cache_) lost_ = code;
    return error("flushing", code);
  }

  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override {
    uint64_t end = size();
    if (offset >= end) return {};
    length = std::min(length, end - offset);
    if (length == 0) return {};
    auto call = [&](int mode) {
      return fallocate(fd_.get(), mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0;
    };
    {
      // Of a block that somebody else just changes the other part of, zeroes would be written over with what was read before.
      std::unique_lock lock(partial_, std::defer_lock);
      if (config_.direct && (offset | length) % blocks_.offset) lock.lock();
      if (unmap && call(FALLOC_FL_PUNCH_HOLE)) return {};
      if (call(FALLOC_FL_ZERO_RANGE)) return {};
      if (errno != EOPNOTSUPP && errno != ENODEV && errno != EINVAL) return error("zeroing", errno);
    }
    static const std::vector<std::byte> zeroes(64 << 10);
    for (uint64_t at = 0; at < length; at += zeroes.size())
      TRY_VOID(write(offset + at, std::span(zeroes).first(std::min<uint64_t>(zeroes.size(), length - at))));
    return {};
  }

  void discard(uint64_t offset, uint64_t length) override {
    if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(length))) return;
  }

  Result<> truncate(uint64_t to) override {
    if (!regular_) return to <= size() ? Result<>{} : error("growing", ENOSPC);
    if (ftruncate(fd_.get(), static_cast<off_t>(to)) != 0) return error("resizing", errno);
    return {};
  }

  Result<> reserve(uint64_t offset, uint64_t length) override {
    if (length == 0 || !regular_) return {};
    if (int e = posix_fallocate(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(length))) return error("reserving space", e);
    return {};
  }

  // With O_DIRECT a write to a hole or behind the end takes the file for itself; one to reserved space does not.
  bool reserve_ahead(uint64_t offset, uint64_t length) override {
    return config_.direct && regular_ && fallocate(fd_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0;
  }

  FileExtent extent(uint64_t offset, uint64_t length) override {
    if (!regular_) return {length, false};
    off_t data = lseek(fd_.get(), static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0) return {length, errno == ENXIO};
    if (static_cast<uint64_t>(data) > offset) return {std::min<uint64_t>(static_cast<uint64_t>(data) - offset, length), true};
    off_t hole = lseek(fd_.get(), static_cast<off_t>(offset), SEEK_HOLE);
    if (hole <= data) return {length, false};
    return {std::min<uint64_t>(static_cast<uint64_t>(hole) - offset, length), false};
  }

 private:
  std::unexpected<Error> error(const char* what, int code) const {
    return fail_errno("'" + config_.path + "': " + what, code);
  }

  Result<> move(int fd, bool direct, uint64_t offset, std::span<const iovec> parts, bool write) {
    if (direct && !aligned(offset, parts)) return bounce(offset, parts, write);
    Parts left(parts.begin(), parts.end());
    size_t next = 0;
    while (next < left.size()) {
      int count = static_cast<int>(std::min<size_t>(left.size() - next, IOV_MAX));
      ssize_t n = write ? pwritev(fd, &left[next], count, static_cast<off_t>(offset))
                        : preadv(fd, &left[next], count, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return error(write ? "writing" : "reading", errno);
      if (n == 0) {
        if (write && total(std::span(left).subspan(next)) > 0) return error("writing", EIO);
        fill_zero(std::span(left).subspan(next));  // past the end
        return {};
      }
      offset += static_cast<uint64_t>(n);
      for (auto rest = static_cast<size_t>(n); rest > 0 || (next < left.size() && left[next].iov_len == 0);) {
        size_t take = std::min(rest, left[next].iov_len);
        left[next].iov_base = static_cast<std::byte*>(left[next].iov_base) + take;
        left[next].iov_len -= take;
        rest -= take;
        if (left[next].iov_len == 0) ++next;
      }
      if (direct && next < left.size() && !aligned(offset, std::span(left).subspan(next)))
        return bounce(offset, std::span(left).subspan(next), write);
    }
    return {};
  }

  bool aligned(uint64_t offset, std::span<const iovec> parts) const {
    if (offset % blocks_.offset) return false;
    return std::ranges::all_of(parts, [&](const iovec& p) {
      return reinterpret_cast<uintptr_t>(p.iov_base) % blocks_.memory == 0 && p.iov_len % blocks_.offset == 0;
    });
  }

  struct Free {
    void operator()(std::byte* p) const { ::free(p); }
  };

  Result<> put(int fd, const std::byte* from, uint64_t at, uint64_t length) {
    for (uint64_t done = 0; done < length;) {
      ssize_t n = pwrite(fd, from + done, length - done, static_cast<off_t>(at + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return error("writing", n < 0 ? errno : EIO);
      done += static_cast<uint64_t>(n);
    }
    return {};
  }

  // What is less than a block at the end of the file. A regular file would become longer by a whole one, and to cut it again could cut off
  // what somebody else has just written behind it: so it goes by way of the page cache. A device's end is one of its own blocks'. partial_ is held.
  Result<> put_tail(const std::byte* from, uint64_t at, uint64_t length) {
    if (!regular_) return put(fd_.get(), from, at, length);
    // By its descriptor: its name may be another file's by now.
    if (!cached_.valid()) cached_ = OwnedFd(::open(("/proc/self/fd/" + std::to_string(fd_.get())).c_str(), O_WRONLY | O_CLOEXEC));
    through_cache_ = cached_.valid();
    return cached_.valid() ? put(cached_.get(), from, at, length) : put(fd_.get(), from, at, blocks_.offset);
  }

  // Whole blocks through a copy. Blocks covered in part are read first; writers of parts exclude each other.
  Result<> bounce(uint64_t offset, std::span<const iovec> parts, bool write) {
    // Kept: a buffer of this size is fresh pages from the kernel each time.
    thread_local std::unique_ptr<std::byte, Free> buffer(static_cast<std::byte*>(aligned_alloc(kBufferAlign, kBounce)));
    if (!buffer) return error("reading", ENOMEM);
    std::unique_lock lock(partial_, std::defer_lock);
    if (write) lock.lock();
    const uint64_t block = blocks_.offset;
    uint64_t length = total(parts), done = 0;
    while (done < length) {
      uint64_t at = offset + done, start = at / block * block;
      uint64_t count = std::min<uint64_t>(length - done, kBounce - (at - start));
      uint64_t end = (at + count + block - 1) / block * block;
      bool whole = at == start && at + count == end;
      if (!write || !whole) {
        uint64_t got = 0;
        while (got < end - start) {
          ssize_t n = pread(fd_.get(), buffer.get() + got, end - start - got, static_cast<off_t>(start + got));
          if (n < 0 && errno == EINTR) continue;
          if (n < 0) return error("reading", errno);
          if (n == 0) break;
          got += static_cast<uint64_t>(n);
          if (got % block) break;  // the end of the file
        }
        std::fill(buffer.get() + got, buffer.get() + (end - start), std::byte{0});
      }
      Parts piece = slice(parts, done, count);
      if (!write) {
        copy_to(piece, buffer.get() + (at - start));
      } else {
        copy_from(piece, buffer.get() + (at - start));
        // The file's end inside of the last block stays where it is, or goes where the write ends.
        const uint64_t last = at + count == end ? end : std::clamp(size(), at + count, end), blocks = last / block * block;
        TRY_VOID(put(fd_.get(), buffer.get(), start, blocks - start));
        if (last > blocks) TRY_VOID(put_tail(buffer.get() + (blocks - start), blocks, last - blocks));
      }
      done += count;
    }
    return {};
  }

  FileConfig config_;
  OwnedFd fd_;
  bool regular_ = false;
  DirectBlocks blocks_;  // with O_DIRECT
  std::mutex partial_;  // writers of parts of blocks
  OwnedFd cached_;      // without O_DIRECT, for the last block
  std::atomic<bool> through_cache_ = false;  // it was used
  std::atomic<int> lost_ = 0;                // why what the page cache had may be lost
  std::unique_ptr<ResidentPages> resident_;  // of a file that nobody writes through us, with O_DIRECT
};

}  // namespace

DirectBlocks direct_blocks(int fd) {
  DirectBlocks out;
  struct stat st;
  int logical = 0;
  if (fstat(fd, &st) == 0 && S_ISBLK(st.st_mode) && ioctl(fd, BLKSSZGET, &logical) == 0 && logical > 0) out.memory = out.offset = static_cast<uint64_t>(logical);
#ifdef STATX_DIOALIGN
  struct statx sx;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && sx.stx_mask & STATX_DIOALIGN)
    out = {std::max<uint64_t>(sx.stx_dio_mem_align, 1), sx.stx_dio_offset_align};
#endif
  return out;
}

Result<std::unique_ptr<File>> open_file(const FileConfig& config) {
  auto file = std::make_unique<PosixFile>(config);
  TRY_VOID(file->open());
  return file;
}

namespace {
// As qemu-img does it: programs find out what alignment O_DIRECT needs by reading the first block, which a hole would not tell.
bool write_first_block(int fd, uint64_t size) {
  static constexpr std::byte kFirst[4096] = {};
  const size_t first = size < sizeof kFirst ? std::min<size_t>(size, 512) : sizeof kFirst;
  return !first || pwrite(fd, kFirst, first, 0) == static_cast<ssize_t>(first);
}

// Whether what it had below `size` has stayed.
Result<bool> create_file(const std::string& path, uint64_t size, bool keep) {
  struct stat st;
  bool device = stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode);
  OwnedFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return fail_errno("Could not create '" + path + "'");
  if (device) {
    uint64_t have = 0;
    if (ioctl(fd.get(), BLKGETSIZE64, &have) != 0 || have < size)
      return fail(ErrorKind::kInvalid, "Could not create '" + path + "': the device is too small", ENOSPC);
    return false;
  }
  TRY_VOID(lock_image(fd.get(), true, path));
  // Only where holes can be made in it, or zeroes would take space that they take in no new file.
  keep = keep && fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, sizeof(std::byte[4096])) == 0;
  if ((!keep && ftruncate(fd.get(), 0) != 0) || ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    return fail_errno("Could not resize file");
  if (!write_first_block(fd.get(), size)) return fail_errno("Could not write to '" + path + "'");
  return keep;
}
}  // namespace

Result<> create_file(const std::string& path, uint64_t size) {
  TRY(create_file(path, size, false));
  return {};
}

Result<bool> reuse_file(const std::string& path, uint64_t size) { return create_file(path, size, true); }

}  // namespace vireo::storage
