// SPDX-License-Identifier: Apache-2.0
#include "storage/image/image_file.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <thread>

#include "storage/file/memory_file.h"
#include "storage/image/filter_image.h"
#include "storage/image/raw_image.h"

namespace vireo::storage {
namespace {

class AskedBeforeItGrows final : public FilterImage {
 public:
  using FilterImage::FilterImage;
  using Image::read;
  const char* format() const override { return "raw"; }
  Result<> resize(uint64_t size, Preallocation preallocation) override {
    if (auto call = std::exchange(before, nullptr)) call();
    return FilterImage::resize(size, preallocation);
  }
  std::function<void()> before;
};

TEST(ImageFile, TwoThatMakeItLargerAtOnceDoNotMakeItSmaller) {
  auto image = std::make_shared<AskedBeforeItGrows>(std::make_shared<RawImage>(std::make_unique<MemoryFile>()));
  ImageFile file(image);
  const std::vector<std::byte> data(512, std::byte{5});
  std::mutex mutex;
  std::condition_variable changed;
  bool written = false;
  std::thread other;
  image->before = [&] {
    other = std::thread([&] {
      EXPECT_TRUE(file.write(100 << 10, data));
      std::lock_guard lock(mutex);
      written = true;
      changed.notify_all();
    });
    // It may have to wait for us.
    std::unique_lock lock(mutex);
    changed.wait_for(lock, std::chrono::milliseconds(100), [&] { return written; });
  };
  EXPECT_TRUE(file.write(4096, data));
  other.join();
  EXPECT_EQ(file.size(), (100u << 10) + 512);
  std::vector<std::byte> there(512);
  ASSERT_TRUE(image->read(100 << 10, std::span<std::byte>(there)));
  EXPECT_EQ(there, data);
}

}  // namespace
}  // namespace vireo::storage
