// SPDX-License-Identifier: Apache-2.0
// The words of the vhost-user protocol, as they are on the socket. Spec: "Vhost-user Protocol" of the QEMU project (docs/interop/vhost-user).
#pragma once

#include <cstdint>

namespace vireo::virtio::vhost_user {

enum class Request : uint32_t {
  kGetFeatures = 1, kSetFeatures = 2, kSetOwner = 3, kSetMemTable = 5, kSetVringNum = 8, kSetVringAddr = 9, kSetVringBase = 10, kGetVringBase = 11,
  kSetVringKick = 12, kSetVringCall = 13, kGetProtocolFeatures = 15, kSetProtocolFeatures = 16, kGetQueueNum = 17, kSetVringEnable = 18,
  kGetConfig = 24, kSetConfig = 25,
};

struct Header {
  static constexpr uint32_t kVersion = 1, kVersionMask = 3, kReply = 4, kNeedReply = 8;
  uint32_t request, flags, size;
};
static_assert(sizeof(Header) == 12);

constexpr uint64_t kFeatureProtocol = 1ull << 30;  // of the device's features: there are protocol features
constexpr uint64_t kProtocolMq = 1ull << 0, kProtocolReplyAck = 1ull << 3, kProtocolConfig = 1ull << 9;
constexpr uint32_t kMostRegions = 8, kMostPayload = 4096;

struct VringState {
  uint32_t index, number;
};
struct VringAddress {
  uint32_t index, flags;
  uint64_t descriptors, used, available, log;  // addresses of the front-end's own
};
struct MemoryRegionEntry {
  uint64_t guest_address, size, user_address, file_offset;
};
struct MemoryTable {
  uint32_t count, padding;
  MemoryRegionEntry regions[kMostRegions];
};
struct ConfigHead {
  uint32_t offset, size, flags;  // the bytes follow
};

}  // namespace vireo::virtio::vhost_user
