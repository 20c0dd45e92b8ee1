// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/guest_symbols.h"

#include <gtest/gtest.h>

namespace vireo::softkvm {
namespace {

TEST(GuestSymbols, NamesAnAddressByTheFunctionBeforeIt) {
  auto symbols = GuestSymbols::parse(
      "0000000000000000 D per_cpu_start\n"
      "ffffffff81000200 T second\n"
      "ffffffff81000000 T first\n"
      "ffffffff81000000 T same_place\n"
      "ffffffff81000100 d data\n"
      "ffffffffc0000000 t in_module\t[ext4]\n"
      "ffffffffc0000040 W weak\n");
  ASSERT_TRUE(symbols) << symbols.error().message;
  EXPECT_EQ(symbols->count(), 5u);
  EXPECT_EQ(symbols->name(0xffffffff81000000), "first");
  EXPECT_EQ(symbols->name(0xffffffff810001ff), "first+0x1ff");
  EXPECT_EQ(symbols->name(0xffffffff81000200), "second");
  EXPECT_EQ(symbols->name(0xffffffffc0000010), "in_module+0x10");
  EXPECT_EQ(symbols->name(0xffffffffc0000041), "weak+0x1");
  EXPECT_EQ(symbols->name(0xffffffffc0200000), "");
  EXPECT_EQ(symbols->name(0xffffffff80ffffff), "");
  EXPECT_EQ(symbols->name(0), "");
}

TEST(GuestSymbols, TellsWhichLineIsWrong) {
  for (const char* line : {"x", "ffffffff81000000", "ffffffff81000000 T", "ffffffff81000000 T ", "ffffffff81000000 TT name", "0x10 T name",
                           "ffffffff810000000 T name", "10 T \tname", "10 T na\x1bme", "-1 T name"}) {
    auto symbols = GuestSymbols::parse(std::string("ffffffff81000000 T good\n") + line + "\n");
    ASSERT_FALSE(symbols) << line;
    EXPECT_NE(symbols.error().message.find("line 2"), std::string::npos) << symbols.error().message;
  }
}

TEST(GuestSymbols, ZerosAndNothingAreErrors) {
  auto zeros = GuestSymbols::parse("0000000000000000 T a\n0000000000000000 T b\n");
  ASSERT_FALSE(zeros);
  EXPECT_NE(zeros.error().message.find("only root"), std::string::npos);
  EXPECT_FALSE(GuestSymbols::parse(""));
  EXPECT_FALSE(GuestSymbols::parse("ffffffff81000000 D data\n"));
  EXPECT_FALSE(GuestSymbols::read("/nonexistent"));
  EXPECT_FALSE(GuestSymbols::read("/"));
}

}  // namespace
}  // namespace vireo::softkvm
