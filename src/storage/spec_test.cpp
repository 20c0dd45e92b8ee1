// SPDX-License-Identifier: Apache-2.0
#include "storage/spec.h"

#include <gtest/gtest.h>

#include "storage/file/blkdebug_file.h"
#include "storage/file/memory_file.h"

namespace vireo::storage {
namespace {

TEST(ImageSpec, JsonBecomesDottedNames) {
  auto spec = ImageSpec::from_json("json:{'driver': 'qcow2', \"file\": {'driver': 'file', 'filename': 'a \"b\".img'}, 'l': [1, true]}");
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->get("driver"), "qcow2");
  EXPECT_EQ(spec->get("file.filename"), "a \"b\".img");
  EXPECT_EQ(spec->get("l.0"), "1");
  EXPECT_EQ(spec->get("l.1"), "true");
}

TEST(ImageSpec, ItsJsonMeansTheSame) {
  ImageSpec spec({{"driver", "qcow2"}, {"file.image.filename", "x"}, {"file.rules.0.event", "read_aio"}, {"file.rules.1.event", "l2_load"}});
  auto again = ImageSpec::from_json(spec.json());
  ASSERT_TRUE(again);
  EXPECT_EQ(again->values(), spec.values());
}

TEST(ImageSpec, WhatIsNoJsonIsRefused) {
  for (const char* text : {"json:", "json:{", "json:[]", "json:{'a':}", "json:1"}) EXPECT_FALSE(ImageSpec::from_json(text)) << text;
  std::string deep = "json:";
  for (int i = 0; i < 200; ++i) deep += "{\"a\":";
  EXPECT_FALSE(ImageSpec::from_json(deep + "1" + std::string(200, '}')));
}

TEST(ImageSpec, DotsOfAKeyCountAsLevels) {
  auto key = [](size_t dots) {
    std::string text = "json:{'a";
    for (size_t i = 0; i < dots; ++i) text += ".b";
    return text + "': 1}";
  };
  auto deep = ImageSpec::from_json(key(60));
  ASSERT_TRUE(deep);
  EXPECT_TRUE(ImageSpec::from_json(deep->json()));  // what is taken can be told again
  EXPECT_FALSE(ImageSpec::from_json(key(64)));
  auto deepest = ImageSpec::from_json(key(63));
  ASSERT_TRUE(deepest);
  EXPECT_TRUE(ImageSpec::from_json(deepest->json()));
}

TEST(ImageSpec, SizesAreBounded) {
  ImageSpec spec({{"a", "64k"}, {"b", "-1"}, {"c", "99999999999E"}, {"d", "12x"}, {"e", "1.25M"}, {"f", "1.5"}, {"g", "1.2.3k"}, {"h", "1.k"}});
  EXPECT_EQ(*spec.take_size("a"), 65536u);
  EXPECT_EQ(*spec.take_size("e"), 1310720u);
  for (const char* name : {"b", "c", "d", "f", "g", "h"}) EXPECT_FALSE(spec.take_size(name)) << name;
}

class Blkdebug : public ::testing::Test {
 protected:
  void make(ImageSpec spec) {
    auto rules = std::make_unique<BlkdebugRules>();
    ASSERT_TRUE(rules->take(spec, false));
    auto below = std::make_unique<MemoryFile>();
    ASSERT_TRUE(below->truncate(4096));
    file_ = std::make_unique<BlkdebugFile>(std::move(below), std::move(rules), "f");
  }
  int read(uint64_t offset) {
    std::byte sector[512];
    auto done = file_->read(offset, sector);
    return done ? 0 : done.error().code;
  }
  std::unique_ptr<BlkdebugFile> file_;
};

TEST_F(Blkdebug, TransfersFailFromTheEventOn) {
  make(ImageSpec({{"inject-error.0.event", "read_aio"}, {"inject-error.0.errno", "28"}}));
  EXPECT_EQ(read(0), 0);
  file_->event("read_aio");
  EXPECT_EQ(read(0), ENOSPC);
  EXPECT_EQ(read(0), ENOSPC);
}

TEST_F(Blkdebug, OnceIsOnce) {
  make(ImageSpec({{"inject-error.0.event", "none"}, {"inject-error.0.once", "on"}}));
  EXPECT_EQ(read(0), EIO);
  EXPECT_EQ(read(0), 0);
}

TEST_F(Blkdebug, OnlyThatSectorAndType) {
  make(ImageSpec({{"inject-error.0.event", "none"}, {"inject-error.0.sector", "2"}, {"inject-error.0.iotype", "read"}}));
  EXPECT_EQ(read(512), 0);
  EXPECT_EQ(read(1024), EIO);
  EXPECT_TRUE(file_->write(1024, std::vector<std::byte>(512)));
}

TEST_F(Blkdebug, StatesAreSteps) {
  make(ImageSpec({{"set-state.0.event", "l2_load"}, {"set-state.0.new_state", "2"}, {"inject-error.0.event", "read_aio"}, {"inject-error.0.state", "2"}}));
  file_->event("read_aio");
  EXPECT_EQ(read(0), 0);
  file_->event("l2_load");
  file_->event("read_aio");
  EXPECT_EQ(read(0), EIO);
}

TEST(BlkdebugRules, UnknownNamesAreRefused) {
  for (auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
           {"inject-error.0.event", "no_such_event"}, {"inject-error.0.nonsense", "1"}, {"set-state.0.new_state", "1"}, {"config", "/nonexistent"}}) {
    BlkdebugRules rules;
    ImageSpec spec({{name, value}});
    EXPECT_FALSE(rules.take(spec, true)) << name;
  }
}

}  // namespace
}  // namespace vireo::storage
