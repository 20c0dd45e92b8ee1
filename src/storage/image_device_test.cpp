// SPDX-License-Identifier: Apache-2.0
// A qcow2 image under the asynchronous device: many requests at once against a shadow, then the checker.
#include "storage/image_device.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "storage/image/open.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"

namespace vireo::storage {
namespace {

class ImageDeviceTest : public testing::TestWithParam<std::tuple<bool, bool, bool>> {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "vireo-image-test-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    image_ = folder_ + "/image.qcow2";
    base_ = folder_ + "/base.raw";
  }
  void TearDown() override {
    unlink(image_.c_str());
    unlink(base_.c_str());
    rmdir(folder_.c_str());
  }
  std::string folder_, image_, base_;
};

constexpr uint64_t kUnit = 4096;

// Requests that overlap in one round would race by the guest's own doing: each round keeps to units of its own, but many
// of them share clusters, which is where the format has to keep them apart.
TEST_P(ImageDeviceTest, ManyRequestsAtOnceMatchAShadow) {
  auto [extended, backing, threads] = GetParam();
  const uint64_t size = 24 << 20, units = size / kUnit;
  std::vector<uint8_t> shadow(units);
  if (backing) {
    ASSERT_TRUE(create_file(base_, 0));
    auto base = open_file({.path = base_});
    ASSERT_TRUE(base);
    std::vector<std::byte> data(size, std::byte{7});
    ASSERT_TRUE((*base)->write(0, data));
    std::fill(shadow.begin(), shadow.end(), 7);
  }
  ASSERT_TRUE(create_file(image_, 0));
  {
    auto file = open_file({.path = image_});
    ASSERT_TRUE(file);
    qcow2::CreateConfig config{.size = size, .cluster_size = 65536, .extended_l2 = extended};
    if (backing) config.backing_file = "base.raw", config.backing_format = "raw";
    ASSERT_TRUE(qcow2::create(**file, config));
  }
  auto loop = std::move(*EventLoop::create());
  OpenOptions options{.format = "qcow2", .read_only = false};
  options.qcow2.l2_cache = 65536;
  auto image = open_image(image_, std::move(options));
  ASSERT_TRUE(image) << image.error().message;
  auto device = ImageDevice::create(*image, {.aio = threads ? Aio::kThreads : Aio::kAuto}, *loop);
  ASSERT_TRUE(device) << device.error().message;
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> buffers;
    buffers.reserve(128);
    std::vector<std::pair<uint64_t, std::pair<uint64_t, size_t>>> reads;
    unsigned done = 0, started = 0;
    auto ended = [&](int error) {
      EXPECT_EQ(error, 0);
      ++done;
    };
    uint64_t at = random() % 32;
    while (at < units && started < 100) {
      uint64_t count = std::min<uint64_t>(1 + random() % (random() % 8 ? 6 : 60), units - at);
      ++started;
      switch (random() % 8) {
        case 0: {
          (*device)->write_zeroes(at * kUnit, count * kUnit, random() % 2, ended);
          std::fill_n(shadow.begin() + static_cast<long>(at), count, 0);
          break;
        }
        case 1:
        case 2:
        case 3: {
          buffers.emplace_back(count * kUnit, '?');
          reads.push_back({at, {count, buffers.size() - 1}});
          iovec part{buffers.back().data(), buffers.back().size()};
          (*device)->read(at * kUnit, {&part, 1}, ended);
          break;
        }
        case 4: (*device)->flush(ended); break;
        default: {
          auto value = static_cast<uint8_t>(1 + random() % 255);
          buffers.emplace_back(count * kUnit, static_cast<char>(value));
          size_t cut = random() % buffers.back().size();
          iovec parts[] = {{buffers.back().data(), cut}, {buffers.back().data() + cut, buffers.back().size() - cut}};
          (*device)->write(at * kUnit, parts, ended);
          std::fill_n(shadow.begin() + static_cast<long>(at), count, value);
        }
      }
      at += count + (random() % 3 ? 0 : random() % 64);
    }
    (*device)->submit();
    if (round % 2)
      while (done < started) loop->step(-1);
    (*device)->drain();
    ASSERT_EQ(done, started);
    for (auto& [from, what] : reads)
      for (uint64_t u = 0; u < what.first; ++u)
        ASSERT_EQ(static_cast<uint8_t>(buffers[what.second][u * kUnit + 17]), shadow[from + u]) << "unit " << from + u << " round " << round;
  }
  std::string all(size, '?');
  iovec part{all.data(), all.size()};
  (*device)->read(0, {&part, 1}, [](int error) { EXPECT_EQ(error, 0); });
  (*device)->drain();
  for (uint64_t i = 0; i < size; i += 512) ASSERT_EQ(static_cast<uint8_t>(all[i]), shadow[i / kUnit]) << i;
  device->reset();
  image->reset();
  auto file = open_file({.path = image_, .read_only = true});
  ASSERT_TRUE(file);
  auto checked = qcow2::check(**file, qcow2::Repair::kNone, [](const std::string& line) { ADD_FAILURE() << line; });
  ASSERT_TRUE(checked);
  EXPECT_EQ(checked->corruptions + checked->leaks + checked->errors, 0u);
}

INSTANTIATE_TEST_SUITE_P(Kinds, ImageDeviceTest, testing::Combine(testing::Bool(), testing::Bool(), testing::Bool()));

// Two writers of sectors of the same blocks, of which one asks the device, the other (as the format's threads and jobs do) the image: what one
// writes over a block must not be what the other's sector was before.
TEST(ImageDeviceDirect, SectorsOfOneBlockAreNotLost) {
  char folder[] = "./vireo-image-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/disk.raw";
  constexpr uint64_t kBlocks = 16, kSize = kBlocks * 4096, kSectors = kSize / 512;
  ASSERT_TRUE(create_file(path, kSize));
  {
    auto loop = std::move(*EventLoop::create());
    auto image = open_image(path, {.format = "raw", .read_only = false, .direct = true});
    if (!image) GTEST_SKIP() << image.error().message;
    auto device = ImageDevice::create(*image, {.direct = true}, *loop);
    ASSERT_TRUE(device) << device.error().message;
    std::unique_ptr<std::byte, decltype(&free)> memory(static_cast<std::byte*>(aligned_alloc(4096, kSize)), free);
    for (int round = 1; round <= 30; ++round) {
      std::thread other([&, image = *image] {
        const std::vector<std::byte> sector(512, static_cast<std::byte>(100 + round));
        for (uint64_t n = 1; n < kSectors; n += 2) EXPECT_TRUE(image->write(n * 512, sector));
      });
      std::fill_n(memory.get(), kSize, static_cast<std::byte>(round));
      for (uint64_t n = 0; n < kSectors; n += 2) {
        auto ended = [](int error) { EXPECT_EQ(error, 0); };
        if (n % 4) {
          (*device)->write_zeroes(n * 512, 512, round % 2, ended);
        } else {
          iovec part{memory.get() + n * 512, 512};
          (*device)->write(n * 512, {&part, 1}, ended);
        }
        if (n % 16 == 0) (*device)->drain();
      }
      (*device)->drain();
      other.join();
      std::vector<std::byte> all(kSize);
      ASSERT_TRUE((*image)->read(0, std::span<std::byte>(all)));
      for (uint64_t n = 0; n < kSectors; ++n)
        ASSERT_EQ(std::to_integer<int>(all[n * 512 + 9]), n % 2 ? 100 + round : n % 4 ? 0 : round) << "sector " << n << " round " << round;
    }
  }
  unlink(path.c_str());
  rmdir(folder);
}

// Of two writes of which one overlaps with a part of the other, the other's rest is there afterwards.
TEST(ImageDeviceDirect, AWriteOfAPartOfABlockDoesNotUndoTheRestOfAnotherOne) {
  char folder[] = "./vireo-image-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/disk.raw";
  ASSERT_TRUE(create_file(path, 1 << 20));
  bool direct = false;
  {
    auto loop = std::move(*EventLoop::create());
    auto image = open_image(path, {.format = "raw", .read_only = false, .direct = true});
    if (image) {
      direct = true;
      auto device = ImageDevice::create(*image, {.direct = true}, *loop);
      ASSERT_TRUE(device) << device.error().message;
      const uint64_t block = direct_blocks((*image)->file().fd()).offset, piece = block / 8, blocks = 16;
      std::unique_ptr<std::byte, decltype(&free)> memory(static_cast<std::byte*>(aligned_alloc(65536, 1 << 20)), free);
      std::vector<std::byte> part_of_it(piece, std::byte{0xff}), all(blocks * block);
      auto ended = [](int error) { EXPECT_EQ(error, 0); };
      for (int round = 1; round <= 200; ++round) {
        memset(memory.get(), round, blocks * block);
        for (uint64_t b = 0; b < blocks; ++b) {
          iovec whole{memory.get() + b * block, block}, one{part_of_it.data(), piece};
          const uint64_t at = b * block + (b % 8) * piece;
          if (round % 3 == 0) (*device)->write_zeroes(at, piece, false, ended);
          else (*device)->write(at, {&one, 1}, ended);
          if (round % 3 == 1) (*device)->submit();
          (*device)->write(b * block, {&whole, 1}, ended);
          (*device)->submit();
          if (round % 2) loop->step(0);
        }
        (*device)->drain();
        ASSERT_TRUE((*image)->read(0, std::span<std::byte>(all)));
        for (uint64_t b = 0; b < blocks; ++b)
          for (uint64_t i = 0; i < block; ++i)
            ASSERT_TRUE(i / piece == b % 8 || std::to_integer<int>(all[b * block + i]) == round) << "block " << b << " byte " << i << " round " << round;
      }
    }
  }
  unlink(path.c_str());
  rmdir(folder);
  if (!direct) GTEST_SKIP() << "no O_DIRECT here";
}

// Several clusters, or parts of one that are allocated by themselves, in a block of the file.
TEST(ImageDeviceDirect, ClustersSmallerThanABlockMatchAShadow) {
  constexpr uint64_t kSectors = 4096, kSize = kSectors * 512;
  char folder[] = "./vireo-image-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/disk.qcow2";
  bool direct = true;
  const std::pair<uint64_t, bool> kinds[] = {{512, false}, {2048, false}, {16384, true}, {65536, true}};
  for (auto [cluster, extended] : kinds) {
    SCOPED_TRACE(std::to_string(cluster) + (extended ? " extended" : ""));
    ASSERT_TRUE(create_file(path, 0));
    ASSERT_TRUE(qcow2::create(**open_file({.path = path}), {.size = kSize, .cluster_size = cluster, .extended_l2 = extended}));
    auto loop = std::move(*EventLoop::create());
    auto image = open_image(path, {.format = "qcow2", .read_only = false, .direct = true});
    if (direct = image.has_value(); !direct) break;
    auto device = ImageDevice::create(*image, {.direct = true}, *loop);
    ASSERT_TRUE(device) << device.error().message;
    std::unique_ptr<std::byte, decltype(&free)> memory(static_cast<std::byte*>(aligned_alloc(4096, 2 * kSize)), free);
    std::vector<uint8_t> shadow(kSectors);
    std::mt19937 random(static_cast<unsigned>(cluster));
    auto ended = [](int error) { EXPECT_EQ(error, 0); };
    for (int round = 0; round < 12; ++round) {
      for (uint64_t at = random() % 16; at < kSectors;) {
        uint64_t count = std::min<uint64_t>(random() % 8 ? 1 + random() % 9 : 8 * (random() % 20 + 1), kSectors - at);
        if (count >= 8 && random() % 2) at = (at + 7) / 8 * 8, count = std::min(count / 8 * 8, at < kSectors ? kSectors - at : 0);
        if (!count) break;
        const auto value = static_cast<uint8_t>(random() % 4 ? 1 + random() % 255 : 0);
        iovec part{memory.get() + at * 512, count * 512};
        memset(part.iov_base, value, part.iov_len);
        if (value || random() % 2) (*device)->write(at * 512, {&part, 1}, ended);
        else (*device)->write_zeroes(at * 512, count * 512, random() % 2, ended);
        std::fill_n(shadow.begin() + static_cast<long>(at), count, value);
        at += count + (random() % 3 ? 0 : random() % 40);
        if (random() % 30 == 0) (*device)->flush(ended);
        if (random() % 10 == 0) (*device)->submit();
      }
      (*device)->drain();
      iovec all{memory.get() + kSize, kSize};
      (*device)->read(0, {&all, 1}, ended);
      (*device)->drain();
      for (uint64_t i = 0; i < kSize; ++i) ASSERT_EQ(std::to_integer<int>(memory.get()[kSize + i]), shadow[i / 512]) << "sector " << i / 512 << " round " << round;
    }
    device->reset();
    image->reset();
    auto checked = qcow2::check(**open_file({.path = path, .read_only = true}), qcow2::Repair::kNone, [](const std::string& line) { ADD_FAILURE() << line; });
    ASSERT_TRUE(checked);
    EXPECT_EQ(checked->corruptions + checked->leaks + checked->errors, 0u);
  }
  unlink(path.c_str());
  rmdir(folder);
  if (!direct) GTEST_SKIP() << "no O_DIRECT here";
}

}  // namespace
}  // namespace vireo::storage
