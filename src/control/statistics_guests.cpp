// SPDX-License-Identifier: Apache-2.0
#include "control/statistics_guests.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <string_view>

#include "control/runtime_folder.h"
#include "control/statistics_port.h"

namespace vireo::control {
namespace {

constexpr int kPatienceMs = 5000;    // a machine's loop answers between two rounds
constexpr int kProbeMs = 100;        // for whether it is there
constexpr size_t kMostFiles = 8192;  // more than a VM has vCPUs

template <class T>
bool parse(std::string_view text, T& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return !text.empty() && error == std::errc() && end == text.data() + text.size();
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> open(opendir(folder.c_str()), closedir);
  while (const dirent* entry = open ? readdir(open.get()) : nullptr) names.push_back(entry->d_name);
  return names;
}

// A connection, or errno: EAGAIN when so many wait for the machine already that it has to be stopped.
Result<OwnedFd> connect_to(const std::string& path, int patience_ms) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(ErrorKind::kInvalid, path + ": too long for a socket's name");
  path.copy(address.sun_path, path.size());
  OwnedFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno("socket");
  const timeval limit{.tv_sec = patience_ms / 1000, .tv_usec = patience_ms % 1000 * 1000};
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)) return fail_errno(path);
  return fd;
}

// One message's descriptors go to `files`; how many there are in all.
Result<size_t> receive(int fd, std::vector<OwnedFd>& files) {
  pollfd ready{fd, POLLIN, 0};
  if (poll(&ready, 1, kPatienceMs) <= 0) return fail(ErrorKind::kIo, "the machine does not answer");
  char text[64];
  alignas(cmsghdr) char control[CMSG_SPACE(kFilesPerMessage * sizeof(int))];
  iovec part{text, sizeof text};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t size = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  if (size < 0) return fail_errno("the machine's answer");
  size_t got = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++, got++) {
      int taken;
      memcpy(&taken, CMSG_DATA(c) + i * sizeof taken, sizeof taken);
      files.emplace_back(taken);
    }
  }
  if (size == 0) return fail(ErrorKind::kIo, "the machine has hung up");
  std::string_view line(text, static_cast<size_t>(size)), greeting = kStatisticsGreeting;
  size_t total = 0;
  if (!line.starts_with(greeting) || !line.ends_with('\n') || !parse(line.substr(greeting.size(), line.size() - greeting.size() - 1), total) ||
      got == 0 || files.size() > total || total > kMostFiles)
    return fail(ErrorKind::kCorrupt, "not the answer of a machine's statistics port");
  return total;
}

Result<std::vector<kvm::StatisticsFile>> parse_all(std::vector<OwnedFd> files) {
  std::vector<kvm::StatisticsFile> out;
  for (OwnedFd& fd : files) out.push_back(TRY(kvm::StatisticsFile::open(std::move(fd))));
  std::ranges::stable_sort(out, {}, &kvm::StatisticsFile::vcpu);
  return out;
}

Result<StatisticsGuest> find_open_files(pid_t process) {
  const std::string folder = "/proc/" + std::to_string(process) + "/fd";
  StatisticsGuest guest{.process = process, .alive = OwnedFd(static_cast<int>(syscall(SYS_pidfd_open, process, 0))), .files = {}};
  if (!guest.alive.valid() && errno != ENOSYS) return fail_errno("process " + std::to_string(process));
  std::vector<OwnedFd> files;
  if (access(folder.c_str(), R_OK | X_OK)) return fail_errno(folder);
  for (const std::string& name : names_in(folder)) {
    char target[64];
    const std::string path = folder + "/" + name;
    const ssize_t size = readlink(path.c_str(), target, sizeof target);
    if (size <= 0 || !std::string_view(target, static_cast<size_t>(size)).starts_with("/memfd:kvm-stats ")) continue;
    OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (fd.valid() && files.size() < kMostFiles) files.push_back(std::move(fd));
  }
  guest.files = TRY(parse_all(std::move(files)));
  return guest;
}

}  // namespace

std::vector<pid_t> statistics_guests() {
  std::vector<pid_t> found;
  for (const std::string& folder : runtime_folders())
    for (const std::string& name : names_in(folder)) {
      const std::string_view suffix = kStatisticsSuffix, view = name;
      pid_t process = 0;
      if (!view.ends_with(suffix) || !parse(view.substr(0, view.size() - suffix.size()), process)) continue;
      auto connection = connect_to(folder + "/" + name, kProbeMs);
      if (connection || connection.error().code == EAGAIN) found.push_back(process);
      else if (connection.error().code == ECONNREFUSED) unlink((folder + "/" + name).c_str());
    }
  std::ranges::sort(found);
  found.erase(std::ranges::unique(found).begin(), found.end());
  return found;
}

Result<StatisticsGuest> connect_statistics(const std::string& path, pid_t process) {
  StatisticsGuest guest{.process = process, .alive = TRY(connect_to(path, kPatienceMs)), .files = {}};
  std::vector<OwnedFd> files;
  for (size_t total = 1; files.size() < total;) total = TRY(receive(guest.alive.get(), files));
  guest.files = TRY(parse_all(std::move(files)));
  return guest;
}

Result<StatisticsGuest> find_statistics(pid_t process) {
  for (const std::string& folder : runtime_folders()) {
    auto guest = connect_statistics(folder + "/" + std::to_string(process) + kStatisticsSuffix, process);
    if (guest || (guest.error().code != ENOENT && guest.error().code != ECONNREFUSED)) return guest;
  }
  auto guest = find_open_files(process);
  if (guest && guest->files.empty()) return fail(ErrorKind::kNotFound, "process " + std::to_string(process) + ": no virtual machine whose statistics this user may see");
  return guest;
}

}  // namespace vireo::control
