// SPDX-License-Identifier: Apache-2.0
// libnbd's calls wait for each other on one handle; so there are a few, where the server says that this is safe.
#include "storage/nbd/nbd_file.h"

#include <libnbd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "base/delay_load.h"

VIREO_DELAY_LOADED(nbd);

namespace vireo::storage::nbd {
namespace {

constexpr uint64_t kPiece = 4 << 20;
constexpr unsigned kHandles = 4;

std::unexpected<Error> failed(const std::string& what) {
  const int code = nbd_get_errno();
  const char* text = nbd_get_error();
  return fail(ErrorKind::kIo, what + ": " + (text ? text : "unknown error"), code ? code : EIO);
}

// What is the same in a URI and in a path, and what is not.
std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (isalnum(static_cast<unsigned char>(c)) || strchr("-._~/", c)) {
      out += c;
    } else {
      char hex[4];
      snprintf(hex, sizeof hex, "%%%02X", static_cast<unsigned char>(c));
      out += hex;
    }
  }
  return out;
}

class NbdFile final : public File {
 public:
  NbdFile(std::string name, std::string context) : name_(std::move(name)), context_(std::move(context)) {}
  ~NbdFile() override {
    for (nbd_handle* h : all_) {
      (void)nbd_shutdown(h, 0);
      nbd_close(h);
    }
  }

  Result<> connect(bool read_only) {
    TRY_VOID(add_handle());
    nbd_handle* h = all_[0];
    int64_t size = nbd_get_size(h);
    if (size < 0) return failed(name_);
    size_ = static_cast<uint64_t>(size);
    const bool refused = nbd_is_read_only(h) == 1;
    if (refused && !read_only) return fail(ErrorKind::kInvalid, "request on write denied without write permission: the export is read-only", EACCES);
    read_only_ = read_only;
    can_flush_ = nbd_can_flush(h) == 1;
    can_trim_ = nbd_can_trim(h) == 1;
    can_zero_ = nbd_can_zero(h) == 1;
    can_map_ = nbd_can_meta_context(h, context_.c_str()) == 1;
    if (!can_map_ && context_ != LIBNBD_CONTEXT_BASE_ALLOCATION) return fail(ErrorKind::kInvalid, "the server has no context '" + context_ + "'", EINVAL);
    if (nbd_can_multi_conn(h) == 1)
      while (all_.size() < kHandles && add_handle()) {
      }
    return {};
  }

  const std::string& name() const override { return name_; }
  bool read_only() const override { return read_only_; }
  uint64_t size() const override { return size_; }

  Result<> readv(uint64_t offset, std::span<const iovec> to) override {
    Handle h(*this);
    for (const iovec& part : to)
      for (size_t done = 0; done < part.iov_len;) {
        auto* at = static_cast<std::byte*>(part.iov_base) + done;
        size_t n = std::min<uint64_t>(part.iov_len - done, kPiece);
        const uint64_t have = offset < size_ ? size_ - offset : 0;
        if (have == 0) memset(at, 0, n);
        else if (n = std::min<uint64_t>(n, have); nbd_pread(h.get(), at, n, offset, 0) != 0) return failed("reading from " + name_);
        done += n;
        offset += n;
      }
    return {};
  }

  Result<> writev(uint64_t offset, std::span<const iovec> from) override {
    Handle h(*this);
    for (const iovec& part : from)
      for (size_t done = 0; done < part.iov_len;) {
        size_t n = std::min<uint64_t>(part.iov_len - done, kPiece);
        if (offset > size_ || n > size_ - offset) return fail(ErrorKind::kIo, "writing past the end of " + name_, ENOSPC);
        if (nbd_pwrite(h.get(), static_cast<std::byte*>(part.iov_base) + done, n, offset, 0) != 0) return failed("writing to " + name_);
        done += n;
        offset += n;
      }
    return {};
  }

  Result<> flush() override {
    if (!can_flush_) return {};
    Handle h(*this);
    return nbd_flush(h.get(), 0) == 0 ? Result<>{} : failed("flushing " + name_);
  }

  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override {
    if (offset >= size_) return {};
    length = std::min(length, size_ - offset);
    if (can_zero_) {
      Handle h(*this);
      for (uint64_t n; length; offset += n, length -= n) {
        n = std::min<uint64_t>(length, 1u << 30);
        if (nbd_zero(h.get(), n, offset, unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE) != 0) return failed("zeroing " + name_);
      }
      return {};
    }
    std::vector<std::byte> zeroes(std::min(length, kPiece));
    for (uint64_t n; length; offset += n, length -= n) {
      n = std::min<uint64_t>(length, zeroes.size());
      TRY_VOID(write(offset, std::span<const std::byte>(zeroes).first(n)));
    }
    return {};
  }

  void discard(uint64_t offset, uint64_t length) override {
    if (!can_trim_ || offset >= size_) return;
    length = std::min(length, size_ - offset);
    Handle h(*this);
    for (uint64_t n; length; offset += n, length -= n) {
      n = std::min<uint64_t>(length, 1u << 30);
      (void)nbd_trim(h.get(), n, offset, 0);  // a hint
    }
  }

  Result<> truncate(uint64_t size) override {
    if (size <= size_) return {};
    return fail(ErrorKind::kUnsupported, "an NBD export cannot grow", ENOTSUP);
  }
  Result<> reserve(uint64_t, uint64_t) override { return {}; }

  FileExtent extent(uint64_t offset, uint64_t length) override {
    FileExtent out{length, offset >= size_};
    if (!can_map_ || out.hole || length == 0) return out;
    struct Answer {
      const NbdFile* file;
      FileExtent found{};
    } answer{this};
    nbd_extent_callback callback{.callback =
                                     [](void* user, const char* context, uint64_t, uint32_t* entries, size_t count, int*) -> int {
                                       auto* a = static_cast<Answer*>(user);
                                       if (a->file->context_ != context) return 0;
                                       for (size_t i = 0; i + 1 < count; i += 2) {
                                         // Only a hole that reads as zeroes is one here; what a bitmap marks is shown as absent.
                                         const bool hole = a->file->context_ == LIBNBD_CONTEXT_BASE_ALLOCATION ? (entries[i + 1] & LIBNBD_STATE_ZERO) != 0 : entries[i + 1] != 0;
                                         if (a->found.length && hole != a->found.hole) break;
                                         a->found.hole = hole;
                                         a->found.length += entries[i];
                                       }
                                       return 0;
                                     },
                                 .user_data = &answer, .free = nullptr};
    Handle h(*this);
    const uint64_t asked = std::min<uint64_t>({length, size_ - offset, 1u << 30});
    if (nbd_block_status(h.get(), asked, offset, callback, 0) != 0 || answer.found.length == 0) return {asked, false};
    answer.found.length = std::min(answer.found.length, length);
    answer.found.absent = answer.found.hole && context_ != LIBNBD_CONTEXT_BASE_ALLOCATION;
    return answer.found;
  }

  uint64_t allocated() const override { return size_; }  // the server does not say
  bool grows() const override { return false; }
  bool new_space_is_zero() const override { return false; }

 private:
  // One of the handles, for as long as it lives.
  class Handle {
   public:
    explicit Handle(NbdFile& file) : file_(file) {
      std::unique_lock lock(file.mutex_);
      file.free_.wait(lock, [&] { return !file.idle_.empty(); });
      handle_ = file.idle_.back();
      file.idle_.pop_back();
    }
    ~Handle() {
      std::lock_guard lock(file_.mutex_);
      file_.idle_.push_back(handle_);
      file_.free_.notify_one();
    }
    Handle(const Handle&) = delete;
    nbd_handle* get() { return handle_; }

   private:
    NbdFile& file_;
    nbd_handle* handle_;
  };

  Result<> add_handle() {
    nbd_handle* h = nbd_create();
    if (!h) return failed(name_);
    const bool good = nbd_add_meta_context(h, context_.c_str()) == 0 && nbd_set_uri_allow_transports(h, LIBNBD_ALLOW_TRANSPORT_TCP | LIBNBD_ALLOW_TRANSPORT_UNIX) == 0 &&
                      nbd_connect_uri(h, name_.c_str()) == 0;
    if (!good) {
      auto error = failed("Failed to connect to '" + name_ + "'");
      nbd_close(h);
      return error;
    }
    std::lock_guard lock(mutex_);
    all_.push_back(h);
    idle_.push_back(h);
    return {};
  }

  std::string name_, context_;
  uint64_t size_ = 0;
  bool read_only_ = false, can_flush_ = false, can_trim_ = false, can_zero_ = false, can_map_ = false;
  std::mutex mutex_;
  std::condition_variable free_;
  std::vector<nbd_handle*> all_, idle_;
};

}  // namespace

std::string unix_uri(const std::string& path, const std::string& export_name) { return "nbd+unix:///" + escaped(export_name) + "?socket=" + escaped(path); }

std::string tcp_uri(const std::string& host, const std::string& port, const std::string& export_name) {
  const bool v6 = host.find(':') != std::string::npos && !host.starts_with("[");
  return "nbd://" + (v6 ? "[" + host + "]" : host) + (port.empty() ? "" : ":" + port) + "/" + escaped(export_name);
}

std::optional<Address> parse_address(const std::string& name) {
  for (const char* scheme : {"nbd://", "nbds://", "nbd+tcp://", "nbd+unix://", "nbds+unix://"}) {
    if (!name.starts_with(scheme)) continue;
    return Address{name.starts_with("nbd+tcp://") ? "nbd" + name.substr(7) : name, ""};
  }
  if (!name.starts_with("nbd:")) return std::nullopt;
  std::string rest = name.substr(4), export_name;
  if (size_t at = rest.find(":exportname="); at != std::string::npos) export_name = rest.substr(at + 12), rest.resize(at);
  if (rest.starts_with("unix:")) return Address{unix_uri(rest.substr(5), export_name), ""};
  size_t colon = rest.rfind(':');
  if (colon == std::string::npos) return std::nullopt;
  return Address{tcp_uri(rest.substr(0, colon), rest.substr(colon + 1), export_name), ""};
}

Result<std::unique_ptr<File>> open_nbd(const Address& address, bool read_only) {
  TRY_VOID(load_library(vireo_delay_load_nbd));
  auto file = std::make_unique<NbdFile>(address.uri, address.context.empty() ? LIBNBD_CONTEXT_BASE_ALLOCATION : address.context);
  TRY_VOID(file->connect(read_only));
  return file;
}

}  // namespace vireo::storage::nbd
