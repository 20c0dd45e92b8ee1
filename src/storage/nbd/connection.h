// SPDX-License-Identifier: Apache-2.0
// One client of an export: fixed newstyle negotiation, then requests, several of them at a time. All that comes from the
// client is bounded before it is used: names, options, lengths, and how much of all this is in memory at once.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "storage/image/image.h"
#include "storage/nbd/channel.h"
#include "storage/qcow2/bitmap.h"

namespace vireo::storage::nbd {

struct Export {
  std::string name, description;
  std::shared_ptr<Image> image;
  bool read_only = false;
  // Shown as "qemu:dirty-bitmap:NAME".
  std::vector<std::pair<std::string, const qcow2::BitmapBits*>> bitmaps;
  // TLS over an accepted connection; empty: there is none. `tls_required`: nothing is said of the export without it.
  std::function<Result<std::unique_ptr<Channel>>(std::unique_ptr<Channel>)> start_tls;
  bool tls_required = false;
  // A client that is told of several connections would wait for its second one for ever.
  bool one_connection = false;
};

class Connection {
 public:
  // `threads`: that work on requests; 0: one request after the other, in the calling thread.
  Connection(const Export& what, std::unique_ptr<Channel> channel, unsigned threads);
  ~Connection();
  // Until the client leaves (fine) or breaks the protocol (an error).
  Result<> serve();
  void shut();  // from any thread

 private:
  struct Request {
    uint16_t flags = 0, type = 0;
    uint64_t cookie = 0, offset = 0;
    uint32_t length = 0;
    std::vector<std::byte> data;  // of a write
  };
  // negotiate.cpp
  Result<bool> negotiate();  // false: the client left
  Result<> send_option(uint32_t option, uint32_t type, std::span<const std::byte> data = {});
  Result<> refuse(uint32_t option, uint32_t type, const std::string& why);
  Result<bool> go(uint32_t option, std::span<const std::byte> data);
  Result<> meta_context(uint32_t option, std::span<const std::byte> data);
  Result<> list(std::span<const std::byte> data);
  uint16_t flags() const;
  bool is_export(const std::string& name) const { return name.empty() || name == export_.name; }
  // transmit.cpp
  Result<> transmit();
  Result<> handle(const Request& request);
  Result<> act(const Request& request);  // everything that has no answer but its success
  Result<> read(const Request& request);
  Result<> block_status(const Request& request);
  Result<> answer(const Request& request, const Result<>& result);
  Result<> send_chunk(const Request& request, uint16_t flags, uint16_t type, std::span<const std::byte> head, std::span<const std::byte> body = {});
  Result<> send_all(std::initializer_list<std::span<const std::byte>> parts);
  std::string check(const Request& request, uint32_t& error) const;
  void work();
  uint64_t weight(const Request& r) const { return r.data.size() + (r.type == 0 ? r.length : 0) + 4096; }

  const Export& export_;
  const std::shared_ptr<Channel> below_;  // what shut() ends, whatever is being put above it
  std::unique_ptr<Channel> channel_;      // it, or TLS above it
  bool no_zeroes_ = false, structured_ = false, tls_ = false;
  std::vector<uint32_t> contexts_;  // chosen: 0 base:allocation, 1.. bitmaps

  unsigned thread_count_;
  std::mutex send_mutex_, mutex_;
  std::condition_variable wake_, room_;
  std::deque<Request> waiting_;
  uint64_t in_memory_ = 0;
  bool ended_ = false, broken_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace vireo::storage::nbd
