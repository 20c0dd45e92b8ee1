// SPDX-License-Identifier: Apache-2.0
// The other end of statistics_port.h: machines that run now, and their statistics files.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "kvm/statistics.h"

namespace vireo::control {

struct StatisticsGuest {
  pid_t process = 0;
  OwnedFd alive;  // becomes readable when the machine has ended
  std::vector<kvm::StatisticsFile> files;
};

// Processes of this user that have a statistics port. Sockets that nobody listens at any more are taken away.
std::vector<pid_t> statistics_guests();

// By its port; a process without one (a program under `vireo kvm`) by softkvm's files among its open ones. kNotFound.
Result<StatisticsGuest> find_statistics(pid_t process);

// By the port at `path`, of process `process`.
Result<StatisticsGuest> connect_statistics(const std::string& path, pid_t process);

}  // namespace vireo::control
