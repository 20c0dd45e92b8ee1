// SPDX-License-Identifier: Apache-2.0
// The virtio console: one console, or several ports with names ("virtio-serial"). Spec: virtio 1.3, 5.3.
// With a single unnamed port VIRTIO_CONSOLE_F_MULTIPORT is not offered: its resize message was read with rows and columns
// swapped by Linux before 6.15, while the config space never was.
#pragma once

#include <linux/virtio_console.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "virtio/console_port.h"
#include "virtio/loop_device.h"

namespace vireo::virtio {

struct ConsoleConfig {
  struct Port {
    std::string name;        // found by the guest under /dev/virtio-ports/
    bool is_console = true;  // a terminal (hvc) rather than a plain channel
  };
  std::vector<Port> ports = {Port{}};
  uint16_t columns = 0, rows = 0;  // 0: unknown
  uint16_t queue_size = 64;
};

class Console final : public LoopDevice {
 public:
  static constexpr unsigned kMaxPorts = kMaxQueues / 2 - 1;

  struct Pins {
    EventLoop& loop;
  };
  // `ends[i]` is the host's end of config.ports[i].
  static Result<std::unique_ptr<Console>> create(const ConsoleConfig& config, Pins pins,
                                                 std::vector<std::unique_ptr<ConsolePort>> ends);
  ~Console() override;

  // The terminal's size changed. Any thread.
  void resize(uint16_t columns, uint16_t rows);
  // The host's end of a port was connected or disconnected. Any thread.
  void set_connected(unsigned port, bool connected);

  uint16_t type() const override;
  uint64_t features() const override;
  std::vector<uint16_t> queue_sizes() const override;
  void read_config(uint64_t offset, std::span<std::byte> data) override;
  void reset() override;
  void fields(Archive& archive) override;

 private:
  struct Port {
    std::unique_ptr<ConsolePort> end;
    bool connected = true;   // at the host
    bool ready = false;      // the driver has set it up
    bool guest_open = false;
    std::optional<Chain> sending;  // the rest waits for room at the host
  };

  Console(const ConsoleConfig& config, Pins pins, std::vector<std::unique_ptr<ConsolePort>> ends);
  void started() override;
  void serve(unsigned index) override;
  void stopping() override;

  static unsigned receive_queue(unsigned port) { return port == 0 ? 0 : 2 + 2 * port; }
  static unsigned transmit_queue(unsigned port) { return receive_queue(port) + 1; }
  bool multiport() const { return has(VIRTIO_CONSOLE_F_MULTIPORT); }
  bool open(const Port& port) const { return !multiport() || port.guest_open; }

  void send_to_host(unsigned index);
  bool send_chain(Port& port);
  void fill_from_host(unsigned index);
  void handle_control(Chain& chain);
  void tell(unsigned port, uint16_t event, uint16_t value, std::span<const std::byte> more = {});
  void tell_size(unsigned port);
  void remind_of_size();
  void flush_control();

  ConsoleConfig config_;
  bool offer_multiport_;
  mutable std::mutex space_mutex_;
  virtio_console_config space_{};
  std::vector<Port> ports_;
  std::deque<std::vector<std::byte>> control_;  // messages for the driver
  std::unique_ptr<Timer> reminder_;
  std::optional<unsigned> reminders_;  // sent, since the driver has begun to write
};

}  // namespace vireo::virtio
