// SPDX-License-Identifier: Apache-2.0
#include "storage/file/quorum_file.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "storage/file/memory_file.h"

namespace vireo::storage {
namespace {

class Quorum : public ::testing::Test {
 protected:
  void make(size_t copies, size_t threshold, bool first = false) {
    std::vector<std::unique_ptr<File>> all;
    for (size_t i = 0; i < copies; ++i) {
      auto copy = std::make_unique<MemoryFile>("copy" + std::to_string(i));
      ASSERT_TRUE(copy->truncate(1024));
      memory_.push_back(copy.get());
      all.push_back(std::move(copy));
    }
    auto made = QuorumFile::create(std::move(all), threshold, first, "q");
    ASSERT_TRUE(made) << made.error().message;
    file_ = std::move(*made);
  }
  void damage(size_t copy, int value) { memory_[copy]->bytes()[0] = std::byte(value); }
  void break_down(size_t copy) {
    memory_[copy]->fault = [](MemoryFile::Op, uint64_t, uint64_t) { return ENOSPC; };
  }
  // The first byte, or minus the error.
  int first_byte() {
    std::byte bytes[512];
    auto done = file_->read(0, bytes);
    return done ? std::to_integer<int>(bytes[0]) : -done.error().code;
  }
  Result<> write(int value) {
    std::byte bytes[512];
    std::ranges::fill(bytes, std::byte(value));
    return file_->write(0, bytes);
  }
  std::vector<MemoryFile*> memory_;
  std::unique_ptr<QuorumFile> file_;
};

TEST_F(Quorum, TheMostVotesWin) {
  make(3, 2);
  ASSERT_TRUE(write(7));
  damage(1, 9);
  EXPECT_EQ(first_byte(), 7);
  damage(2, 8);
  EXPECT_EQ(first_byte(), -EIO) << "three opinions";
}

TEST_F(Quorum, ACopyThatFailsHasNoVote) {
  make(3, 2);
  ASSERT_TRUE(write(7));
  break_down(0);
  EXPECT_EQ(first_byte(), 7);
  EXPECT_TRUE(write(8));
  break_down(1);
  EXPECT_EQ(first_byte(), -ENOSPC);
  auto written = write(9);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ENOSPC);
}

TEST_F(Quorum, WithoutAVoteTheFirstCopyThatCanBeReadIsTaken) {
  make(2, 1, true);
  ASSERT_TRUE(write(7));
  damage(1, 9);
  EXPECT_EQ(first_byte(), 7);
  break_down(0);
  EXPECT_EQ(first_byte(), 9);
}

TEST_F(Quorum, CopiesDoNotBecomeLonger) {
  make(2, 2);
  std::byte bytes[512] = {};
  EXPECT_FALSE(file_->write(1024 - 256, bytes));
  EXPECT_EQ(file_->size(), 1024u);
}

TEST(QuorumOf, WrongNumbersAreRefused) {
  auto of = [](size_t threshold, std::initializer_list<uint64_t> sizes) {
    std::vector<std::unique_ptr<File>> all;
    for (uint64_t size : sizes) {
      all.push_back(std::make_unique<MemoryFile>());
      EXPECT_TRUE(all.back()->truncate(size));
    }
    return QuorumFile::create(std::move(all), threshold, false, "q").has_value();
  };
  EXPECT_FALSE(of(1, {}));
  EXPECT_FALSE(of(0, {512}));
  EXPECT_FALSE(of(2, {512}));
  EXPECT_FALSE(of(1, {512, 1024}));
  EXPECT_TRUE(of(1, {512, 512}));
}

}  // namespace
}  // namespace vireo::storage
