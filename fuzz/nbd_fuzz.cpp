// SPDX-License-Identifier: Apache-2.0
// A client of `vireo nbd` that sends arbitrary bytes: the handshake's options, then requests. The first byte says whether the
// export is writable and whether the fuzzer begins with the requests (a handshake that ends well comes first), so that both
// are reached from the first input on.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "storage/file/memory_file.h"
#include "storage/nbd/connection.h"
#include "storage/nbd/protocol.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/qcow2.h"

using namespace vireo;
using namespace vireo::storage;

namespace {

class Script final : public nbd::Channel {
 public:
  explicit Script(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  Result<> read(std::span<std::byte> to) override {
    if (bytes_.size() - at_ < to.size()) {
      const bool nothing = at_ == bytes_.size();
      at_ = bytes_.size();
      return fail(nothing ? ErrorKind::kNotFound : ErrorKind::kIo, "the end", ECONNRESET);
    }
    std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(at_), to.size(), to.begin());
    at_ += to.size();
    return {};
  }
  Result<> write(std::span<const std::byte> from) override {
    sent_ += from.size();
    return sent_ < (256 << 20) ? Result<>{} : fail(ErrorKind::kIo, "enough", EPIPE);
  }
  void shut() override {}

 private:
  std::vector<std::byte> bytes_;
  size_t at_ = 0;
  uint64_t sent_ = 0;
};

template <class T>
void put(std::vector<std::byte>& out, T value) {
  out.resize(out.size() + sizeof value);
  qcow2::store(&out[out.size() - sizeof value], value);
}

std::shared_ptr<Image> disk() {
  auto file = std::make_unique<MemoryFile>();
  file->fault = [](MemoryFile::Op op, uint64_t offset, uint64_t length) {
    return op == MemoryFile::Op::kRead || op == MemoryFile::Op::kFlush || (offset < (4 << 20) && length < (4 << 20) - offset) ? 0 : ENOSPC;
  };
  if (!qcow2::create(*file, {.size = 1 << 20, .cluster_size = 4096})) abort();
  auto opened = qcow2::Qcow2::open(std::move(file), nullptr, {.l2_cache = 1 << 16, .refcount_cache = 1 << 16});
  if (!opened) abort();
  (void)(*opened)->add_bitmap("b", 12, false);
  std::vector<std::byte> data(9000, std::byte{3});
  (void)(*opened)->write(20000, std::span<const std::byte>(data));
  return std::move(*opened);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  set_log_level(LogLevel::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  auto image = disk();
  auto* q = dynamic_cast<qcow2::Qcow2*>(image.get());
  auto bits = q->bitmap_bits("b");
  if (!bits) abort();
  nbd::Export what{.name = "e", .description = "d", .image = image, .read_only = (data[0] & 1) != 0, .bitmaps = {{"b", *bits}}, .start_tls = {}};
  std::vector<std::byte> bytes;
  put(bytes, uint32_t{3});  // the client's flags
  if (data[0] & 2) {
    auto option = [&](uint32_t type, std::span<const std::byte> body) {
      put(bytes, nbd::kOptionMagic);
      put(bytes, type);
      put(bytes, static_cast<uint32_t>(body.size()));
      bytes.insert(bytes.end(), body.begin(), body.end());
    };
    if (data[0] & 4) option(nbd::option::kStructuredReply, {});
    std::vector<std::byte> contexts, go;
    put(contexts, uint32_t{0});
    put(contexts, uint32_t{2});
    for (const char* name : {"base:allocation", "qemu:dirty-bitmap:b"}) {
      put(contexts, static_cast<uint32_t>(strlen(name)));
      for (const char* c = name; *c; ++c) contexts.push_back(static_cast<std::byte>(*c));
    }
    option(nbd::option::kSetMetaContext, contexts);
    put(go, uint32_t{0});
    put(go, uint16_t{0});
    option(nbd::option::kGo, go);
    // Requests without their magic number, which the fuzzer would have to guess each time.
    for (size_t at = 1; at + 24 <= size;) {
      put(bytes, nbd::kRequestMagic);
      const size_t head = bytes.size();
      for (int i = 0; i < 24; ++i) bytes.push_back(static_cast<std::byte>(data[at++]));
      bytes[head + 12] = bytes[head + 13] = bytes[head + 14] = bytes[head + 15] = std::byte{0};  // offsets near the disk
      if (qcow2::load<uint16_t>(&bytes[head + 2]) == nbd::command::kWrite) {
        auto length = qcow2::load<uint32_t>(&bytes[head + 20]) & 0xffff;
        qcow2::store(&bytes[head + 20], static_cast<uint32_t>(length));
        bytes.resize(bytes.size() + length, std::byte{data[0]});
      }
    }
  } else {
    for (size_t i = 1; i < size; ++i) bytes.push_back(static_cast<std::byte>(data[i]));
  }
  {
    nbd::Connection connection(what, std::make_unique<Script>(std::move(bytes)), 0);
    (void)connection.serve();
  }
  if (!q->close()) q->abandon();
  return 0;
}
