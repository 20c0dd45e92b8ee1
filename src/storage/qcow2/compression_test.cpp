// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/compression.h"

#include <gtest/gtest.h>

#include <random>

#include "storage/qcow2/noise.h"

namespace vireo::storage::qcow2 {
namespace {

std::vector<std::byte> random_bytes(size_t size, uint64_t seed, unsigned values = 256) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> out(size);
  for (auto& b : out) b = static_cast<std::byte>(random() % values);
  return out;
}

TEST(Noise, RandomBytesAre) {
  for (uint64_t seed = 0; seed < 50; ++seed) EXPECT_TRUE(is_noise(random_bytes(65536, seed))) << seed;
}

TEST(Noise, WhatCompressesIsNot) {
  EXPECT_FALSE(is_noise(std::vector<std::byte>(65536)));
  EXPECT_FALSE(is_noise(random_bytes(65536, 1, 240))) << "fewer values";
  auto twice = random_bytes(65536, 2);
  std::copy_n(twice.begin() + 1000, 1024, twice.begin() + 40000);
  EXPECT_FALSE(is_noise(twice)) << "a stretch that comes twice";
  std::vector<std::byte> counting(65536);
  for (size_t i = 0; i < counting.size(); ++i) counting[i] = static_cast<std::byte>(i);
  EXPECT_FALSE(is_noise(counting)) << "all values as often, one after the other";
}

TEST(Compression, ComesBackAsItWas) {
  for (Compression method : {Compression::kZlib, Compression::kZstd}) {
    for (size_t size : {512u, 4096u, 65536u, 2097152u}) {
      const auto data = random_bytes(size, size, 7);
      const auto packed = compress_cluster(method, data);
      ASSERT_FALSE(packed.empty());
      EXPECT_LT(packed.size(), data.size());
      std::vector<std::byte> back(size);
      ASSERT_TRUE(decompress_cluster(method, packed, back));
      EXPECT_EQ(back, data);
    }
    EXPECT_TRUE(compress_cluster(method, random_bytes(65536, 3)).empty()) << "it would not become smaller";
  }
}

}  // namespace
}  // namespace vireo::storage::qcow2
