// SPDX-License-Identifier: Apache-2.0
// Compressed clusters (raw deflate, zstd): arbitrary bytes are decompressed, into clusters of several sizes; and the bytes
// themselves as a cluster come back from compression as they were. The first byte picks the method, the size and which.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "storage/qcow2/compression.h"

using namespace vireo::storage::qcow2;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const Compression method = data[0] & 1 ? Compression::kZstd : Compression::kZlib;
  const size_t cluster = size_t{512} << (data[0] >> 2 & 15) % 9;
  const auto in = std::as_bytes(std::span(data + 1, size - 1));
  std::vector<std::byte> out(cluster);
  if (data[0] & 2) {
    (void)decompress_cluster(method, in, out);
    return 0;
  }
  std::vector<std::byte> plain(cluster);
  for (size_t at = 0; at < cluster && !in.empty(); at += in.size()) memcpy(&plain[at], in.data(), std::min(in.size(), cluster - at));
  const auto packed = compress_cluster(method, plain);
  if (packed.size() >= cluster) abort();
  if (!packed.empty() && (!decompress_cluster(method, packed, out) || out != plain)) abort();
  return 0;
}
