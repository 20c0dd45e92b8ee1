// SPDX-License-Identifier: Apache-2.0
// A running machine's control socket: a thread of its own that serves QMP, so that what takes long holds up no guest. Made when
// the machine is built, destroyed before it.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/event_loop.h"
#include "control/qmp/block_commands.h"
#include "control/qmp/machine_commands.h"
#include "control/qmp/server.h"

namespace vireo {
enum class MachineEvent;
}

namespace vireo::control {

constexpr char kControlSuffix[] = ".control";  // FOLDER/PID.control

class ControlPort {
 public:
  struct Config {
    std::string package;             // what the greeting calls us
    qmp::MachineIdentity identity;
    std::vector<std::string> paths;  // of sockets that the user asked for
    std::vector<storage::LiveDisk*> disks;
  };
  static Result<std::unique_ptr<ControlPort>> create(const Config& config, Machine& machine);
  ~ControlPort();

  // The socket where `vireo ctl` looks.
  Result<> listen(const std::string& path);
  void start();
  // The guest's or the host's end of the machine, told to clients; waits until they have been told.
  void told_end();

 private:
  ControlPort(std::unique_ptr<EventLoop> loop, Machine& machine, const std::string& package)
      : machine_(machine), loop_(std::move(loop)), server_(std::make_unique<qmp::Server>(*loop_, package)) {}
  void happened(MachineEvent event);

  Machine& machine_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<qmp::Server> server_;
  std::unique_ptr<qmp::JobEvents> job_events_;
  std::unique_ptr<storage::DiskGraph> disks_;
  bool quit_ = false;  // the end has been told
  std::atomic<bool> host_reset_ = false;  // the next reset is one that a client asked for
  std::thread thread_;
};

}  // namespace vireo::control
