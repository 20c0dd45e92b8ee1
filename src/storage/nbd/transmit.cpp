// SPDX-License-Identifier: Apache-2.0
// Requests and answers. Spec: doc/proto.md, "Transmission phase".
#include <algorithm>

#include "storage/nbd/connection.h"
#include "storage/nbd/protocol.h"

namespace vireo::storage::nbd {
namespace {

using qcow2::load;
using qcow2::store;
constexpr uint64_t kMostInMemory = 128 << 20;

// The protocol knows these errno values; all else is an input or output error.
uint32_t wire_error(int code) {
  switch (code) {
    case EPERM: case EROFS: case EACCES: return 1;
    case ENOMEM: return 12;
    case EINVAL: return 22;
    case ENOSPC: case EFBIG: return 28;
    case EOVERFLOW: return 75;
    case ENOTSUP: return 95;
    case ESHUTDOWN: return 108;
    default: return 5;
  }
}

// Goes to TLS in a channel's place, which can be shut meanwhile.
class LentChannel final : public Channel {
 public:
  explicit LentChannel(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}
  Result<> read(std::span<std::byte> to) override { return channel_->read(to); }
  Result<> write(std::span<const std::byte> from) override { return channel_->write(from); }
  void shut() override { channel_->shut(); }

 private:
  const std::shared_ptr<Channel> channel_;
};

}  // namespace

Connection::Connection(const Export& what, std::unique_ptr<Channel> channel, unsigned threads)
    : export_(what), below_(std::move(channel)), channel_(std::make_unique<LentChannel>(below_)), thread_count_(threads) {}

Connection::~Connection() {
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    wake_.notify_all();
  }
  for (auto& t : threads_) t.join();
}

void Connection::shut() { below_->shut(); }

Result<> Connection::send_all(std::initializer_list<std::span<const std::byte>> parts) {
  // One write for small answers: they are one packet then.
  size_t sum = 0;
  for (auto p : parts) sum += p.size();
  std::lock_guard lock(send_mutex_);
  if (sum <= 65536) {
    std::vector<std::byte> all;
    all.reserve(sum);
    for (auto p : parts) all.insert(all.end(), p.begin(), p.end());
    return channel_->write(all);
  }
  for (auto p : parts) TRY_VOID(channel_->write(p));
  return {};
}

Result<> Connection::serve() {
  if (!TRY(negotiate())) return {};
  for (unsigned i = 0; i < thread_count_; ++i) threads_.emplace_back([this] { work(); });
  auto result = transmit();
  {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return in_memory_ == 0; });
  }
  if (!export_.read_only)
    if (auto flushed = export_.image->flush(); !flushed && result) result = flushed;
  return result;
}

Result<> Connection::transmit() {
  for (;;) {
    std::byte head[28];
    if (auto got = channel_->read(head); !got) {
      if (got.error().kind == ErrorKind::kNotFound) return {};
      return got;
    }
    if (load<uint32_t>(head) != kRequestMagic) return fail(ErrorKind::kCorrupt, "the client breaks the protocol: a request without its magic number", EPROTO);
    Request r{.flags = load<uint16_t>(head + 4), .type = load<uint16_t>(head + 6), .cookie = load<uint64_t>(head + 8),
              .offset = load<uint64_t>(head + 16), .length = load<uint32_t>(head + 24), .data = {}};
    if (r.type == command::kDisconnect) return {};
    if (r.type == command::kWrite) {
      if (r.length > kMaxTransfer) return fail(ErrorKind::kCorrupt, "the client breaks the protocol: a write is too long", EPROTO);
      r.data.resize(r.length);
      TRY_VOID(channel_->read(r.data));
    }
    if (thread_count_ == 0) {
      TRY_VOID(handle(r));
      continue;
    }
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return broken_ || in_memory_ < kMostInMemory; });
    if (broken_) return fail(ErrorKind::kIo, "an answer could not be sent", EPIPE);
    in_memory_ += weight(r);
    waiting_.push_back(std::move(r));
    wake_.notify_one();
  }
}

void Connection::work() {
  for (;;) {
    Request r;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return ended_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      r = std::move(waiting_.front());
      waiting_.pop_front();
    }
    auto result = handle(r);
    std::lock_guard lock(mutex_);
    in_memory_ -= weight(r);
    if (!result) broken_ = true;
    room_.notify_all();
  }
}

// What is wrong with a request, before anything is done.
std::string Connection::check(const Request& r, uint32_t& error) const {
  using namespace command;
  const uint64_t size = export_.image->size();
  const bool changes = r.type == kWrite || r.type == kTrim || r.type == kWriteZeroes;
  error = wire_error(EINVAL);
  if (r.type > kBlockStatus) return "an unknown command";
  if (changes && export_.read_only) return error = wire_error(EPERM), "the export is read-only";
  uint16_t allowed = command_flag::kFua;
  if (r.type == kWriteZeroes) allowed |= command_flag::kNoHole;
  if (r.type == kRead && structured_) allowed |= command_flag::kDf;
  if (r.type == kBlockStatus) allowed |= command_flag::kReqOne;
  if (r.flags & ~allowed) return "an unknown flag";
  if (r.type == kFlush) return r.offset || r.length ? "a flush has no range" : "";
  if (r.type == kRead && r.length > kMaxTransfer) return "a read is too long";
  if (r.offset > size || r.length > size - r.offset) {
    if (changes) error = wire_error(ENOSPC);
    return "the range lies beyond the end";
  }
  if (r.type == kBlockStatus && (contexts_.empty() || r.length == 0)) return "no context was chosen, or nothing is asked about";
  return "";
}

Result<> Connection::handle(const Request& r) {
  uint32_t error = 0;
  if (std::string why = check(r, error); !why.empty()) {
    // The value is on the wire's side already; answer() maps it to itself.
    return answer(r, fail(ErrorKind::kInvalid, why, static_cast<int>(error == 28 ? ENOSPC : error == 1 ? EPERM : EINVAL)));
  }
  if (r.type == command::kRead) return read(r);
  if (r.type == command::kBlockStatus) return block_status(r);
  return answer(r, act(r));
}

Result<> Connection::act(const Request& r) {
  Image& image = *export_.image;
  switch (r.type) {
    case command::kWrite: TRY_VOID(image.write(r.offset, std::span<const std::byte>(r.data))); break;
    case command::kTrim: TRY_VOID(image.discard(r.offset, r.length)); break;
    case command::kWriteZeroes: TRY_VOID(image.write_zeroes(r.offset, r.length, !(r.flags & command_flag::kNoHole))); break;
    case command::kFlush: return export_.read_only ? Result<>{} : image.flush();
    case command::kCache: return {};
    default: return fail(ErrorKind::kInvalid, "an unknown command", EINVAL);
  }
  return r.flags & command_flag::kFua ? image.flush() : Result<>{};
}

Result<> Connection::send_chunk(const Request& r, uint16_t flags, uint16_t type, std::span<const std::byte> head, std::span<const std::byte> body) {
  std::byte out[20];
  store(out, kStructuredReplyMagic);
  store(out + 4, flags);
  store(out + 6, type);
  store(out + 8, r.cookie);
  store(out + 16, static_cast<uint32_t>(head.size() + body.size()));
  return send_all({out, head, body});
}

Result<> Connection::answer(const Request& r, const Result<>& result) {
  const uint32_t error = result ? 0 : wire_error(result.error().code);
  if (structured_ && (error || r.type == command::kRead || r.type == command::kBlockStatus)) {
    if (!error) return send_chunk(r, chunk::kDone, chunk::kNone, {});
    std::byte head[6];
    const std::string text = result.error().message.substr(0, 1024);
    store(head, error);
    store(head + 4, static_cast<uint16_t>(text.size()));
    return send_chunk(r, chunk::kDone, chunk::kError, head, std::as_bytes(std::span(text)));
  }
  std::byte out[16];
  store(out, kSimpleReplyMagic);
  store(out + 4, error);
  store(out + 8, r.cookie);
  return send_all({out});
}

Result<> Connection::read(const Request& r) {
  Image& image = *export_.image;
  std::vector<std::byte> data;
  if (!structured_ || r.flags & command_flag::kDf || r.length == 0) {
    data.resize(r.length);
    if (auto got = image.read(r.offset, data); !got) return answer(r, got);
    if (!structured_) {
      std::byte out[16];
      store(out, kSimpleReplyMagic);
      store(out + 4, uint32_t{0});
      store(out + 8, r.cookie);
      return send_all({out, data});
    }
    if (r.length == 0) return answer(r, {});
    std::byte head[8];
    store(head, r.offset);
    return send_chunk(r, chunk::kDone, chunk::kOffsetData, head, data);
  }
  // Holes are told, not sent.
  for (uint64_t at = r.offset, end = r.offset + r.length; at < end;) {
    auto extent = status_above(image, nullptr, at, end - at);
    if (!extent) return answer(r, std::unexpected(extent.error()));
    uint64_t length = extent->length;
    for (bool zero = extent->zero; at + length < end;) {
      auto next = status_above(image, nullptr, at + length, end - at - length);
      if (!next || next->zero != zero) break;
      length += next->length;
    }
    const uint16_t flags = at + length == end ? chunk::kDone : 0;
    std::byte head[12];
    store(head, at);
    if (extent->zero) {
      store(head + 8, static_cast<uint32_t>(length));
      TRY_VOID(send_chunk(r, flags, chunk::kOffsetHole, head));
    } else {
      data.resize(length);
      if (auto got = image.read(at, data); !got) return answer(r, got);
      TRY_VOID(send_chunk(r, flags, chunk::kOffsetData, std::span(head).first(8), data));
    }
    at += length;
  }
  return {};
}

Result<> Connection::block_status(const Request& r) {
  const size_t most = r.flags & command_flag::kReqOne ? 1 : kMaxDescriptors;
  for (size_t i = 0; i < contexts_.size(); ++i) {
    const uint32_t id = contexts_[i];
    std::vector<std::pair<uint32_t, uint32_t>> found;  // length, state
    for (uint64_t at = r.offset, end = r.offset + r.length; at < end;) {
      uint64_t length = 0;
      uint32_t state = 0;
      if (id == 0) {
        auto extent = status_above(*export_.image, nullptr, at, end - at);
        if (!extent) return answer(r, std::unexpected(extent.error()));
        length = extent->length;
        state = (extent->zero ? state::kZero : 0) | (extent->data || extent->compressed || !extent->zero ? 0 : state::kHole);
      } else {
        auto run = export_.bitmaps[id - 1].second->run(at);
        length = std::min(run.length, end - at);
        state = run.dirty;
      }
      if (length == 0) break;
      if (!found.empty() && found.back().second == state) found.back().first += static_cast<uint32_t>(length);
      else if (found.size() == most) break;
      else found.emplace_back(static_cast<uint32_t>(length), state);
      at += length;
    }
    if (found.empty()) return answer(r, fail(ErrorKind::kIo, "nothing is known of the range", EIO));
    std::byte head[4];
    store(head, id);
    std::vector<std::byte> body(found.size() * 8);
    for (size_t k = 0; k < found.size(); ++k) store(&body[k * 8], found[k].first), store(&body[k * 8 + 4], found[k].second);
    TRY_VOID(send_chunk(r, i + 1 == contexts_.size() ? chunk::kDone : 0, chunk::kBlockStatus, head, body));
  }
  return {};
}

}  // namespace vireo::storage::nbd
