// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/luks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "storage/crypto/digest.h"
#include "storage/file/memory_file.h"
#include "storage/image/luks_image.h"

namespace vireo::storage {
namespace {

std::vector<std::byte> hex(const std::string& text) {
  std::vector<std::byte> out;
  for (size_t i = 0; i + 1 < text.size(); i += 2) out.push_back(std::byte(std::stoul(text.substr(i, 2), nullptr, 16)));
  return out;
}

LuksOptions quick() {
  LuksOptions options;
  options.iter_time = 0;
  return options;
}

// RFC 6070, test vector 3.
TEST(Digest, Pbkdf2IsThatOfTheRfc) {
  std::array<std::byte, 20> out;
  ASSERT_TRUE(pbkdf2("sha1", SecretBytes(std::string("password")), SecretBytes(std::string("salt")), 4096, out));
  EXPECT_TRUE(std::ranges::equal(out, hex("4b007901b765489abead49d926f721d065a429c1")));
}

// IEEE 1619-2007, annex B, vector 10: its first 32 bytes.
TEST(SectorCipher, XtsIsThatOfTheStandard) {
  auto key = hex("27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592");
  auto cipher = SectorCipher::create({}, key);
  ASSERT_TRUE(cipher) << cipher.error().message;
  std::vector<std::byte> sector(512), out(512), back(512);
  for (size_t i = 0; i < 512; ++i) sector[i] = std::byte(i);
  ASSERT_TRUE((*cipher)->encrypt(0xff, sector.data(), out.data(), 512));
  EXPECT_TRUE(std::ranges::equal(std::span(out).first(32), hex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b")));
  ASSERT_TRUE((*cipher)->decrypt(0xff, out.data(), back.data(), 512));
  EXPECT_EQ(back, sector);
}

TEST(SectorCipher, PlainNumbersHave32Bits) {
  auto key = hex("000102030405060708090a0b0c0d0e0f");
  std::vector<std::byte> sector(512), low(512), high(512);
  for (const char* ivgen : {"plain", "plain64"}) {
    auto cipher = SectorCipher::create({.cipher = "aes", .mode = "cbc", .ivgen = ivgen, .ivgen_hash = {}}, key);
    ASSERT_TRUE(cipher);
    ASSERT_TRUE((*cipher)->encrypt(5, sector.data(), low.data(), 512));
    ASSERT_TRUE((*cipher)->encrypt(5 + (1ull << 32), sector.data(), high.data(), 512));
    EXPECT_EQ(low == high, std::string(ivgen) == "plain");
  }
}

// The first block under a key of RFC 2144 (B.1) and of Twofish's paper (a key and a text of zeroes).
TEST(SectorCipher, OtherCiphersAreThoseOfTheirPapers) {
  struct Known {
    const char *cipher, *key, *plain, *out;
  };
  for (const Known& k : {Known{"cast5", "0123456712345678234567893456789a", "0123456789abcdef", "238b4fe5847e44b2"},
                         Known{"twofish", "00000000000000000000000000000000", "00000000000000000000000000000000", "9f589f5cf6122c32b6bfec2f2ae8c35a"}}) {
    auto cipher = SectorCipher::create({.cipher = k.cipher, .mode = "ecb", .ivgen = {}, .ivgen_hash = {}}, hex(k.key));
    ASSERT_TRUE(cipher) << cipher.error().message;
    std::vector<std::byte> sector(512), out(512);
    auto plain = hex(k.plain), want = hex(k.out);
    std::ranges::copy(plain, sector.begin());
    ASSERT_TRUE((*cipher)->encrypt(0, sector.data(), out.data(), 512));
    EXPECT_TRUE(std::ranges::equal(std::span(out).first(want.size()), want)) << k.cipher;
  }
}

TEST(SectorCipher, UnknownCiphersAreRefused) {
  std::vector<std::byte> key(32);
  for (const CipherSpec& spec : {CipherSpec{.cipher = "rc4", .mode = "xts", .ivgen = "plain64", .ivgen_hash = {}}, CipherSpec{.cipher = "aes", .mode = "lrw", .ivgen = "plain64", .ivgen_hash = {}},
                                 CipherSpec{.cipher = "aes", .mode = "cbc", .ivgen = "benbi", .ivgen_hash = {}}, CipherSpec{.cipher = "aes", .mode = "cbc", .ivgen = "essiv", .ivgen_hash = "sha1"}})
    EXPECT_FALSE(SectorCipher::create(spec, key));
}

TEST(Luks, OnlyItsPasswordsOpenIt) {
  MemoryFile file;
  SecretBytes first(std::string("first")), second(std::string("second"));
  auto made = Luks::plan(quick());
  ASSERT_TRUE(made);
  ASSERT_TRUE(made->create(file, 0, first, 0));
  EXPECT_EQ(made->area_bytes(), 2068480u);  // as qemu-img's
  ASSERT_TRUE(made->set_slot(file, 6, second, 0));
  auto opened = Luks::read(file, 0, file.size());
  ASSERT_TRUE(opened);
  auto wrong = opened->unlock(file, SecretBytes(std::string("third")));
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message, "Invalid password, cannot unlock any keyslot");
  EXPECT_FALSE(opened->unlocked());
  EXPECT_TRUE(opened->unlock(file, second));
  ASSERT_TRUE(opened->erase_slot(file, 0));
  auto again = Luks::read(file, 0, file.size());
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->unlock(file, first));
  EXPECT_TRUE(again->unlock(file, second));
}

// At each write and flush of a change of a key slot: the old password opens, and the slot is as before or as wanted.
TEST(Luks, PowerCutsLeaveKeySlotsWhole) {
  SecretBytes first(std::string("first")), second(std::string("second"));
  LuksOptions small = quick();
  small.cipher = "aes-128";
  small.mode = "cbc";
  std::mt19937_64 random(1);
  for (size_t slot : {1, 6})  // 6 crosses a sector's border
    for (bool erase : {false, true}) {
      MemoryFile file;
      auto luks = Luks::plan(small);
      ASSERT_TRUE(luks);
      ASSERT_TRUE(luks->create(file, 0, first, 0));
      if (erase) {
        ASSERT_TRUE(luks->set_slot(file, slot, second, 0));
      }
      ASSERT_TRUE(file.flush());
      file.keep_history = true;
      unsigned looked = 0;
      bool within = false;
      file.on_change = [&] {
        if (within) return;
        within = true;
        for (unsigned keep : {0u, 50u, 100u}) {
          auto cut = file.crash(random, keep);
          auto left = Luks::read(*cut, 0, cut->size());
          ASSERT_TRUE(left) << left.error().message;
          auto old = left->opens(*cut, 0, first);
          ASSERT_TRUE(old && *old);
          if (left->header().slots[slot].active) {
            auto now = left->opens(*cut, slot, second);
            EXPECT_TRUE(now && *now) << "slot " << slot << (erase ? " erased" : " set");
          }
          ++looked;
        }
        within = false;
      };
      ASSERT_TRUE(erase ? luks->erase_slot(file, slot) : luks->set_slot(file, slot, second, 0));
      EXPECT_GE(looked, 12u);
    }
}

TEST(Luks, HostileHeadersAreRefused) {
  MemoryFile file;
  auto luks = Luks::plan(quick());
  ASSERT_TRUE(luks);
  ASSERT_TRUE(luks->create(file, 0, SecretBytes(std::string("x")), 0));
  struct {
    size_t at;
    std::vector<std::byte> bytes;
  } changes[] = {
      {4, hex("0000")}, {6, hex("0002")}, {108, hex("00000000")}, {108, hex("7fffffff")}, {164, hex("00000000")}, {164, hex("ffffffff")},
      {208, hex("12345678")}, {212, hex("00000000")}, {212, hex("ffffffff")}, {248, hex("00000000")}, {248, hex("ffffffff")}, {252, hex("00000fa1")},
      {296, hex("00000008")},  // the second slot's material over the first's
      {8, std::vector<std::byte>(32, std::byte{'a'})}, {40, hex("0a")},
  };
  for (auto& change : changes) {
    auto copy = file.copy();
    ASSERT_TRUE(copy->write(change.at, change.bytes));
    EXPECT_FALSE(Luks::read(*copy, 0, copy->size())) << change.at;
  }
  EXPECT_TRUE(Luks::read(file, 0, file.size()));
  EXPECT_FALSE(Luks::read(file, 0, 100000)) << "key material behind its room";
}

TEST(LuksImage, ReadsWhatWasWrittenWhereverItLies) {
  auto file = std::make_unique<MemoryFile>();
  SecretBytes password(std::string("p"));
  constexpr uint64_t kSize = 1 << 20;
  LuksOptions options = quick();
  ASSERT_TRUE(LuksImage::create(*file, kSize, options, password, Preallocation::kOff));
  auto image = LuksImage::open(std::move(file), password);
  ASSERT_TRUE(image) << image.error().message;
  ASSERT_EQ((*image)->size(), kSize);
  std::vector<std::byte> model(kSize);
  ASSERT_TRUE((*image)->write_zeroes(0, kSize, true));
  std::mt19937_64 random(2);
  for (int i = 0; i < 300; ++i) {
    uint64_t grain = i % 3 ? 512 : 1, at = random() % kSize / grain * grain, n = std::min<uint64_t>(kSize - at, random() % 300000 / grain * grain + grain);
    std::vector<std::byte> data(n);
    if (i % 2) {
      for (auto& b : data) b = std::byte(random());
      // In two parts, cut anywhere.
      size_t cut = random() % (n + 1);
      iovec parts[] = {part(data.data(), cut), part(data.data() + cut, n - cut)};
      ASSERT_TRUE((*image)->write(at, std::span<const iovec>(parts)));
      std::ranges::copy(data, model.begin() + static_cast<ptrdiff_t>(at));
    } else {
      ASSERT_TRUE((*image)->read(at, std::span(data)));
      ASSERT_TRUE(std::ranges::equal(data, std::span(model).subspan(at, n))) << at << " " << n;
    }
  }
  EXPECT_FALSE((*image)->write(kSize - 511, std::span<const std::byte>(model).first(512)));
}

}  // namespace
}  // namespace vireo::storage
