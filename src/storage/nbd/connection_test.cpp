// SPDX-License-Identifier: Apache-2.0
#include "storage/nbd/connection.h"

#include <gtest/gtest.h>

#include <future>

#include "storage/file/memory_file.h"
#include "storage/image/raw_image.h"
#include "storage/nbd/protocol.h"

namespace vireo::storage::nbd {
namespace {

using qcow2::store;

// Says what it was given, and then nothing until it is shut.
class Stalling final : public Channel {
 public:
  explicit Stalling(std::vector<std::byte> says) : says_(std::move(says)) {}
  Result<> read(std::span<std::byte> to) override {
    std::unique_lock lock(mutex_);
    if (says_.size() - said_ >= to.size()) {
      std::copy_n(says_.begin() + static_cast<long>(said_), to.size(), to.begin());
      said_ += to.size();
      return {};
    }
    stalls_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return shut_; });
    return fail(ErrorKind::kIo, "shut", ECONNRESET);
  }
  Result<> write(std::span<const std::byte>) override { return {}; }
  void shut() override {
    std::lock_guard lock(mutex_);
    shut_ = true;
    changed_.notify_all();
  }
  void wait_until_it_stalls() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stalls_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> says_;
  size_t said_ = 0;
  bool stalls_ = false, shut_ = false;
};

TEST(Connection, AClientThatStallsInTheHandshakeOfTlsCanBeShut) {
  Export what;
  what.image = std::make_shared<RawImage>(std::make_unique<MemoryFile>());
  what.start_tls = [](std::unique_ptr<Channel> below) -> Result<std::unique_ptr<Channel>> {
    std::byte one[1];
    TRY_VOID(below->read(one));
    return below;
  };
  std::vector<std::byte> says(4 + 16);
  store(&says[0], uint32_t{handshake::kFixedNewstyle | handshake::kNoZeroes});
  store(&says[4], kOptionMagic);
  store(&says[12], uint32_t{option::kStartTls});
  auto owned = std::make_unique<Stalling>(says);
  Stalling& channel = *owned;
  Connection connection(what, std::move(owned), 0);
  auto served = std::async(std::launch::async, [&] { return connection.serve().has_value(); });
  channel.wait_until_it_stalls();
  auto shut = std::async(std::launch::async, [&] { connection.shut(); });
  EXPECT_EQ(shut.wait_for(std::chrono::seconds(5)), std::future_status::ready);
  channel.shut();  // or the test would not end either
  EXPECT_FALSE(served.get());
}

}  // namespace
}  // namespace vireo::storage::nbd
