// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <thread>

#include "storage/file/memory_file.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {
namespace {

// A second writer comes when the first one has read the sector and not written it yet.
TEST(EncryptedWrite, TwoPartsOfOneSectorAreBothKept) {
  auto owned = std::make_unique<MemoryFile>();
  MemoryFile* file = owned.get();
  const SecretBytes secret(std::string("secret"));
  ASSERT_TRUE(create(*owned, {.size = 1 << 20, .cluster_size = 4096, .crypt = Crypt::kAes, .secret = secret}));
  OpenConfig config;
  config.secret = secret;
  auto image = Qcow2::open(std::move(owned), nullptr, config);
  ASSERT_TRUE(image) << image.error().message;
  const std::vector<std::byte> whole(4096, std::byte{1}), first(256, std::byte{2}), second(256, std::byte{3});
  ASSERT_TRUE((*image)->write(0, whole) && (*image)->flush());
  std::mutex mutex;
  std::condition_variable changed;
  bool written = false;
  std::thread other;
  std::atomic<bool> begun = false;
  file->on_change = [&] {
    if (begun.exchange(true)) return;
    other = std::thread([&] {
      EXPECT_TRUE((*image)->write(256, second));
      std::lock_guard lock(mutex);
      written = true;
      changed.notify_all();
    });
    // It may have to wait for us.
    std::unique_lock lock(mutex);
    changed.wait_for(lock, std::chrono::milliseconds(100), [&] { return written; });
  };
  EXPECT_TRUE((*image)->write(0, first));
  other.join();
  file->on_change = nullptr;
  std::vector<std::byte> sector(512);
  ASSERT_TRUE((*image)->read(0, sector));
  for (size_t i = 0; i < sector.size(); ++i) ASSERT_EQ(std::to_integer<int>(sector[i]), i < 256 ? 2 : 3) << i;
}

// Who was told that the disk is full need not be told once more by the image's end, which has metadata to write; who was told nothing is.
TEST(FullDisk, IsToldOnce) {
  for (bool earlier : {false, true}) {
    auto owned = std::make_unique<MemoryFile>();
    MemoryFile* file = owned.get();
    ASSERT_TRUE(create(*owned, {.size = 1 << 20, .cluster_size = 4096}));
    auto image = Qcow2::open(std::move(owned), nullptr, {});
    ASSERT_TRUE(image) << image.error().message;
    const std::vector<std::byte> data(4096, std::byte{1});
    ASSERT_TRUE((*image)->write(0, data));
    file->fault = [](MemoryFile::Op op, uint64_t, uint64_t) { return op == MemoryFile::Op::kWrite ? ENOSPC : 0; };
    if (earlier) {
      EXPECT_FALSE((*image)->write(8192, data));
    }
    testing::internal::CaptureStderr();
    image->reset();
    EXPECT_EQ(testing::internal::GetCapturedStderr().empty(), earlier);
  }
}

}  // namespace
}  // namespace vireo::storage::qcow2
