// SPDX-License-Identifier: Apache-2.0
// The values and words are those of QEMU 7.2's tools.
#include "storage/image/qcow2_options.h"

#include <gtest/gtest.h>

namespace vireo::storage {
namespace {

struct Taken {
  std::string error;
  qcow2::OpenConfig config;
};

Taken take(const std::vector<std::pair<std::string, std::string>>& options, uint64_t size = 1ull << 40, unsigned version = 3) {
  qcow2::Header header;
  header.version = version;
  header.size = size;
  header.geometry.cluster_bits = 16;
  Taken out;
  ImageSpec spec(options);
  auto done = take_qcow2_options(spec, header, out.config);
  if (!done) out.error = done.error().message;
  else if (!spec.empty()) out.error = "left over";
  return out;
}

TEST(Qcow2Options, CacheSizesAreLimits) {
  EXPECT_EQ(take({{"l2-cache-size", "1M"}}).config.l2_cache, 1u << 20);
  EXPECT_EQ(take({{"l2-cache-size", "1M"}}).config.refcount_cache, qcow2::OpenConfig().refcount_cache);
  // Of a small disk all tables fit, and the rest is for refcounts.
  const Taken both = take({{"cache-size", "2M"}}, 1ull << 30);
  EXPECT_EQ(both.config.l2_cache, 128u << 10);
  EXPECT_EQ(both.config.refcount_cache, (2u << 20) - (128u << 10));
  EXPECT_EQ(take({{"cache-size", "2M"}, {"refcount-cache-size", "512k"}}).config.l2_cache, 1536u << 10);
  // Never less than a cache can work with.
  EXPECT_EQ(take({{"cache-size", "0"}}).config.l2_cache, 128u << 10);
}

TEST(Qcow2Options, WhatDoesNotGoTogetherIsRefused) {
  EXPECT_EQ(take({{"cache-size", "1M"}, {"l2-cache-size", "64k"}, {"refcount-cache-size", "64k"}}).error,
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
  EXPECT_EQ(take({{"cache-size", "1M"}, {"l2-cache-size", "2M"}}).error, "l2-cache-size may not exceed cache-size");
  EXPECT_EQ(take({{"l2-cache-entry-size", "33k"}}).error, "L2 cache entry size must be a power of two between 512 and the cluster size (65536)");
  EXPECT_EQ(take({{"refcount-cache-size", "256T"}}).error, "Refcount cache size too big");
  EXPECT_EQ(take({{"cache-clean-interval", "-1"}}).error, "Cache clean interval too big");
  EXPECT_EQ(take({{"overlap-check", "constant"}, {"overlap-check.template", "all"}}).error,
            "Conflicting values for qcow2 options 'overlap-check' ('constant') and 'overlap-check.template' ('all')");
  EXPECT_EQ(take({{"lazy-refcounts", "42"}}).error, "Parameter 'lazy-refcounts' expects 'on' or 'off'");
  EXPECT_EQ(take({{"lazy-refcounts", "on"}}, 1 << 20, 2).error, "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
}

TEST(Qcow2Options, LazyRefcountsAreAsAsked) {
  EXPECT_FALSE(take({}).config.lazy_refcounts.has_value());
  EXPECT_EQ(take({{"lazy-refcounts", "off"}}).config.lazy_refcounts, false);
}

}  // namespace
}  // namespace vireo::storage
