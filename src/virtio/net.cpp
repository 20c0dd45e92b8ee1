// SPDX-License-Identifier: Apache-2.0
#include "virtio/net.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace vireo::virtio {
namespace {

enum : unsigned { kReceive, kTransmit, kControl };
constexpr size_t kHeader = network::Backend::kVnetHeaderSize;
static_assert(sizeof(virtio_net_hdr_v1) == kHeader);
constexpr unsigned kFramesPerTurn = 256, kCommandsPerTurn = 64;
constexpr uint64_t kMaxFrame = kHeader + 65536 + 64;

constexpr uint64_t kGuestOffloads = bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO6) |
                                    bit(VIRTIO_NET_F_GUEST_ECN);

}  // namespace

Result<std::unique_ptr<Net>> Net::create(const NetConfig& config, Pins pins, std::unique_ptr<network::Backend> backend) {
  if (config.mac[0] & 1) return fail(ErrorKind::kInvalid, "network mac: a card's address cannot be a multicast address");
  if (config.mac == Mac{}) return fail(ErrorKind::kInvalid, "network mac: missing");
  if (config.mtu && config.mtu < 68) return fail(ErrorKind::kInvalid, "network mtu=" + std::to_string(config.mtu) + ": at least 68");
  if (config.queue_size < 4 || config.queue_size > 1024 || !std::has_single_bit(config.queue_size))
    return fail(ErrorKind::kInvalid, "network queue-size=" + std::to_string(config.queue_size) + ": a power of two from 4 to 1024");
  return std::unique_ptr<Net>(new Net(config, pins, std::move(backend)));
}

Net::Net(const NetConfig& config, Pins pins, std::unique_ptr<network::Backend> backend)
    : LoopDevice(pins.loop), config_(config), backend_(std::move(backend)) {
  space_.status = VIRTIO_NET_S_LINK_UP;
  space_.max_virtqueue_pairs = 1;
  space_.mtu = config_.mtu;
  reset();
}

Net::~Net() {
  stop();
  loop().call([&] { backend_.reset(); });
}

uint16_t Net::type() const { return VIRTIO_ID_NET; }

uint64_t Net::features() const {
  uint64_t features = bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_STATUS) | bit(VIRTIO_NET_F_MRG_RXBUF) | bit(VIRTIO_NET_F_CTRL_VQ) |
                      bit(VIRTIO_NET_F_CTRL_RX) | bit(VIRTIO_NET_F_CTRL_RX_EXTRA) | bit(VIRTIO_NET_F_CTRL_VLAN) |
                      bit(VIRTIO_NET_F_CTRL_MAC_ADDR);
  if (config_.mtu) features |= bit(VIRTIO_NET_F_MTU);
  if (!backend_->vnet_header()) return features;
  network::Offloads o = backend_->supported_offloads();
  if (o.checksum) features |= bit(VIRTIO_NET_F_CSUM) | bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
  if (o.tso4) features |= bit(VIRTIO_NET_F_HOST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO4);
  if (o.tso6) features |= bit(VIRTIO_NET_F_HOST_TSO6) | bit(VIRTIO_NET_F_GUEST_TSO6);
  if (o.ecn) features |= bit(VIRTIO_NET_F_HOST_ECN) | bit(VIRTIO_NET_F_GUEST_ECN);
  return features;
}

std::vector<uint16_t> Net::queue_sizes() const { return {config_.queue_size, config_.queue_size, 64}; }

void Net::read_config(uint64_t offset, std::span<std::byte> data) {
  std::lock_guard lock(space_mutex_);
  if (offset >= sizeof space_) return;
  size_t n = std::min<size_t>(data.size(), sizeof space_ - offset);
  memcpy(data.data(), reinterpret_cast<const std::byte*>(&space_) + offset, n);
}

void Net::reset() {
  std::lock_guard lock(space_mutex_);
  std::ranges::copy(config_.mac, space_.mac);
  filter_ = {};
  guest_offloads_ = 0;
  offloads_chosen_ = false;
}

void Net::fields(Archive& archive) {
  std::lock_guard lock(space_mutex_);
  archive.field(1, "mac", space_.mac);
  uint16_t status = space_.status;  // the struct is packed
  archive.field(2, "status", status);
  space_.status = status;
  archive.field(3, "guest_offloads", guest_offloads_);
  archive.field(4, "offloads_chosen", offloads_chosen_);
  filter_.fields(archive, 10);
}

void Net::set_link(bool up) {
  {
    std::lock_guard lock(space_mutex_);
    space_.status = up ? space_.status | VIRTIO_NET_S_LINK_UP : space_.status & ~VIRTIO_NET_S_LINK_UP;
  }
  signal_config();
}

bool Net::link_up() const {
  std::lock_guard lock(space_mutex_);
  return space_.status & VIRTIO_NET_S_LINK_UP;
}

void Net::started() {
  if (!offloads_chosen_) guest_offloads_ = accepted_features() & kGuestOffloads;
  offloads_chosen_ = true;
  apply_offloads();
  backend_->set_receiver([this](std::span<const std::byte> frame) { return receive(frame); });
}

void Net::stopping() {
  backend_->set_receiver({});
  for (; !held_.empty(); held_.pop_back()) queue(kReceive)->restore(std::move(held_.back().chain));
}

void Net::apply_offloads() {
  auto on = [&](unsigned n) { return (guest_offloads_ & bit(n)) != 0; };
  backend_->set_offloads({.checksum = on(VIRTIO_NET_F_GUEST_CSUM),
                          .tso4 = on(VIRTIO_NET_F_GUEST_TSO4),
                          .tso6 = on(VIRTIO_NET_F_GUEST_TSO6),
                          .ecn = on(VIRTIO_NET_F_GUEST_ECN)});
}

void Net::serve(unsigned index) {
  switch (index) {
    case kReceive:
      queue(kReceive)->disable_notifications();  // until receive() runs out of buffers
      return backend_->resume();
    case kTransmit: return transmit();
    case kControl: {
      unsigned left = kCommandsPerTurn;
      queue(kControl)->drain([&](Chain chain) {
        control(std::move(chain));
        if (queue(kControl)->broken()) return false;
        if (--left > 0) return true;
        serve_again(kControl);  // others want the loop too
        return false;
      });
      return signal_later(kControl);
    }
    default: return;
  }
}

void Net::transmit() {
  Queue* q = queue(kTransmit);
  unsigned left = kFramesPerTurn;
  bool up = link_up();
  q->drain([&](Chain chain) {
    virtio_net_hdr_v1 header;
    uint64_t size = chain.readable_size();
    bool sound = size > kHeader && size <= kMaxFrame;
    if (sound && !backend_->vnet_header()) sound = chain.take_value(header);
    if (sound && up) backend_->send(chain.readable());
    q->push(std::move(chain), 0);
    if (--left > 0) return true;
    serve_again(kTransmit);  // others want the loop too
    return false;
  });
  signal_later(kTransmit);
}

bool Net::receive(std::span<const std::byte> frame) {
  if (!queue(kReceive) || queue(kReceive)->broken() || !link_up()) return true;
  virtio_net_hdr_v1 header{};
  if (backend_->vnet_header()) {
    if (frame.size() < kHeader) return true;
    memcpy(&header, frame.data(), kHeader);
    frame = frame.subspan(kHeader);
    if (!presentable(header)) return true;
  }
  Mac own;
  {
    std::lock_guard lock(space_mutex_);
    std::ranges::copy(space_.mac, own.begin());
  }
  if (!filter_.accepts(frame, own, has(VIRTIO_NET_F_CTRL_VLAN))) return true;
  while (!place(header, frame)) {
    // Out of buffers. The driver may have added some just before it was asked to ring.
    if (!queue(kReceive)->enable_notifications()) return false;
    queue(kReceive)->disable_notifications();
  }
  return true;
}

// 5.1.6.4.1: a driver must not see what it has not accepted, or accepts no longer; the host still has frames queued for the time, or the driver, before.
bool Net::presentable(virtio_net_hdr_v1& header) const {
  auto on = [&](unsigned n) { return (guest_offloads_ & bit(n)) != 0; };
  if (!on(VIRTIO_NET_F_GUEST_CSUM)) {
    if (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) return false;  // its checksum is not there yet
    header.flags = 0;
  }
  switch (header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_TCPV4: return on(VIRTIO_NET_F_GUEST_TSO4);
    case VIRTIO_NET_HDR_GSO_TCPV6: return on(VIRTIO_NET_F_GUEST_TSO6);
    case VIRTIO_NET_HDR_GSO_UDP: return false;
    default: return true;
  }
}

// True when the frame is dealt with, in the guest's buffers or not at all; false when it needs more buffers. Those it has
// got stay in held_, since the bell could not be set behind buffers that were put back.
bool Net::place(const virtio_net_hdr_v1& header, std::span<const std::byte> frame) {
  Queue* q = queue(kReceive);
  const bool merge = has(VIRTIO_NET_F_MRG_RXBUF);
  const uint64_t needed = kHeader + frame.size();
  uint64_t room = 0;
  size_t count = 0;
  while (room < needed) {
    if (count == held_.size()) {
      auto chain = q->pop();
      if (!chain) return q->broken() || q->in_flight() >= q->size();  // more than the whole ring: dropped
      held_.push_back({std::move(*chain), 0});
    }
    uint64_t size = held_[count].chain.writable_size();
    if (count == 0 && size < kHeader) {
      q->fail("a receive buffer without room for the header");
      return true;
    }
    room += size;
    ++count;
    if (!merge && room < needed) return true;  // 5.1.6.3: a frame that does not fit is dropped
  }
  virtio_net_hdr_v1 out = header;
  out.num_buffers = static_cast<uint16_t>(count);  // 1 without MRG_RXBUF (5.1.6.4.1)
  uint64_t skip = kHeader;
  auto used = std::span(held_).first(count);
  for (Queue::Filled& filled : used) {
    if (skip) filled.chain.put(0, std::as_bytes(std::span(&out, 1)));
    size_t n = filled.chain.put(skip, frame);
    filled.used = static_cast<uint32_t>(skip + n);
    frame = frame.subspan(n);
    skip = 0;
  }
  q->push_together(used);
  held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(count));
  signal_later(kReceive);
  return true;
}

void Net::control(Chain chain) {
  if (chain.writable_size() == 0) return queue(kControl)->fail("a network command without room for the answer");
  // 5.1.6.5: the answer comes first; what may follow it is a command's results, which none of ours has.
  const std::byte ack{static_cast<uint8_t>(command(chain) ? VIRTIO_NET_OK : VIRTIO_NET_ERR)};
  chain.put(0, {&ack, 1});
  queue(kControl)->push(std::move(chain), 1);
}

bool Net::command(Chain& chain) {
  virtio_net_ctrl_hdr header;
  if (!chain.take_value(header)) return false;
  switch (header.class_) {
    case VIRTIO_NET_CTRL_RX: return has(VIRTIO_NET_F_CTRL_RX) && command_rx(header.cmd, chain);
    case VIRTIO_NET_CTRL_MAC: return command_mac(header.cmd, chain);
    case VIRTIO_NET_CTRL_VLAN: return has(VIRTIO_NET_F_CTRL_VLAN) && command_vlan(header.cmd, chain);
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
      return has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) && command_offloads(header.cmd, chain);
    default: return false;
  }
}

bool Net::command_rx(uint8_t which, Chain& chain) {
  uint8_t on;
  if (!chain.take_value(on)) return false;
  switch (which) {
    case VIRTIO_NET_CTRL_RX_PROMISC: filter_.promiscuous = on; return true;
    case VIRTIO_NET_CTRL_RX_ALLMULTI: filter_.all_multicast = on; return true;
    default: break;
  }
  if (!has(VIRTIO_NET_F_CTRL_RX_EXTRA)) return false;
  switch (which) {
    case VIRTIO_NET_CTRL_RX_ALLUNI: filter_.all_unicast = on; return true;
    case VIRTIO_NET_CTRL_RX_NOMULTI: filter_.no_multicast = on; return true;
    case VIRTIO_NET_CTRL_RX_NOUNI: filter_.no_unicast = on; return true;
    case VIRTIO_NET_CTRL_RX_NOBCAST: filter_.no_broadcast = on; return true;
    default: return false;
  }
}

bool Net::read_table(Chain& chain, NetFilter::Table& table) {
  uint32_t count;
  if (!chain.take_value(count) || chain.readable_size() / sizeof(Mac) < count) return false;
  table = {};
  table.overflow = count > NetFilter::kMaxMacs;
  if (table.overflow) {
    chain.skip(uint64_t{count} * sizeof(Mac));
    return true;
  }
  for (uint32_t i = 0; i < count; ++i) {
    Mac mac;
    chain.take_value(mac);
    table.macs[table.count++] = mac;
  }
  return true;
}

bool Net::command_mac(uint8_t which, Chain& chain) {
  if (which == VIRTIO_NET_CTRL_MAC_ADDR_SET) {
    Mac mac;
    if (!has(VIRTIO_NET_F_CTRL_MAC_ADDR) || chain.readable_size() != sizeof mac || !chain.take_value(mac)) return false;
    std::lock_guard lock(space_mutex_);
    std::ranges::copy(mac, space_.mac);
    return true;
  }
  if (which != VIRTIO_NET_CTRL_MAC_TABLE_SET || !has(VIRTIO_NET_F_CTRL_RX)) return false;
  NetFilter::Table unicast, multicast;
  if (!read_table(chain, unicast) || !read_table(chain, multicast)) return false;
  filter_.unicast = unicast;
  filter_.multicast = multicast;
  return true;
}

bool Net::command_vlan(uint8_t which, Chain& chain) {
  uint16_t id;
  if (!chain.take_value(id) || id >= NetFilter::kVlans) return false;
  if (which != VIRTIO_NET_CTRL_VLAN_ADD && which != VIRTIO_NET_CTRL_VLAN_DEL) return false;
  filter_.vlans[id] = which == VIRTIO_NET_CTRL_VLAN_ADD;
  return true;
}

bool Net::command_offloads(uint8_t which, Chain& chain) {
  uint64_t offloads;
  if (which != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || !chain.take_value(offloads)) return false;
  if (offloads & ~(accepted_features() & kGuestOffloads)) return false;  // 5.1.6.5.6.2
  guest_offloads_ = offloads;
  apply_offloads();
  return true;
}

}  // namespace vireo::virtio
