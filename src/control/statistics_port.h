// SPDX-License-Identifier: Apache-2.0
// A machine's statistics for other processes of the user: a socket that answers each connection with descriptors of the files of
// KVM_GET_STATS_FD. Whoever has them reads counters without disturbing the machine, the kernel's as well as softkvm's; those of the kernel's
// module cannot be opened through /proc, so descriptors have to be handed over. The connection stays open as long as the machine is there.
//
// Messages (SOCK_SEQPACKET) of the machine: the text "vireo statistics 1 TOTAL\n" with at most kFilesPerMessage descriptors (SCM_RIGHTS),
// as many messages as TOTAL descriptors need. The client says nothing.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/owned_fd.h"
#include "control/accept_pause.h"

namespace vireo::control {

constexpr size_t kFilesPerMessage = 128;  // unix(7): SCM_RIGHTS takes at most 253
constexpr char kStatisticsGreeting[] = "vireo statistics 1 ";
constexpr char kStatisticsSuffix[] = ".statistics";  // FOLDER/PID.statistics

class StatisticsPort {
 public:
  // Owner and root may connect. `path` is taken away at the end, and what is left there from a process of the same number before.
  static Result<std::unique_ptr<StatisticsPort>> listen(EventLoop& loop, const std::string& path, std::vector<OwnedFd> files);
  ~StatisticsPort();

 private:
  StatisticsPort(EventLoop& loop, std::string path, std::vector<OwnedFd> files, OwnedFd socket)
      : loop_(loop), path_(std::move(path)), files_(std::move(files)), socket_(std::move(socket)), pause_(loop, socket_.get()) {}
  void accept();
  bool send_files(int client) const;

  static constexpr size_t kMostClients = 64;
  EventLoop& loop_;
  std::string path_;
  std::vector<OwnedFd> files_;
  OwnedFd socket_;
  AcceptPause pause_;
  std::map<int, OwnedFd> clients_;
};

}  // namespace vireo::control
