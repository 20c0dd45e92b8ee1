// SPDX-License-Identifier: Apache-2.0
#include "storage/image/compress_image.h"

#include <gtest/gtest.h>

#include <random>

#include "storage/file/memory_file.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage {
namespace {

TEST(CompressImage, EveryWriteLeavesCompressedClustersOfTheRightContents) {
  auto file = std::make_unique<MemoryFile>();
  const uint64_t cluster = 4096, size = 10 * cluster + 1536;  // the last cluster is one in part
  ASSERT_TRUE(qcow2::create(*file, {.size = size, .cluster_size = cluster}));
  auto below = qcow2::Qcow2::open(std::move(file), nullptr, {});
  ASSERT_TRUE(below);
  CompressImage image(std::shared_ptr<Image>(std::move(*below)));
  std::vector<std::byte> model(size), got(size);
  std::mt19937_64 random(1);
  for (int i = 0; i < 200; ++i) {
    const uint64_t at = random() % (size / 512) * 512, length = std::min<uint64_t>(size - at, (1 + random() % 24) * 512);
    std::vector<std::byte> data(length, static_cast<std::byte>(i));
    ASSERT_TRUE(image.write(at, std::span<const std::byte>(data)));
    std::ranges::copy(data, model.begin() + static_cast<ptrdiff_t>(at));
  }
  ASSERT_TRUE(image.read(0, got));
  EXPECT_EQ(got, model);
  for (uint64_t at = 0; at < size; at += cluster) {
    auto here = image.status(at, 512);
    ASSERT_TRUE(here);
    EXPECT_TRUE(!here->allocated || here->compressed) << at;
  }
  std::byte sector[512];
  EXPECT_FALSE(image.write(size - 256, std::span<const std::byte>(sector)));
}

}  // namespace
}  // namespace vireo::storage
