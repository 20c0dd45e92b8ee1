// SPDX-License-Identifier: Apache-2.0
// A client of QMP, blocking; and which machine is meant.
#pragma once

#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "control/qmp/framer.h"

namespace vireo::cli::ctl {

using Json = nlohmann::json;

class Client {
 public:
  // Connects and negotiates; a machine that says nothing for so long is an error, of ErrorKind::kBusy. What is said afterwards may take its time.
  static Result<Client> connect(const std::string& path, unsigned seconds = 10);
  // What came back, with "return" or "error" in it. Events on the way are kept.
  Result<Json> execute(const std::string& command, const Json& arguments);
  // `message` as it is.
  Result<Json> say(const std::string& message);
  // The next event; nothing when the machine has ended.
  Result<std::optional<Json>> event();

 private:
  explicit Client(OwnedFd socket) : socket_(std::move(socket)) {}
  Result<std::optional<Json>> hear();
  void wait_at_most(unsigned seconds);  // 0: no limit

  OwnedFd socket_;
  control::qmp::Framer framer_;
  std::deque<Json> events_;
};

struct Running {
  std::string socket, name;
  int process = 0;
  bool answers = true;  // false: it is there, but stopped, or busy for long
};
// This user's machines. Sockets of those that are gone are taken away.
std::vector<Running> running_machines();
// By process number, name or socket; empty: the only one.
Result<std::string> find_socket(const std::string& machine);

}  // namespace vireo::cli::ctl
