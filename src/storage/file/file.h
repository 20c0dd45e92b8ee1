// SPDX-License-Identifier: Apache-2.0
// The protocol layer: where the bytes of an image lie. Calls block; any thread may make them, but two calls at a time must
// not write the same bytes. Reading past the end gives zeroes; writing past it makes the file longer. Formats lie above;
// what a guest reads or overwrites in place goes past this to a BlockDevice of its own (see image_device.h).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace vireo::storage {

// Pieces of memory in order. Formats cut them at cluster borders.
using Parts = std::vector<iovec>;
uint64_t total(std::span<const iovec> parts);
Parts slice(std::span<const iovec> parts, uint64_t skip, uint64_t length);
void fill_zero(std::span<const iovec> parts);
void copy_from(std::span<const iovec> from, std::byte* to);  // as many bytes as the parts have
void copy_to(std::span<const iovec> to, const std::byte* from);
bool all_zero(const void* data, size_t length);
inline iovec part(const void* data, size_t length) { return {const_cast<void*>(data), length}; }

// A stretch of a file that is all data or all hole.
struct FileExtent {
  uint64_t length = 0;
  bool hole = false;  // reads as zeroes and takes no space
  bool absent = false;  // ... or so it is to be shown: see nbd_file.h
};

class File {
 public:
  virtual ~File() = default;
  virtual const std::string& name() const = 0;
  virtual bool read_only() const = 0;
  virtual uint64_t size() const = 0;  // bytes, now
  virtual Result<> readv(uint64_t offset, std::span<const iovec> to) = 0;
  virtual Result<> writev(uint64_t offset, std::span<const iovec> from) = 0;
  // What was written before is on stable storage afterwards.
  virtual Result<> flush() = 0;
  // The range reads as zeroes afterwards; `unmap`: its space may be given back. It never makes the file longer.
  virtual Result<> zero(uint64_t offset, uint64_t length, bool unmap) = 0;
  // The contents are not needed any more. A hint that may do nothing.
  virtual void discard(uint64_t offset, uint64_t length) = 0;
  virtual Result<> truncate(uint64_t size) = 0;
  // Reserves space for a range beyond or in the file, without writing it where the file system can.
  virtual Result<> reserve(uint64_t offset, uint64_t length) = 0;
  // Makes the file longer by space that reads as zeroes, where that makes writes there faster. False: it would not, or could not.
  virtual bool reserve_ahead(uint64_t offset, uint64_t length) { return false; }
  virtual FileExtent extent(uint64_t offset, uint64_t length) = 0;
  virtual uint64_t allocated() const { return size(); }  // bytes of disk space in use
  virtual bool grows() const { return true; }            // false: a block device, whose end stays where it is
  virtual bool new_space_is_zero() const { return true; }
  virtual int fd() const { return -1; }  // for asynchronous I/O on the same file; -1: there is none
  // Where names that an image has in it are looked up from: a path, or nothing where that cannot be said.
  virtual std::string place() const { return name(); }
  // What a format is about to do, for faults that are to come just then (blkdebug_rules.h).
  virtual void event(std::string_view) {}

  Result<> read(uint64_t offset, std::span<std::byte> to) {
    iovec one = part(to.data(), to.size());
    return readv(offset, {&one, 1});
  }
  Result<> write(uint64_t offset, std::span<const std::byte> from) {
    iovec one = part(from.data(), from.size());
    return writev(offset, {&one, 1});
  }
};

// What O_DIRECT wants of a transfer. A write of less than such a block reads, changes and writes all of it; a File does that, and excludes others
// who do. Whoever goes past it (File::fd()) writes whole blocks, or is alone.
struct DirectBlocks {
  uint64_t memory = 4096, offset = 4096;  // offset: of lengths as well; 0: there is no O_DIRECT
};
DirectBlocks direct_blocks(int fd);

struct FileConfig {
  std::string path;
  bool read_only = false;
  bool direct = false;    // O_DIRECT
  bool no_flush = false;  // cache=unsafe
  bool lock = true;
  bool share_writers = false;  // with a lock: others may write meanwhile (-U)
};
// A regular file or a block device.
Result<std::unique_ptr<File>> open_file(const FileConfig& config);
// Makes an empty file of that size; an existing regular file is cut to nothing first, a block device must be large enough.
Result<> create_file(const std::string& path, uint64_t size);
// The same for who goes on to write or zero all of it: an existing regular file is not cut to nothing, since to free its space and get it again
// takes longer than to write over it. True: what it had may be there still (all but the first 4096 bytes).
Result<bool> reuse_file(const std::string& path, uint64_t size);

}  // namespace vireo::storage
