// SPDX-License-Identifier: Apache-2.0
#include "virtio/console.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

namespace vireo::virtio {
namespace {

constexpr unsigned kControlReceive = 2, kControlTransmit = 3;
// A driver that asks without listening does not make us remember for ever.
constexpr size_t kMaxControl = 512;
constexpr unsigned kChainsPerTurn = 64;

// Linux without F_MULTIPORT reads the size at a change of the config space alone, and not before its console is registered, which no
// message tells. Its first output comes at about that time. Spec: Linux 6.1, drivers/char/virtio_console.c, config_work_handler().
constexpr uint64_t kReminderNs[] = {100'000'000, 1'000'000'000};

struct Resize {  // 5.3.6.2
  uint16_t columns, rows;
};

}  // namespace

Result<std::unique_ptr<Console>> Console::create(const ConsoleConfig& config, Pins pins,
                                                 std::vector<std::unique_ptr<ConsolePort>> ends) {
  if (config.ports.empty() || config.ports.size() > kMaxPorts)
    return fail(ErrorKind::kInvalid, "console ports=" + std::to_string(config.ports.size()) + ": 1 to " + std::to_string(kMaxPorts));
  if (ends.size() != config.ports.size()) return fail(ErrorKind::kInternal, "console: a port without a host's end");
  if (config.queue_size < 2 || config.queue_size > 1024 || !std::has_single_bit(config.queue_size))
    return fail(ErrorKind::kInvalid, "console queue-size=" + std::to_string(config.queue_size) + ": a power of two from 2 to 1024");
  return std::unique_ptr<Console>(new Console(config, pins, std::move(ends)));
}

Console::Console(const ConsoleConfig& config, Pins pins, std::vector<std::unique_ptr<ConsolePort>> ends)
    : LoopDevice(pins.loop),
      config_(config),
      offer_multiport_(config.ports.size() > 1 || !config.ports[0].name.empty() || !config.ports[0].is_console) {
  space_.cols = config.columns;
  space_.rows = config.rows;
  space_.max_nr_ports = static_cast<uint32_t>(config.ports.size());
  ports_.resize(ends.size());
  for (size_t i = 0; i < ends.size(); ++i) ports_[i].end = std::move(ends[i]);
  reminder_ = pins.loop.create([this] { remind_of_size(); });
}

Console::~Console() {
  stop();
  loop().call([&] {
    reminder_.reset();
    ports_.clear();
  });
}

uint16_t Console::type() const { return VIRTIO_ID_CONSOLE; }

uint64_t Console::features() const {
  return bit(VIRTIO_CONSOLE_F_SIZE) | (offer_multiport_ ? bit(VIRTIO_CONSOLE_F_MULTIPORT) : 0);
}

std::vector<uint16_t> Console::queue_sizes() const {
  // 5.3.2: with F_MULTIPORT two for each port and two for control, where there is one port as well.
  return std::vector<uint16_t>(offer_multiport_ ? 2 * ports_.size() + 2 : 2, config_.queue_size);
}

void Console::read_config(uint64_t offset, std::span<std::byte> data) {
  std::lock_guard lock(space_mutex_);
  if (offset >= sizeof space_) return;
  size_t n = std::min<size_t>(data.size(), sizeof space_ - offset);
  memcpy(data.data(), reinterpret_cast<const std::byte*>(&space_) + offset, n);
}

void Console::reset() {
  loop().call([&] {  // the ports' ends are for its thread
    control_.clear();
    for (Port& port : ports_) {
      if (std::exchange(port.guest_open, false)) port.end->guest_open(false);
      port.ready = false;
    }
  });
}

void Console::fields(Archive& archive) {
  for (size_t i = 0; i < ports_.size(); ++i) {
    archive.field(static_cast<unsigned>(1 + 2 * i), "port_ready", ports_[i].ready);
    archive.field(static_cast<unsigned>(2 + 2 * i), "port_guest_open", ports_[i].guest_open);
  }
}

void Console::resize(uint16_t columns, uint16_t rows) {
  {
    std::lock_guard lock(space_mutex_);
    if (space_.cols == columns && space_.rows == rows) return;
    space_.cols = columns;
    space_.rows = rows;
  }
  signal_config();
  loop().post([this] {
    if (!running() || !multiport()) return;
    for (unsigned i = 0; i < ports_.size(); ++i)
      if (ports_[i].ready) tell_size(i);
  });
}

void Console::set_connected(unsigned index, bool connected) {
  loop().post([this, index, connected] {
    if (index >= ports_.size() || ports_[index].connected == connected) return;
    ports_[index].connected = connected;
    if (running() && multiport() && ports_[index].ready) tell(index, VIRTIO_CONSOLE_PORT_OPEN, connected);
  });
}

void Console::started() {
  for (unsigned i = 0; i < ports_.size(); ++i)
    ports_[i].end->set_callbacks([this, i] { serve_again(receive_queue(i)); }, [this, i] { serve_again(transmit_queue(i)); });
}

void Console::remind_of_size() {
  if (!running()) return;
  bool known = [&] {
    std::lock_guard lock(space_mutex_);
    return space_.cols != 0;
  }();
  if (known) signal_config();
  if (++*reminders_ < std::size(kReminderNs)) reminder_->arm(loop().now_ns() + kReminderNs[*reminders_]);
}

void Console::stopping() {
  reminder_->cancel();
  reminders_.reset();
  for (unsigned i = 0; i < ports_.size(); ++i) {
    Port& port = ports_[i];
    port.end->set_callbacks({}, {});
    if (!port.sending) continue;
    // What the host did not take by now is lost; the driver gets its buffer back.
    queue(transmit_queue(i))->push(std::move(*port.sending), 0);
    port.sending.reset();
    signal_later(transmit_queue(i));
  }
}

void Console::serve(unsigned index) {
  if (multiport() && index == kControlReceive) return flush_control();
  if (multiport() && index == kControlTransmit) {
    unsigned left = kChainsPerTurn;
    queue(kControlTransmit)->drain([&](Chain chain) {
      handle_control(chain);
      queue(kControlTransmit)->push(std::move(chain), 0);
      if (--left > 0) return true;
      serve_again(kControlTransmit);  // others want the loop too
      return false;
    });
    return signal_later(kControlTransmit);
  }
  if (!multiport() && index > 1) return;
  unsigned port = index < 2 ? 0 : index / 2 - 1;
  if (port >= ports_.size()) return;
  index == transmit_queue(port) ? send_to_host(port) : fill_from_host(port);
}

bool Console::send_chain(Port& port) {
  Chain& chain = *port.sending;
  while (!chain.readable().empty()) {
    iovec part = chain.readable()[0];
    size_t taken = port.end->write({static_cast<const std::byte*>(part.iov_base), part.iov_len});
    chain.skip(taken);
    if (taken < part.iov_len) return false;
  }
  return true;
}

void Console::send_to_host(unsigned index) {
  Port& port = ports_[index];
  Queue* q = queue(transmit_queue(index));
  auto finish = [&] {
    if (!send_chain(port)) return false;  // `writable` brings us back
    q->push(std::move(*port.sending), 0);
    port.sending.reset();
    return true;
  };
  if (!port.sending || finish()) {
    unsigned left = kChainsPerTurn;
    q->drain([&](Chain chain) {
      if (!reminders_ && !multiport() && has(VIRTIO_CONSOLE_F_SIZE)) {
        reminders_ = 0;
        reminder_->arm(loop().now_ns() + kReminderNs[0]);
      }
      port.sending.emplace(std::move(chain));
      if (!finish()) return false;
      if (--left > 0) return true;
      serve_again(transmit_queue(index));
      return false;
    });
  }
  signal_later(transmit_queue(index));
}

void Console::fill_from_host(unsigned index) {
  Port& port = ports_[index];
  if (!open(port)) return;
  Queue* q = queue(receive_queue(index));
  unsigned left = kChainsPerTurn;
  q->drain([&](Chain chain) {
    uint64_t given = 0;
    for (const iovec& part : chain.writable()) {
      size_t n = port.end->read({static_cast<std::byte*>(part.iov_base), part.iov_len});
      given += n;
      if (n < part.iov_len) break;
    }
    if (given == 0 && chain.writable_size() > 0) {
      q->restore(std::move(chain));
      return false;  // `readable` brings us back
    }
    q->push(std::move(chain), static_cast<uint32_t>(given));
    if (--left > 0) return true;
    serve_again(receive_queue(index));
    return false;
  });
  signal_later(receive_queue(index));
}

void Console::handle_control(Chain& chain) {
  virtio_console_control message;
  if (!chain.take_value(message)) return;
  if (message.event == VIRTIO_CONSOLE_DEVICE_READY) {
    if (message.value != 1) return;
    for (unsigned i = 0; i < ports_.size(); ++i) tell(i, VIRTIO_CONSOLE_PORT_ADD, 1);
    return;
  }
  if (message.id >= ports_.size()) return;
  Port& port = ports_[message.id];
  const ConsoleConfig::Port& config = config_.ports[message.id];
  switch (message.event) {
    case VIRTIO_CONSOLE_PORT_READY:
      if (message.value != 1) return;
      port.ready = true;
      if (config.is_console) tell(message.id, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
      if (!config.name.empty()) tell(message.id, VIRTIO_CONSOLE_PORT_NAME, 1, std::as_bytes(std::span(config.name)));
      if (config.is_console) tell_size(message.id);
      if (port.connected) tell(message.id, VIRTIO_CONSOLE_PORT_OPEN, 1);
      return;
    case VIRTIO_CONSOLE_PORT_OPEN:
      if (port.guest_open == (message.value != 0)) return;
      port.guest_open = message.value != 0;
      port.end->guest_open(port.guest_open);
      if (port.guest_open && queue(receive_queue(message.id))) serve_again(receive_queue(message.id));
      return;
    default: return;
  }
}

void Console::tell(unsigned port, uint16_t event, uint16_t value, std::span<const std::byte> more) {
  if (control_.size() >= kMaxControl) return;
  virtio_console_control message{port, event, value};
  auto head = std::as_bytes(std::span(&message, 1));
  std::vector<std::byte> bytes(head.begin(), head.end());
  bytes.insert(bytes.end(), more.begin(), more.end());
  control_.push_back(std::move(bytes));
  flush_control();
}

void Console::tell_size(unsigned port) {
  Resize size;
  {
    std::lock_guard lock(space_mutex_);
    size = {space_.cols, space_.rows};
  }
  if (has(VIRTIO_CONSOLE_F_SIZE) && size.columns && config_.ports[port].is_console)
    tell(port, VIRTIO_CONSOLE_RESIZE, 1, std::as_bytes(std::span(&size, 1)));
}

void Console::flush_control() {
  Queue* q = queue(kControlReceive);
  if (!q) return;
  do {
    while (!control_.empty()) {
      auto chain = q->pop();
      if (!chain) break;
      size_t n = chain->put(0, control_.front());  // the driver's buffer may be too short for a name
      control_.pop_front();
      q->push(std::move(*chain), static_cast<uint32_t>(n));
    }
  } while (!control_.empty() && q->enable_notifications());
  signal_later(kControlReceive);
}

}  // namespace vireo::virtio
