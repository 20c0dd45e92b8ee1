// SPDX-License-Identifier: Apache-2.0
#include "control/control_port.h"

#include <pthread.h>

#include <system_error>

#include "machine/machine.h"

namespace vireo::control {
namespace {

const char* name(MachineEvent event) {
  switch (event) {
    case MachineEvent::kStop: return "STOP";
    case MachineEvent::kResume: return "RESUME";
    case MachineEvent::kReset: return "RESET";
    case MachineEvent::kPowerdown: return "POWERDOWN";
    case MachineEvent::kSuspend: return "SUSPEND";
    case MachineEvent::kWakeup: break;
  }
  return "WAKEUP";
}

struct Reason {
  bool guest;
  const char* word;
};
Reason reason(EndReason why) {
  switch (why) {
    case EndReason::kGuestShutdown: return {true, "guest-shutdown"};
    case EndReason::kGuestReset: return {true, "guest-reset"};
    case EndReason::kGuestPanic: return {true, "guest-panic"};
    case EndReason::kError: return {false, "host-error"};
    case EndReason::kHost: break;
  }
  return {false, "host-signal"};
}

}  // namespace

Result<std::unique_ptr<ControlPort>> ControlPort::create(const Config& config, Machine& machine) {
  std::unique_ptr<ControlPort> port(new ControlPort(TRY(EventLoop::create()), machine, config.package));
  auto end = [p = port.get()] {
    p->quit_ = true;
    p->machine_.request_end(0);
  };
  auto reset = [p = port.get()] { p->host_reset_ = true; };
  qmp::add_machine_commands(*port->server_, *port->loop_, machine, config.identity, {.end = end, .reset = reset});
  qmp::add_screen_commands(*port->server_, machine);
  port->job_events_ = std::make_unique<qmp::JobEvents>(*port->server_);
  port->disks_ = std::make_unique<storage::DiskGraph>(*port->job_events_);
  for (storage::LiveDisk* disk : config.disks) port->disks_->add(*disk);
  qmp::add_query_commands(*port->server_, *port->disks_);
  qmp::add_job_commands(*port->server_, *port->disks_);
  qmp::add_node_commands(*port->server_, *port->disks_, *port->job_events_);
  qmp::add_action_commands(*port->server_, *port->disks_);
  for (const std::string& path : config.paths)
    if (auto made = port->server_->listen(path); !made) return std::unexpected(std::move(made).error().within("--qmp"));
  machine.set_on_event([p = port.get()](MachineEvent event) { p->happened(event); });
  return port;
}

Result<> ControlPort::listen(const std::string& path) { return server_->listen(path); }

void ControlPort::start() {
  thread_ = std::thread([this] { loop_->run(); });
  pthread_setname_np(thread_.native_handle(), "vireo-control");
}

void ControlPort::happened(MachineEvent event) {
  qmp::Json data;
  if (event == MachineEvent::kReset) {
    const bool host = host_reset_.exchange(false);
    data = {{"guest", !host}, {"reason", host ? "host-qmp-system-reset" : "guest-reset"}};
  }
  server_->post(name(event), data);
}

void ControlPort::told_end() {
  loop_->post([this] {
    if (std::exchange(quit_, true)) return;
    const Reason why = reason(machine_.end_reason());
    server_->emit("SHUTDOWN", {{"guest", why.guest}, {"reason", why.word}});
    server_->flush(1000);
  });
}

ControlPort::~ControlPort() {
  // The control thread may be standing in for the machine's loop, and telling an event.
  machine_.loop().call([this] { machine_.set_on_event(nullptr); });
  // Jobs end before the disks go, and clients hear of it; commands, which know the disks, come no more.
  loop_->call([this] {
    server_->stop_serving();
    disks_.reset();
  });
  // What was posted before still runs.
  loop_->stop();
  if (thread_.joinable()) thread_.join();
  server_.reset();
}

}  // namespace vireo::control
