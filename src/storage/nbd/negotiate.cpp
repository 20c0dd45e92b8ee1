// SPDX-License-Identifier: Apache-2.0
// The handshake: what the client may ask before it settles on an export. Spec: doc/proto.md, "Fixed newstyle negotiation".
#include "storage/nbd/connection.h"
#include "storage/nbd/protocol.h"

namespace vireo::storage::nbd {
namespace {

using qcow2::load;
using qcow2::store;
constexpr char kAllocation[] = "base:allocation", kDirty[] = "qemu:dirty-bitmap:";

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s)); }
std::unexpected<Error> broken(const char* what) { return fail(ErrorKind::kCorrupt, std::string("the client breaks the protocol: ") + what, EPROTO); }

// Reads from an option's data; each value is checked against what is left.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> data) : left_(data) {}
  template <class T>
  bool number(T& out) {
    if (left_.size() < sizeof(T)) return false;
    out = load<T>(left_.data());
    left_ = left_.subspan(sizeof(T));
    return true;
  }
  bool text(std::string& out) {
    uint32_t length = 0;
    if (!number(length) || length > left_.size() || length > kMaxName) return false;
    out.assign(reinterpret_cast<const char*>(left_.data()), length);
    left_ = left_.subspan(length);
    return true;
  }
  bool empty() const { return left_.empty(); }

 private:
  std::span<const std::byte> left_;
};

}  // namespace

Result<> Connection::send_option(uint32_t option, uint32_t type, std::span<const std::byte> data) {
  std::byte head[20];
  store(head, kOptionReplyMagic);
  store(head + 8, option);
  store(head + 12, type);
  store(head + 16, static_cast<uint32_t>(data.size()));
  return send_all({head, data});
}

Result<> Connection::refuse(uint32_t option, uint32_t type, const std::string& why) { return send_option(option, type, bytes_of(why)); }

uint16_t Connection::flags() const {
  uint16_t out = flag::kHasFlags | flag::kSendFlush | flag::kSendFua | flag::kMultiConn | flag::kSendCache;
  if (export_.one_connection) out &= static_cast<uint16_t>(~flag::kMultiConn);
  out |= export_.read_only ? flag::kReadOnly : flag::kSendTrim | flag::kSendWriteZeroes;
  if (structured_) out |= flag::kSendDf;
  return out;
}

Result<> Connection::list(std::span<const std::byte> data) {
  if (!data.empty()) return refuse(option::kList, reply::kErrInvalid, "an unexpected payload");
  std::vector<std::byte> one(4);
  store(one.data(), static_cast<uint32_t>(export_.name.size()));
  for (const std::string& s : {export_.name, export_.description}) one.insert(one.end(), bytes_of(s).begin(), bytes_of(s).end());
  TRY_VOID(send_option(option::kList, reply::kServer, one));
  return send_option(option::kList, reply::kAck);
}

// True: the export is chosen.
Result<bool> Connection::go(uint32_t option, std::span<const std::byte> data) {
  Cursor in(data);
  std::string name;
  uint16_t count = 0;
  std::vector<uint16_t> wanted;
  bool good = in.text(name) && in.number(count);
  for (unsigned i = 0; good && i < count; ++i) {
    uint16_t type = 0;
    good = in.number(type);
    wanted.push_back(type);
  }
  if (!good || !in.empty()) {
    TRY_VOID(refuse(option, reply::kErrInvalid, "the option's length is wrong"));
    return false;
  }
  if (!is_export(name)) {
    TRY_VOID(refuse(option, reply::kErrUnknown, "there is no export of that name"));
    return false;
  }
  auto asked = [&](uint16_t type) { return std::find(wanted.begin(), wanted.end(), type) != wanted.end(); };
  auto text = [&](uint16_t type, const std::string& s) -> Result<> {
    std::vector<std::byte> out(2);
    store(out.data(), type);
    out.insert(out.end(), bytes_of(s).begin(), bytes_of(s).end());
    return send_option(option, reply::kInfo, out);
  };
  if (asked(info::kName)) TRY_VOID(text(info::kName, export_.name));
  if (asked(info::kDescription) && !export_.description.empty()) TRY_VOID(text(info::kDescription, export_.description));
  std::byte sizes[14], what[12];
  store(sizes, info::kBlockSize);
  store(sizes + 2, uint32_t{1});
  store(sizes + 6, uint32_t{65536});
  store(sizes + 10, kMaxTransfer);
  TRY_VOID(send_option(option, reply::kInfo, sizes));
  store(what, info::kExport);
  store(what + 2, export_.image->size());
  store(what + 10, flags());
  TRY_VOID(send_option(option, reply::kInfo, what));
  TRY_VOID(send_option(option, reply::kAck));
  return option == option::kGo;
}

Result<> Connection::meta_context(uint32_t option, std::span<const std::byte> data) {
  const bool set = option == option::kSetMetaContext;
  if (set) contexts_.clear();
  if (!structured_) return refuse(option, reply::kErrInvalid, "structured replies must come first");
  Cursor in(data);
  std::string name;
  uint32_t count = 0;
  if (!in.text(name) || !in.number(count)) return refuse(option, reply::kErrInvalid, "the option's length is wrong");
  std::vector<std::string> queries;
  for (uint32_t i = 0; i < count; ++i) {
    std::string query;
    if (!in.text(query)) return refuse(option, reply::kErrInvalid, "the option's length is wrong");
    queries.push_back(query);
  }
  if (!in.empty()) return refuse(option, reply::kErrInvalid, "the option's length is wrong");
  if (!is_export(name)) return refuse(option, reply::kErrUnknown, "there is no export of that name");
  std::vector<std::string> names = {kAllocation};
  for (auto& [bitmap, bits] : export_.bitmaps) names.push_back(kDirty + bitmap);
  for (uint32_t id = 0; id < names.size() && contexts_.size() < kMaxContexts; ++id) {
    bool chosen = !set && queries.empty();
    for (const std::string& query : queries) {
      chosen |= query == names[id];
      // A list may ask for a whole name space.
      if (!set) chosen |= query.ends_with(":") && names[id].starts_with(query);
    }
    if (!chosen) continue;
    if (set) contexts_.push_back(id);
    std::vector<std::byte> out(4);
    store(out.data(), set ? id : 0);
    out.insert(out.end(), bytes_of(names[id]).begin(), bytes_of(names[id]).end());
    TRY_VOID(send_option(option, reply::kMetaContext, out));
  }
  return send_option(option, reply::kAck);
}

Result<bool> Connection::negotiate() {
  std::byte hello[18], client[4];
  store(hello, kMagic);
  store(hello + 8, kOptionMagic);
  store(hello + 16, static_cast<uint16_t>(handshake::kFixedNewstyle | handshake::kNoZeroes));
  TRY_VOID(send_all({hello}));
  TRY_VOID(channel_->read(client));
  auto said = load<uint32_t>(client);
  if (said & ~uint32_t{handshake::kFixedNewstyle | handshake::kNoZeroes}) return broken("unknown flags");
  no_zeroes_ = said & handshake::kNoZeroes;
  for (;;) {
    std::byte head[16];
    if (auto got = channel_->read(head); !got) {
      if (got.error().kind == ErrorKind::kNotFound) return false;
      return std::unexpected(std::move(got).error());
    }
    if (load<uint64_t>(head) != kOptionMagic) return broken("an option without its magic number");
    auto what = load<uint32_t>(head + 8), length = load<uint32_t>(head + 12);
    if (length > kMaxOption) return broken("an option is too long");
    std::vector<std::byte> data(length);
    TRY_VOID(channel_->read(data));
    if (export_.tls_required && !tls_ && what != option::kStartTls && what != option::kAbort) {
      if (what == option::kExportName) return broken("TLS is required");
      TRY_VOID(refuse(what, reply::kErrTlsRequired, "TLS is required"));
      continue;
    }
    switch (what) {
      case option::kAbort:
        (void)send_option(what, reply::kAck);
        return false;
      case option::kExportName: {
        std::string name(reinterpret_cast<const char*>(data.data()), data.size());
        if (!is_export(name)) return broken("there is no export of that name");
        std::byte out[134] = {};
        store(out, export_.image->size());
        store(out + 8, flags());
        TRY_VOID(send_all({std::span(out).first(no_zeroes_ ? 10 : 134)}));
        return true;
      }
      case option::kList: TRY_VOID(list(data)); break;
      case option::kInfo:
      case option::kGo:
        if (TRY(go(what, data))) return true;
        break;
      case option::kStructuredReply:
        if (!data.empty()) {
          TRY_VOID(refuse(what, reply::kErrInvalid, "an unexpected payload"));
          break;
        }
        structured_ = true;
        TRY_VOID(send_option(what, reply::kAck));
        break;
      case option::kListMetaContext:
      case option::kSetMetaContext: TRY_VOID(meta_context(what, data)); break;
      case option::kStartTls: {
        if (!export_.start_tls || tls_ || !data.empty()) {
          TRY_VOID(refuse(what, tls_ || !data.empty() ? reply::kErrInvalid : reply::kErrPolicy, "TLS is not configured, or there already"));
          break;
        }
        TRY_VOID(send_option(what, reply::kAck));
        channel_ = TRY(export_.start_tls(std::move(channel_)));
        // What was agreed on in the clear does not count.
        tls_ = true;
        structured_ = false;
        contexts_.clear();
        break;
      }
      default: TRY_VOID(refuse(what, reply::kErrUnsupported, "an unknown option"));
    }
  }
}

}  // namespace vireo::storage::nbd
