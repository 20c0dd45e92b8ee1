// SPDX-License-Identifier: Apache-2.0
#include "cli/ctl/client.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/control_port.h"
#include "control/runtime_folder.h"

namespace vireo::cli::ctl {
namespace {

constexpr unsigned kProbeSeconds = 1;  // for a machine that was not named

}  // namespace

Result<Client> Client::connect(const std::string& path, unsigned seconds) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(ErrorKind::kInvalid, path + ": too long for a socket's name");
  path.copy(address.sun_path, path.size());
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno("socket");
  Client client(std::move(fd));
  client.wait_at_most(seconds);
  auto negotiated = [&]() -> Result<> {
    if (::connect(client.socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)) return fail_errno(path);
    auto greeting = TRY(client.hear());
    if (!greeting || !greeting->contains("QMP")) return fail(ErrorKind::kInvalid, path + ": who answers there speaks no QMP");
    Json answer = TRY(client.execute("qmp_capabilities", Json::object()));
    if (!answer.contains("return")) return fail(ErrorKind::kInvalid, path + ": it does not negotiate");
    return {};
  }();
  if (!negotiated && negotiated.error().kind == ErrorKind::kBusy) return fail(ErrorKind::kBusy, path + ": the machine does not answer", EAGAIN);
  if (!negotiated) return std::unexpected(std::move(negotiated).error());
  client.wait_at_most(0);
  return client;
}

void Client::wait_at_most(unsigned seconds) {
  const timeval limit{.tv_sec = static_cast<time_t>(seconds), .tv_usec = 0};
  for (int option : {SO_RCVTIMEO, SO_SNDTIMEO}) setsockopt(socket_.get(), SOL_SOCKET, option, &limit, sizeof limit);
}

Result<std::optional<Json>> Client::hear() {
  for (;;) {
    if (auto value = TRY(framer_.next())) {
      Json json = Json::parse(*value, nullptr, false);
      if (!json.is_object()) return fail(ErrorKind::kInvalid, "the machine said something that is no QMP");
      return json;
    }
    char bytes[16384];
    const ssize_t n = recv(socket_.get(), bytes, sizeof bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != ECONNRESET) return fail_errno("control socket");
    if (n <= 0) return std::nullopt;
    framer_.add({bytes, static_cast<size_t>(n)});
  }
}

Result<Json> Client::say(const std::string& message) {
  for (size_t at = 0; at < message.size();) {
    const ssize_t n = send(socket_.get(), message.data() + at, message.size() - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("control socket");
    at += static_cast<size_t>(n);
  }
  for (;;) {
    auto json = TRY(hear());
    if (!json) return fail(ErrorKind::kIo, "the machine has ended without an answer");
    if (!json->contains("event")) return *json;
    events_.push_back(std::move(*json));
  }
}

Result<Json> Client::execute(const std::string& command, const Json& arguments) {
  Json message = {{"execute", command}};
  if (!arguments.empty()) message["arguments"] = arguments;
  return say(message.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n");
}

Result<std::optional<Json>> Client::event() {
  if (!events_.empty()) {
    Json first = std::move(events_.front());
    events_.pop_front();
    return first;
  }
  return hear();
}

std::vector<Running> running_machines() {
  std::vector<Running> found;
  const std::string suffix = control::kControlSuffix;
  for (const std::string& folder : control::runtime_folders()) {
    DIR* dir = opendir(folder.c_str());
    if (!dir) continue;
    while (dirent* entry = readdir(dir)) {
      const std::string file = entry->d_name;
      if (!file.ends_with(suffix)) continue;
      Running one{.socket = folder + "/" + file, .name = {}, .process = atoi(file.c_str())};
      auto client = Client::connect(one.socket, kProbeSeconds);
      if (!client && client.error().kind != ErrorKind::kBusy) {
        if (client.error().code == ECONNREFUSED) unlink(one.socket.c_str());
        continue;
      }
      one.answers = client.has_value();
      if (!client) {
        found.push_back(std::move(one));
        continue;
      }
      auto name = client->execute("query-name", Json::object());
      if (name && name->contains("return") && (*name)["return"].is_object()) one.name = (*name)["return"].value("name", "");
      found.push_back(std::move(one));
    }
    closedir(dir);
  }
  return found;
}

namespace {

// Without waiting for it, so also if it is stopped.
bool somebody_listens(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;
  path.copy(address.sun_path, path.size());
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return fd.valid() && (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN);
}

}  // namespace

Result<std::string> find_socket(const std::string& machine) {
  struct stat st;
  if (machine.find('/') != std::string::npos && stat(machine.c_str(), &st) == 0) return machine;
  if (!machine.empty() && machine.find_first_not_of("0123456789") == std::string::npos)
    for (const std::string& folder : control::runtime_folders()) {
      const std::string path = folder + "/" + machine + control::kControlSuffix;
      if (somebody_listens(path)) return path;
    }
  const std::vector<Running> all = running_machines();
  std::string names;
  std::vector<const Running*> fitting;
  for (const Running& one : all) {
    if (machine.empty() || machine == one.name || machine == std::to_string(one.process)) fitting.push_back(&one);
    names += " " + std::to_string(one.process) + (!one.answers ? " (which does not answer)" : one.name.empty() ? "" : " (" + one.name + ")");
  }
  if (fitting.size() == 1) return fitting[0]->socket;
  if (all.empty()) return fail(ErrorKind::kNotFound, "ctl: this user has no machine running");
  if (fitting.empty()) return fail(ErrorKind::kNotFound, "ctl: no running machine is " + machine + "; there are:" + names);
  return fail(ErrorKind::kInvalid, "ctl: name one of the running machines by its process:" + names);
}

}  // namespace vireo::cli::ctl
