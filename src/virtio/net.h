// SPDX-License-Identifier: Apache-2.0
// The virtio network card: one queue pair and a control queue. Spec: virtio 1.3, 5.1.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "network/backend.h"
#include "virtio/loop_device.h"
#include "virtio/net_abi.h"
#include "virtio/net_filter.h"

namespace vireo::virtio {

struct NetConfig {
  Mac mac{};
  uint16_t mtu = 0;  // told to the guest when not 0
  uint16_t queue_size = 256;
};

class Net final : public LoopDevice {
 public:
  struct Pins {
    EventLoop& loop;  // the one the backend was made with
  };
  static Result<std::unique_ptr<Net>> create(const NetConfig& config, Pins pins, std::unique_ptr<network::Backend> backend);
  ~Net() override;

  // Plugs the cable in or out. Any thread.
  void set_link(bool up);
  network::Backend& backend() { return *backend_; }

  uint16_t type() const override;
  uint64_t features() const override;
  std::vector<uint16_t> queue_sizes() const override;
  void read_config(uint64_t offset, std::span<std::byte> data) override;
  void reset() override;
  void fields(Archive& archive) override;

 private:
  Net(const NetConfig& config, Pins pins, std::unique_ptr<network::Backend> backend);
  void started() override;
  void serve(unsigned index) override;
  void stopping() override;

  void transmit();
  bool receive(std::span<const std::byte> frame);
  bool presentable(virtio_net_hdr_v1& header) const;
  bool place(const virtio_net_hdr_v1& header, std::span<const std::byte> frame);
  void control(Chain chain);
  bool command(Chain& chain);
  bool command_rx(uint8_t which, Chain& chain);
  bool command_mac(uint8_t which, Chain& chain);
  bool command_vlan(uint8_t which, Chain& chain);
  bool command_offloads(uint8_t which, Chain& chain);
  bool read_table(Chain& chain, NetFilter::Table& table);
  void apply_offloads();
  bool link_up() const;

  NetConfig config_;
  std::unique_ptr<network::Backend> backend_;
  mutable std::mutex space_mutex_;
  virtio_net_config space_{};
  // The loop's thread, as everything below.
  NetFilter filter_;
  uint64_t guest_offloads_ = 0;  // feature bits in force
  bool offloads_chosen_ = false;
  std::vector<Queue::Filled> held_;  // receive buffers taken from the ring and not yet used
};

}  // namespace vireo::virtio
