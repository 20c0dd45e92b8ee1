// SPDX-License-Identifier: Apache-2.0
#include "virtio/net_filter.h"

#include <algorithm>
#include <cstring>

namespace vireo::virtio {
namespace {

constexpr Mac kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr size_t kEthernetHeader = 14;

}  // namespace

bool NetFilter::Table::has(const uint8_t* mac) const {
  return std::any_of(macs.begin(), macs.begin() + std::min(count, kMaxMacs), [&](const Mac& m) { return !memcmp(m.data(), mac, 6); });
}

bool NetFilter::accepts(std::span<const std::byte> frame, const Mac& own, bool filter_vlans) const {
  if (frame.size() < kEthernetHeader) return false;
  auto* bytes = reinterpret_cast<const uint8_t*>(frame.data());
  if (promiscuous) return true;  // 5.1.6.5.1: all incoming packets, VLANs that were not asked for among them
  if (filter_vlans && bytes[12] == 0x81 && bytes[13] == 0x00) {  // IEEE 802.1Q
    if (frame.size() < kEthernetHeader + 4) return false;
    if (!vlans[(bytes[14] << 8 | bytes[15]) & 0xfff]) return false;
  }
  if (!memcmp(bytes, kBroadcast.data(), 6)) return !no_broadcast;
  if (bytes[0] & 1) return !no_multicast && (all_multicast || multicast.overflow || multicast.has(bytes));
  return !no_unicast && (all_unicast || unicast.overflow || !memcmp(bytes, own.data(), 6) || unicast.has(bytes));
}

void NetFilter::fields(Archive& archive, unsigned n) {
  archive.field(n + 0, "promiscuous", promiscuous);
  archive.field(n + 1, "all_multicast", all_multicast);
  archive.field(n + 2, "all_unicast", all_unicast);
  archive.field(n + 3, "no_multicast", no_multicast);
  archive.field(n + 4, "no_unicast", no_unicast);
  archive.field(n + 5, "no_broadcast", no_broadcast);
  archive.field(n + 6, "unicast_macs", unicast.macs);
  archive.field(n + 7, "unicast_count", unicast.count);
  archive.field(n + 8, "unicast_overflow", unicast.overflow);
  archive.field(n + 9, "multicast_macs", multicast.macs);
  archive.field(n + 10, "multicast_count", multicast.count);
  archive.field(n + 11, "multicast_overflow", multicast.overflow);
  archive.field(n + 12, "vlans", vlans);
}

}  // namespace vireo::virtio
