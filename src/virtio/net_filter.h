// SPDX-License-Identifier: Apache-2.0
// Which frames a network card takes. Spec: virtio 1.3, 5.1.6.5.1 to 5.1.6.5.3.
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/archive.h"

namespace vireo::virtio {

using Mac = std::array<uint8_t, 6>;

struct NetFilter {
  static constexpr unsigned kMaxMacs = 64;  // in each table; more means "all of that kind"
  static constexpr unsigned kVlans = 4096;

  struct Table {
    std::array<Mac, kMaxMacs> macs{};
    uint32_t count = 0;
    bool overflow = false;
    bool has(const uint8_t* mac) const;
  };

  // Everything until the driver says otherwise, for drivers that cannot.
  bool promiscuous = true;
  bool all_multicast = false, all_unicast = false;
  bool no_multicast = false, no_unicast = false, no_broadcast = false;
  Table unicast, multicast;
  std::bitset<kVlans> vlans;

  bool accepts(std::span<const std::byte> frame, const Mac& own, bool filter_vlans) const;
  void fields(Archive& archive, unsigned first_number);
};

}  // namespace vireo::virtio
