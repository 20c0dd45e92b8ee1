// SPDX-License-Identifier: Apache-2.0
// Compressed clusters: raw deflate (RFC 1951; by libdeflate, which is several times zlib's speed) and zstd (RFC 8878).
// A few decompressed ones are kept, since guests read in pieces smaller than a cluster.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "storage/qcow2/layout.h"

namespace vireo::storage::qcow2 {

// Empty: it would not become smaller than the input.
std::vector<std::byte> compress_cluster(Compression method, std::span<const std::byte> in);
// `in` may have anything after the stream's end. The output must come out whole.
bool decompress_cluster(Compression method, std::span<const std::byte> in, std::span<std::byte> out);

class ClusterCache {
 public:
  using Data = std::shared_ptr<const std::vector<std::byte>>;
  explicit ClusterCache(uint64_t cluster_size) : limit_(std::max<uint64_t>(4, (8 << 20) / cluster_size)) {}
  Data find(uint64_t word);
  // The same, but waits for who is making it; null: the caller makes it now and says so by made(), with null if that failed.
  Data find_or_make(uint64_t word);
  void made(uint64_t word, Data data);
  void clear();

 private:
  Data look(uint64_t word);

  std::mutex mutex_;
  std::condition_variable made_;
  std::vector<uint64_t> making_;
  size_t limit_;
  std::deque<std::pair<uint64_t, Data>> kept_;  // latest first
};

}  // namespace vireo::storage::qcow2
