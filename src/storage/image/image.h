// SPDX-License-Identifier: Apache-2.0
// The format layer: a disk image as a row of bytes that may lie anywhere. Calls block, and any thread may make them at any
// time; each is one step for the others as far as the metadata goes. Machines reach it through ImageDevice, which asks
// locate() where bytes lie and moves them itself, and hands to a thread what locate() cannot answer.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "storage/file/file.h"

namespace vireo::storage {

// What one layer says of a stretch of the disk, from an offset on.
struct Extent {
  uint64_t length = 0;
  bool allocated = false;   // this layer decides what is read here; else its backing image does
  bool zero = false;        // reads as zeroes
  bool data = false;        // bytes in a file
  bool compressed = false;
  bool absent = false;      // shown as not there (see FileExtent)
  std::optional<uint64_t> host;  // where in `file` plain bytes lie
  File* file = nullptr;
};

// A stretch of plain bytes in a file, or of zeroes when there is none.
struct Segment {
  File* file = nullptr;
  uint64_t host = 0;
  uint64_t length = 0;
};

// Keeps the space that locate() named from being given to somebody else. Released by destruction.
class Hold {
 public:
  Hold() = default;
  explicit Hold(std::function<void()> release) : release_(std::move(release)) {}
  Hold(Hold&& other) noexcept : release_(std::exchange(other.release_, nullptr)) {}
  Hold& operator=(Hold&& other) noexcept {
    if (this != &other) drop(), release_ = std::exchange(other.release_, nullptr);
    return *this;
  }
  ~Hold() { drop(); }

 private:
  void drop() {
    if (auto release = std::exchange(release_, nullptr)) release();
  }
  std::function<void()> release_;
};

enum class Preallocation { kOff, kMetadata, kFalloc, kFull };

class Image : public std::enable_shared_from_this<Image> {
 public:
  virtual ~Image() = default;
  virtual const char* format() const = 0;
  // What opens it again: a file's name, or options as json:{...}.
  const std::string& name() { return name_.empty() ? file().name() : name_; }
  void set_name(std::string name) { name_ = std::move(name); }
  virtual File& file() = 0;
  virtual File& data_file() { return file(); }  // where plain guest data lies
  virtual uint64_t size() const = 0;
  virtual bool read_only() const = 0;
  virtual uint64_t cluster_size() const { return 0; }  // 0: the format has none
  virtual uint64_t write_unit() const { return 512; }      // writes of less may move their surroundings along
  virtual Image* backing() { return nullptr; }
  virtual void set_backing(std::shared_ptr<Image>) {}

  // Whole ranges only: past size() is an error.
  virtual Result<> read(uint64_t offset, std::span<const iovec> to) = 0;
  virtual Result<> write(uint64_t offset, std::span<const iovec> from) = 0;
  // `may_unmap`: space may be given back.
  virtual Result<> write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) = 0;
  // One cluster (or the rest of the disk), compressed where that makes it smaller.
  virtual Result<> write_compressed(uint64_t offset, std::span<const std::byte> data) {
    return fail(ErrorKind::kUnsupported, "Compression not supported for this file format", ENOTSUP);
  }
  virtual Result<> discard(uint64_t offset, uint64_t length) = 0;
  virtual Result<> flush() = 0;
  virtual Result<Extent> status(uint64_t offset, uint64_t length) = 0;
  virtual Result<> resize(uint64_t size, Preallocation preallocation) = 0;
  // Writes what is still to be written and says whether that worked. Nothing else may follow.
  virtual Result<> close() { return flush(); }

  // Where the bytes lie, if that can be told at once and they can be moved without this image's help; appended to `out`.
  virtual bool locate(uint64_t offset, uint64_t length, bool for_write, std::vector<Segment>& out, Hold& hold) { return false; }

  // Reads if all of it is in memory, without waiting for anything.
  virtual bool read_now(uint64_t offset, std::span<const iovec> to) { return false; }
  // Reads inside of one such stretch are cheaper one after the other by one thread than by several; 0: they are not.
  virtual uint64_t read_together() const { return 0; }

  Result<> read(uint64_t offset, std::span<std::byte> to) {
    iovec one = part(to.data(), to.size());
    return read(offset, std::span<const iovec>(&one, 1));
  }
  Result<> write(uint64_t offset, std::span<const std::byte> from) {
    iovec one = part(from.data(), from.size());
    return write(offset, std::span<const iovec>(&one, 1));
  }

  bool takes_space_ahead();  // clusters that exist without ever having been written, so that holes are worth asking for

 private:
  std::optional<bool> takes_space_ahead_;
  std::string name_;
};

// Reads `to` from an image that may end before; zeroes follow its end.
Result<> read_padded(Image* image, uint64_t offset, std::span<const iovec> to);
// What is seen through the whole chain, down to but not into `base`; `depth` is the layer that decides.
struct DeepExtent : Extent {
  unsigned depth = 0;
  Image* layer = nullptr;  // null: no layer has it
};
Result<DeepExtent> status_above(Image& top, Image* base, uint64_t offset, uint64_t length);

}  // namespace vireo::storage
