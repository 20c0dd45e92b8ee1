// SPDX-License-Identifier: Apache-2.0
#include "control/qmp/server.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>

namespace vireo::control::qmp {

Server::~Server() { stop_serving(); }

void Server::stop_serving() {
  for (Session& session : sessions_)
    if (session.socket.valid()) loop_.unwatch(session.socket.get());
  for (Listener& listener : listeners_) {
    loop_.unwatch(listener.socket.get());
    unlink(listener.path.c_str());
  }
  listeners_.clear();
}

std::vector<std::string> Server::commands() const {
  std::vector<std::string> names{"qmp_capabilities"};
  for (auto& [name, handler] : commands_) names.push_back(name);
  return names;
}

Result<> Server::listen(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) return fail(ErrorKind::kInvalid, path + ": not a length that a socket's name can have");
  path.copy(address.sun_path, path.size());
  OwnedFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail_errno("socket");
  struct stat st;
  if (lstat(path.c_str(), &st) == 0) {
    if (!S_ISSOCK(st.st_mode)) return fail(ErrorKind::kInvalid, path + ": it is there, and no socket");
    unlink(path.c_str());
  }
  // unix(7): the file gets the mode that the socket has, so that there is no moment at which others could connect.
  if (fchmod(socket.get(), 0600) || bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) || chmod(path.c_str(), 0600) ||
      ::listen(socket.get(), 8))
    return fail_errno(path);
  const int fd = socket.get();
  auto pause = std::make_unique<AcceptPause>(loop_, fd);
  AcceptPause& its_pause = *pause;
  listeners_.push_back({std::move(socket), path, std::move(pause)});
  return loop_.watch(fd, EPOLLIN, [this, fd, &its_pause](uint32_t) { accept(fd, its_pause); });
}

void Server::accept(int listener, AcceptPause& pause) {
  for (;;) {
    OwnedFd client(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client.valid()) {
      if (pause.go_on(errno)) continue;
      return;
    }
    ucred peer{};
    socklen_t size = sizeof peer;
    const bool known = getsockopt(client.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == geteuid() || peer.uid == 0);
    if (!known || sessions_.size() >= kMostSessions) continue;
    const int fd = client.get();
    Session& session = sessions_.emplace_back();
    session.socket = std::move(client);
    if (!loop_.watch(fd, EPOLLIN, [this, &session](uint32_t events) { ready(session, events); })) {
      sessions_.pop_back();
      continue;
    }
    send(session, greeting(package_));
  }
}

void Server::ready(Session& session, uint32_t events) {
  if (events & EPOLLOUT) write(session);
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !session.gone) {
    char bytes[16384];
    // One piece a round, so that nobody keeps the loop for himself.
    const ssize_t n = recv(session.socket.get(), bytes, sizeof bytes, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) session.gone = true;
    if (n > 0) session.framer.add({bytes, static_cast<size_t>(n)});
    while (!session.gone && n > 0) {
      auto value = session.framer.next();
      if (!value) {
        send(session, write_answer(refuse(value.error().message), {}));
        break;
      }
      if (!*value) break;
      serve(session, **value);
    }
  }
  if (session.gone) drop(session);
}

void Server::serve(Session& session, const std::string& text) {
  std::optional<Json> id;
  auto command = parse_command(text, id);
  if (!command) return send(session, write_answer(std::unexpected(command.error()), id));
  if (command->name == "qmp_capabilities") {
    if (session.negotiated) return send(session, write_answer(refuse("Capabilities negotiation is already complete, command ignored", "CommandNotFound"), id));
    Arguments arguments(command->arguments);
    if (auto enable = arguments.take("enable"); enable && (!enable->is_array() || !enable->empty()))
      return send(session, write_answer(refuse("no capability is offered"), id));
    if (auto end = arguments.end(); !end) return send(session, write_answer(std::unexpected(end.error()), id));
    session.negotiated = true;
    return send(session, write_answer(Json::object(), id));
  }
  if (!session.negotiated)
    return send(session, write_answer(refuse("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound"), id));
  const Answer answer = execute(*command);
  emit_posted();
  send(session, write_answer(answer, id));
}

Answer Server::execute(const Command& command) {
  auto found = commands_.find(command.name);
  if (found == commands_.end()) return refuse("The command " + command.name + " has not been found", "CommandNotFound");
  Arguments arguments(command.arguments);
  return found->second(arguments);
}

void Server::emit(const std::string& event, const Json& data) {
  emit_posted();
  emit_line(write_event(event, data));
}

void Server::post(const std::string& event, const Json& data) {
  std::string line = write_event(event, data);  // with the time when it happened
  std::lock_guard lock(posted_mutex_);
  if (posted_.empty()) loop_.post([this] { emit_posted(); });
  posted_.push_back(std::move(line));
}

void Server::emit_posted() {
  std::vector<std::string> lines;
  {
    std::lock_guard lock(posted_mutex_);
    lines.swap(posted_);
  }
  for (const std::string& line : lines) emit_line(line);
}

void Server::emit_line(const std::string& line) {
  for (Session& session : sessions_)
    if (session.negotiated && !session.gone) send(session, line);
}

void Server::send(Session& session, const std::string& line) {
  if (session.gone || session.deaf) return;
  session.out += line + "\r\n";
  write(session);
  if (session.out.size() > kMostWaiting) give_up(session);
}

// It may be the session whose command is running: ready() drops it then, or the next event on its socket.
void Server::give_up(Session& session) {
  session.gone = true;
  session.out.clear();
  shutdown(session.socket.get(), SHUT_RDWR);
}

void Server::write(Session& session) {
  while (!session.out.empty()) {
    const ssize_t n = ::send(session.socket.get(), session.out.data(), session.out.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) {
      // It reads no more; the socket would be ready to be written without end. What it has sent before counts: reading meets its end.
      session.deaf = true;
      session.out.clear();
      break;
    }
    session.out.erase(0, static_cast<size_t>(n));
  }
  loop_.change(session.socket.get(), session.out.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

void Server::flush(int milliseconds) {
  const uint64_t until = loop_.now_ns() + static_cast<uint64_t>(milliseconds) * 1'000'000;
  for (Session& session : sessions_)
    while (!session.out.empty() && loop_.now_ns() < until) {
      pollfd waiting{session.socket.get(), POLLOUT, 0};
      if (poll(&waiting, 1, 10) < 0 || waiting.revents & (POLLERR | POLLHUP)) break;
      write(session);
    }
}

void Server::drop(Session& session) {
  loop_.unwatch(session.socket.get());
  sessions_.remove_if([&](const Session& s) { return &s == &session; });
}

}  // namespace vireo::control::qmp
