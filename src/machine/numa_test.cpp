// SPDX-License-Identifier: Apache-2.0
#include "machine/numa.h"

#include <gtest/gtest.h>

namespace vireo {
namespace {

constexpr uint64_t kMiB = 1 << 20, kGiB = 1 << 30;
const std::vector<MemoryRegion> kRam = {{GuestAddress{0}, 2 * kGiB, nullptr}, {GuestAddress{4 * kGiB}, kGiB, nullptr}};

std::string error_of(std::vector<NumaConfig> nodes, unsigned cpus) {
  auto result = lay_out_numa(nodes, cpus, kRam);
  return result ? "" : result.error().message;
}

TEST(Numa, NodesTakeTheRamInTurnAndAcrossTheHole) {
  auto nodes = lay_out_numa(std::vector<NumaConfig>{{{0}, kGiB}, {{1, 2}, 1536 * kMiB}, {{}, 512 * kMiB}, {{3}, 0}}, 4, kRam);
  ASSERT_TRUE(nodes) << nodes.error().message;
  ASSERT_EQ(nodes->size(), 4u);
  auto ranges = [&](size_t node) {
    std::vector<std::pair<uint64_t, uint64_t>> out;
    for (const auto& range : (*nodes)[node].memory) out.emplace_back(range.start, range.size);
    return out;
  };
  using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;
  EXPECT_EQ(ranges(0), (Ranges{{0, kGiB}}));
  EXPECT_EQ(ranges(1), (Ranges{{kGiB, kGiB}, {4 * kGiB, 512 * kMiB}}));
  EXPECT_EQ(ranges(2), (Ranges{{4 * kGiB + 512 * kMiB, 512 * kMiB}}));
  EXPECT_TRUE(ranges(3).empty());
  EXPECT_EQ((*nodes)[1].cpus, (std::vector<unsigned>{1, 2}));
}

TEST(Numa, NoNodesAskForNothing) {
  auto nodes = lay_out_numa({}, 4, kRam);
  ASSERT_TRUE(nodes);
  EXPECT_TRUE(nodes->empty());
}

TEST(Numa, MistakesAreNamed) {
  EXPECT_EQ(error_of({{{0}, 3 * kGiB}}, 2), "--numa: vCPU 1 is in no node");
  EXPECT_EQ(error_of({{{0, 1}, kGiB}, {{1}, 2 * kGiB}}, 2), "--numa: vCPU 1 is given twice");
  EXPECT_EQ(error_of({{{0, 7}, 3 * kGiB}}, 2), "--numa: vCPU 7 is not there; --cpus is 2");
  EXPECT_EQ(error_of({{{0}, kGiB}, {{1}, kGiB}}, 2), "--numa: 1048576 KiB of --memory are in no node");
  EXPECT_EQ(error_of({{{0}, kGiB}, {{1}, ~0ull}}, 2), "--numa: the nodes have more memory than --memory gives");
  EXPECT_EQ(error_of(std::vector<NumaConfig>(65), 1), "--numa: 65 nodes: at most 64");
}

}  // namespace
}  // namespace vireo
