// SPDX-License-Identifier: Apache-2.0
// What a file's name may say (json:{...}), which an overlay's header may hold as its backing file's name, how a qcow2 image
// is to be used, and rules of blkdebug. What is taken comes out of its own JSON as it went in. Nothing is opened.
#include <cstdint>
#include <cstdlib>

#include "storage/file/blkdebug_rules.h"
#include "storage/image/qcow2_options.h"

using namespace vireo::storage;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto spec = ImageSpec::from_json("json:" + std::string(reinterpret_cast<const char*>(data), size));
  if (!spec) return 0;
  ImageSpec copy = *spec;
  (void)copy.take_size("size");
  (void)copy.take_switch("read-zeroes");
  (void)copy.take_part("file");
  qcow2::Header header;
  header.version = 3;
  header.size = 1 << 30;
  header.geometry.cluster_bits = 16;
  qcow2::OpenConfig config;
  if (take_qcow2_options(copy, header, config) && (config.l2_cache < 2 << 16 || config.refcount_cache < 4 << 16)) abort();
  BlkdebugRules rules;
  if (rules.take(copy, false)) {
    rules.event("read_aio");
    (void)rules.check(IoType::kRead, 0, 512);
    (void)rules.check(IoType::kWrite, UINT64_MAX - 511, 511);
  }
  // A second pass through text changes nothing more: numbers have become strings, names that contradict each other are gone.
  auto again = ImageSpec::from_json(spec->json());
  if (!again) abort();
  auto third = ImageSpec::from_json(again->json());
  if (!third || third->values() != again->values()) abort();
  return 0;
}
