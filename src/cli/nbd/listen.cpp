// SPDX-License-Identifier: Apache-2.0
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "cli/nbd/nbd.h"

namespace vireo::cli::nbd {

Result<OwnedFd> listen_unix(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (path.empty() || path.size() >= sizeof address.sun_path) return fail(ErrorKind::kInvalid, "--socket '" + path + "': the path is empty or too long");
  memcpy(address.sun_path, path.data(), path.size());
  auto* where = reinterpret_cast<sockaddr*>(&address);
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno("socket");
  if (bind(fd.get(), where, sizeof address) != 0) {
    const int error = errno;
    // connect(2) to a file that is no socket is refused as well: somebody's file is not taken away for that.
    struct stat there;
    if (error == EADDRINUSE && lstat(path.c_str(), &there) == 0 && !S_ISSOCK(there.st_mode))
      return fail(ErrorKind::kInvalid, "--socket '" + path + "': it is there, and no socket");
    // What a server left behind that is gone. One that answers stays.
    OwnedFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (error != EADDRINUSE || connect(probe.get(), where, sizeof address) == 0 || errno != ECONNREFUSED)
      return fail_errno("--socket '" + path + "'", error);
    unlink(path.c_str());
    if (bind(fd.get(), where, sizeof address) != 0) return fail_errno("--socket '" + path + "'");
  }
  if (::listen(fd.get(), 64) != 0) return fail_errno("--socket '" + path + "'");
  return fd;
}

Result<OwnedFd> listen_tcp(const std::string& address, const std::string& port) {
  // getaddrinfo(3) takes the lowest 16 bits of a number; 0 would be any port, which nobody is told.
  if (!port.empty() && std::ranges::all_of(port, [](char c) { return c >= '0' && c <= '9'; })) {
    const std::string digits = port.substr(std::min(port.find_first_not_of('0'), port.size()));
    if (digits.empty() || digits.size() > 5 || std::stoul(digits) > 65535) return fail(ErrorKind::kInvalid, "--port '" + port + "': a number from 1 to 65535 is needed");
  }
  addrinfo hints{}, *list = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  if (int code = getaddrinfo(address.empty() ? nullptr : address.c_str(), port.c_str(), &hints, &list); code != 0)
    return fail(ErrorKind::kInvalid, "--bind '" + address + "', --port '" + port + "': " + gai_strerror(code));
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
  int error = 0;
  for (addrinfo* a = list; a; a = a->ai_next) {
    OwnedFd fd(socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol));
    int on = 1;
    if (!fd.valid()) continue;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd.get(), a->ai_addr, a->ai_addrlen) == 0 && ::listen(fd.get(), 64) == 0) return fd;
    error = errno;
  }
  return fail_errno("--bind '" + address + "', --port '" + port + "'", error ? error : EADDRNOTAVAIL);
}

}  // namespace vireo::cli::nbd
