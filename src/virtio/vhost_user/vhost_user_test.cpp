// SPDX-License-Identifier: Apache-2.0
// The front-end against a back-end that is a script: its answers lie in the socket before they are asked for, and what it was told is read afterwards.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "virtio/vhost_user/front_end.h"

namespace vireo::virtio::vhost_user {
namespace {

class Script {
 public:
  Script() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ours.reset(ends[0]);
    theirs.reset(ends[1]);
  }
  template <class T>
  void answer(uint32_t request, const T& value, uint32_t flags = 5, int size = sizeof(T)) {
    const uint32_t head[3] = {request, flags, static_cast<uint32_t>(size)};
    EXPECT_EQ(write(theirs.get(), head, sizeof head), static_cast<ssize_t>(sizeof head));
    EXPECT_EQ(write(theirs.get(), &value, sizeof value), static_cast<ssize_t>(sizeof value));
  }
  void close() { shutdown(theirs.get(), SHUT_WR); }
  struct Said {
    uint32_t request = 0, flags = 0;
    std::vector<uint8_t> payload;
    std::vector<int> descriptors;
    uint64_t number(size_t at, size_t size = 8) const {
      uint64_t value = 0;
      memcpy(&value, &payload.at(at + size - 1) - (size - 1), size);
      return value;
    }
  };
  Said heard() {
    Said said;
    uint32_t head[3] = {};
    alignas(cmsghdr) char control[256];
    iovec part{head, sizeof head};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (recvmsg(theirs.get(), &message, MSG_DONTWAIT) != sizeof head) return said;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
      said.descriptors.resize((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
      memcpy(said.descriptors.data(), CMSG_DATA(c), said.descriptors.size() * sizeof(int));
    }
    said.request = head[0], said.flags = head[1];
    said.payload.resize(head[2]);
    if (head[2]) {
      EXPECT_EQ(recv(theirs.get(), said.payload.data(), head[2], MSG_DONTWAIT), static_cast<ssize_t>(head[2]));
    }
    return said;
  }
  Result<std::unique_ptr<FrontEnd>> negotiate() { return FrontEnd::negotiate(Connection(std::move(ours))); }

  OwnedFd ours, theirs;
};

constexpr uint64_t kVersion1 = 1ull << 32, kProtocol = 1ull << 30;

// The order is the specification's: features, protocol features, owner, number of queues.
TEST(VhostUser, Negotiates) {
  Script script;
  script.answer(1, kVersion1 | kProtocol | 1 << 9);
  script.answer(15, uint64_t{0xffff});  // all of them
  script.answer(17, uint64_t{3});
  auto end = script.negotiate();
  ASSERT_TRUE(end) << end.error().message;
  EXPECT_EQ((*end)->features(), kVersion1 | 1 << 9);
  EXPECT_EQ((*end)->queues(), 3u);
  EXPECT_TRUE((*end)->has_config());
  for (uint32_t request : {1u, 15u, 16u, 3u, 17u}) {
    auto said = script.heard();
    EXPECT_EQ(said.request, request);
    EXPECT_EQ(said.flags, 1u);
    EXPECT_EQ(said.payload.size(), request == 16 ? 8u : 0u);
    if (request == 16) {
      EXPECT_EQ(said.number(0), (1u << 0 | 1u << 3 | 1u << 9)) << "multiqueue, acknowledgements, configuration";
    }
  }
}

TEST(VhostUser, WithoutProtocolFeaturesThereIsOneQueue) {
  Script script;
  script.answer(1, kVersion1);
  auto end = script.negotiate();
  ASSERT_TRUE(end);
  EXPECT_EQ((*end)->queues(), 1u);
  EXPECT_FALSE((*end)->has_config());
}

TEST(VhostUser, WrongAnswersAreRefused) {
  const uint64_t features = kVersion1 | kProtocol;
  for (auto [request, flags, size] : {std::tuple(2u, 5u, 8), std::tuple(1u, 1u, 8), std::tuple(1u, 6u, 8), std::tuple(1u, 5u, 4), std::tuple(1u, 5u, 1 << 30)}) {
    Script script;
    script.answer(request, features, flags, size);
    script.close();
    EXPECT_FALSE(script.negotiate()) << request << " " << flags << " " << size;
  }
  Script closed;
  closed.close();
  auto end = closed.negotiate();
  ASSERT_FALSE(end);
  EXPECT_NE(end.error().message.find("closed its socket"), std::string::npos);
  Script none;
  none.answer(1, features);
  none.answer(15, uint64_t{1});
  none.answer(17, uint64_t{0});
  EXPECT_FALSE(none.negotiate()) << "no queues";
}

struct Session : testing::Test {
  Session() {
    script.answer(1, kVersion1 | kProtocol);
    script.answer(15, uint64_t{1 << 3 | 1 << 9});
    end = std::move(*script.negotiate());
    while (script.heard().request) {
    }
    memory = std::move(*GuestMemory::create({.size = 6 << 20, .backing = MemoryConfig::Backing::kMemfd}, 4 << 20));
  }
  Script script;
  std::unique_ptr<FrontEnd> end;
  std::unique_ptr<GuestMemory> memory;
};

TEST_F(Session, ConfigurationComesWhole) {
  struct {
    uint32_t offset = 0, size = 8, flags = 0;
    uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  } right;
  script.answer(24, right);
  auto got = end->read_config(8);
  ASSERT_TRUE(got) << got.error().message;
  EXPECT_EQ(*got, std::vector<std::byte>({std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}, std::byte{5}, std::byte{6}, std::byte{7}, std::byte{8}}));
  auto said = script.heard();
  EXPECT_EQ(said.request, 24u);
  EXPECT_EQ(said.payload.size(), 20u);
  EXPECT_EQ(said.number(4, 4), 8u);
  right.size = 0;  // how a back-end says no
  script.answer(24, right);
  EXPECT_FALSE(end->read_config(8));
}

TEST_F(Session, MemoryIsATableWithItsFiles) {
  script.answer(5, uint64_t{0});
  ASSERT_TRUE(end->set_memory(*memory));
  auto said = script.heard();
  EXPECT_EQ(said.request, 5u);
  EXPECT_EQ(said.flags, 9u) << "wants an answer";
  ASSERT_EQ(said.payload.size(), 8u + 2 * 32);
  EXPECT_EQ(said.number(0, 4), 2u);
  EXPECT_EQ(said.number(8), 0u);
  EXPECT_EQ(said.number(16), 4u << 20);
  EXPECT_EQ(said.number(24), reinterpret_cast<uintptr_t>(memory->regions()[0].host));
  EXPECT_EQ(said.number(32), 0u);
  EXPECT_EQ(said.number(40), 1ull << 32);
  EXPECT_EQ(said.number(48), 2u << 20);
  EXPECT_EQ(said.number(64), 4u << 20);
  ASSERT_EQ(said.descriptors.size(), 2u);
  struct stat a, b;
  ASSERT_EQ(fstat(said.descriptors[0], &a), 0);
  ASSERT_EQ(fstat(memory->shared_file(), &b), 0);
  EXPECT_EQ(a.st_ino, b.st_ino);
  for (int fd : said.descriptors) close(fd);
  script.answer(5, uint64_t{1});
  EXPECT_FALSE(end->set_memory(*memory)) << "refused";
}

TEST_F(Session, ARingIsGivenAndTakenBack) {
  for (uint32_t request : {8u, 10u, 9u, 13u, 12u, 18u}) script.answer(request, uint64_t{0});
  FrontEnd::Ring ring{.index = 1, .place = {.size = 64, .descriptors = GuestAddress{0x1000}, .driver = GuestAddress{0x2000}, .device = GuestAddress{0x3000}}, .next_available = 77,
                      .kick = script.theirs.get(), .call = script.theirs.get()};
  ASSERT_TRUE(end->start(ring, *memory));
  EXPECT_EQ(script.heard().number(4, 4), 64u);
  auto base = script.heard();
  EXPECT_EQ(base.request, 10u);
  EXPECT_EQ(base.number(0, 4), 1u);
  EXPECT_EQ(base.number(4, 4), 77u);
  auto address = script.heard();
  const auto host = reinterpret_cast<uintptr_t>(memory->regions()[0].host);
  ASSERT_EQ(address.payload.size(), 40u);
  EXPECT_EQ(address.number(8), host + 0x1000);   // descriptors
  EXPECT_EQ(address.number(16), host + 0x3000);  // used
  EXPECT_EQ(address.number(24), host + 0x2000);  // available
  for (uint32_t request : {13u, 12u}) {
    auto said = script.heard();
    EXPECT_EQ(said.request, request);
    EXPECT_EQ(said.number(0), 1u);
    ASSERT_EQ(said.descriptors.size(), 1u);
    close(said.descriptors[0]);
  }
  auto enable = script.heard();
  EXPECT_EQ(enable.request, 18u);
  EXPECT_EQ(enable.number(4, 4), 1u);
  script.answer(11, VringState{1, 0x1234});
  auto stopped = end->stop(1);
  ASSERT_TRUE(stopped);
  EXPECT_EQ(*stopped, 0x1234);
  script.answer(11, VringState{0, 0x1234});
  EXPECT_FALSE(end->stop(1)) << "another queue's";
  ring.place.device = GuestAddress{0x3ffffe};
  EXPECT_FALSE(end->start(ring, *memory)) << "the ring is not all in memory";
}

}  // namespace
}  // namespace vireo::virtio::vhost_user
