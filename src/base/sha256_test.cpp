// SPDX-License-Identifier: Apache-2.0
// Expected digests: FIPS 180-4's examples (csrc.nist.gov, SHA256.pdf), and coreutils' sha256sum.
#include "base/sha256.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vireo {
namespace {

std::string hex(const Sha256Digest& digest) {
  std::string text;
  for (uint8_t byte : digest) {
    char two[3];
    snprintf(two, sizeof two, "%02x", byte);
    text += two;
  }
  return text;
}
std::string of(const std::string& text) {
  Sha256 sha;
  sha.add(text.data(), text.size());
  return hex(sha.digest());
}

TEST(Sha256, GivesThePublishedDigests) {
  EXPECT_EQ(of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(of(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, DoesNotMindHowItIsFed) {
  std::string text;
  for (int i = 0; i < 300; i++) text += static_cast<char>(i * 7);
  for (size_t size = 0; size <= text.size(); size++) {
    Sha256 pieces;
    for (size_t at = 0; at < size; at += 1 + at % 70) pieces.add(text.data() + at, std::min(1 + at % 70, size - at));
    ASSERT_EQ(hex(pieces.digest()), of(text.substr(0, size))) << size;
  }
}

TEST(Sha256, IsTheSameWithoutTheCpusInstructions) {
  if (!sha256_uses_instructions()) GTEST_SKIP() << "this CPU has none";
  std::vector<uint8_t> bytes(64 * 5);
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<uint8_t>(i * 31 + i / 64);
  // The message's padding by hand: FIPS 180-4, 5.1.1.
  std::vector<uint8_t> padded = bytes;
  padded.resize(64 * 6);
  padded[bytes.size()] = 0x80;
  const uint64_t bits = __builtin_bswap64(bytes.size() * 8);
  memcpy(padded.data() + padded.size() - 8, &bits, 8);
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  sha256_blocks_plain(state, padded.data(), 6);
  Sha256 sha;
  sha.add(bytes);
  const Sha256Digest digest = sha.digest();
  for (int i = 0; i < 8; i++) EXPECT_EQ(state[i], static_cast<uint32_t>(digest[4 * i] << 24 | digest[4 * i + 1] << 16 | digest[4 * i + 2] << 8 | digest[4 * i + 3]));
}

}  // namespace
}  // namespace vireo
