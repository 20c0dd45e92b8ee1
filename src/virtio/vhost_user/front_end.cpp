// SPDX-License-Identifier: Apache-2.0
#include "virtio/vhost_user/front_end.h"

#include <algorithm>
#include <cstring>

namespace vireo::virtio::vhost_user {

Result<std::unique_ptr<FrontEnd>> FrontEnd::negotiate(Connection connection) {
  std::unique_ptr<FrontEnd> end(new FrontEnd(std::move(connection)));
  Connection& c = end->connection_;
  const uint64_t offered = TRY(c.ask(Request::kGetFeatures));
  end->features_ = offered & ~kFeatureProtocol;
  if (offered & kFeatureProtocol) {
    end->protocol_ = TRY(c.ask(Request::kGetProtocolFeatures)) & (kProtocolMq | kProtocolReplyAck | kProtocolConfig);
    TRY_VOID(c.send_value(Request::kSetProtocolFeatures, end->protocol_));
  }
  TRY_VOID(c.send(Request::kSetOwner, {}));
  if (end->protocol_ & kProtocolMq) {
    const uint64_t queues = TRY(c.ask(Request::kGetQueueNum));
    if (queues == 0) return fail(ErrorKind::kInvalid, "the back-end has no queues");
    end->queues_ = static_cast<unsigned>(std::min<uint64_t>(queues, 1024));
  }
  return end;
}

Result<std::vector<std::byte>> FrontEnd::read_config(uint32_t size) {
  std::vector<std::byte> payload(sizeof(ConfigHead) + size);
  const ConfigHead asked{0, size, 0};
  memcpy(payload.data(), &asked, sizeof asked);
  TRY_VOID(connection_.send(Request::kGetConfig, payload));
  auto reply = TRY(connection_.receive(Request::kGetConfig, sizeof(ConfigHead)));
  ConfigHead head;
  memcpy(&head, reply.data(), sizeof head);
  if (head.size != size || reply.size() != sizeof head + size) return fail(ErrorKind::kInvalid, "the back-end does not tell the device's configuration");
  reply.erase(reply.begin(), reply.begin() + sizeof head);
  return reply;
}

Result<> FrontEnd::write_config(uint32_t offset, std::span<const std::byte> bytes) {
  std::vector<std::byte> payload(sizeof(ConfigHead));
  const ConfigHead head{offset, static_cast<uint32_t>(bytes.size()), 0};
  memcpy(payload.data(), &head, sizeof head);
  payload.insert(payload.end(), bytes.begin(), bytes.end());
  return connection_.send(Request::kSetConfig, payload, {}, acknowledges());
}

Result<> FrontEnd::set_features(uint64_t accepted) {
  return connection_.send_value(Request::kSetFeatures, accepted | (protocol_ ? kFeatureProtocol : 0), {}, acknowledges());
}

Result<> FrontEnd::set_memory(const GuestMemory& memory) {
  MemoryTable table{};
  const int file = memory.shared_file();
  if (file < 0 || memory.regions().size() > kMostRegions) return fail(ErrorKind::kInvalid, "memory that other processes can map is needed (--memory ...,backing=memfd)");
  std::vector<int> files;
  uint64_t offset = 0;
  for (const MemoryRegion& region : memory.regions()) {
    table.regions[table.count++] = {raw(region.start), region.size, reinterpret_cast<uintptr_t>(region.host), offset};
    files.push_back(file);
    offset += region.size;
  }
  auto bytes = std::as_bytes(std::span(&table, 1)).first(offsetof(MemoryTable, regions) + table.count * sizeof(MemoryRegionEntry));
  return connection_.send(Request::kSetMemTable, bytes, files, acknowledges());
}

Result<> FrontEnd::start(const Ring& ring, const GuestMemory& memory) {
  // 2.7: 16 bytes a descriptor; flags, index, 2 bytes an entry and the event; 8 bytes an entry here.
  const uint64_t size = ring.place.size;
  auto at = [&](GuestAddress start, uint64_t bytes) -> uint64_t { return reinterpret_cast<uintptr_t>(memory.range(start, bytes).data()); };
  const VringAddress address{ring.index, 0, at(ring.place.descriptors, 16 * size), at(ring.place.device, 6 + 8 * size), at(ring.place.driver, 6 + 2 * size), 0};
  if (!size || !address.descriptors || !address.used || !address.available) return fail(ErrorKind::kInvalid, "the guest's ring is not in its memory");
  TRY_VOID(connection_.send_value(Request::kSetVringNum, VringState{ring.index, ring.place.size}, {}, acknowledges()));
  TRY_VOID(connection_.send_value(Request::kSetVringBase, VringState{ring.index, ring.next_available}, {}, acknowledges()));
  TRY_VOID(connection_.send_value(Request::kSetVringAddr, address, {}, acknowledges()));
  TRY_VOID(connection_.send_value(Request::kSetVringCall, uint64_t{ring.index}, std::span(&ring.call, 1), acknowledges()));
  TRY_VOID(connection_.send_value(Request::kSetVringKick, uint64_t{ring.index}, std::span(&ring.kick, 1), acknowledges()));
  if (!protocol_) return {};  // then a ring is on from its kick on
  return connection_.send_value(Request::kSetVringEnable, VringState{ring.index, 1}, {}, acknowledges());
}

Result<uint16_t> FrontEnd::stop(unsigned index) {
  TRY_VOID(connection_.send_value(Request::kGetVringBase, VringState{index, 0}));
  auto reply = TRY(connection_.receive(Request::kGetVringBase, sizeof(VringState)));
  VringState state;
  memcpy(&state, reply.data(), sizeof state);
  if (state.index != index) return fail(ErrorKind::kInvalid, "the back-end stops another queue");
  return static_cast<uint16_t>(state.number);
}

}  // namespace vireo::virtio::vhost_user
