// SPDX-License-Identifier: Apache-2.0
// QMP over Unix sockets: who may connect, sessions, and the table of commands. All on one event loop's thread, which is not a guest's:
// a command may take its time, and those behind it wait.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/owned_fd.h"
#include "control/accept_pause.h"
#include "control/qmp/arguments.h"
#include "control/qmp/framer.h"

namespace vireo::control::qmp {

class Server {
 public:
  using Handler = std::function<Answer(Arguments&)>;

  Server(EventLoop& loop, std::string package) : loop_(loop), package_(std::move(package)) {}
  ~Server();

  void add(const std::string& command, Handler handler) { commands_[command] = std::move(handler); }
  std::vector<std::string> commands() const;
  const std::string& package() const { return package_; }
  // Owner and root may connect; what is left there of a socket is taken away, and this one at the end.
  Result<> listen(const std::string& path);
  // To every session that has negotiated.
  void emit(const std::string& event, const Json& data = nullptr);
  // The same from any thread. What is posted while a command runs, by whomever, comes before its answer, as QEMU has it.
  void post(const std::string& event, const Json& data = nullptr);
  // One command, as if it came over a socket.
  Answer execute(const Command& command);
  // Gives clients what waits for them, for at most that long.
  void flush(int milliseconds);
  // From now on nobody is let in and no command is taken; events still go out.
  void stop_serving();

  static constexpr size_t kMostSessions = 32;
  static constexpr size_t kMostWaiting = 16 << 20;  // bytes that a client leaves unread before it is given up

 private:
  struct Session {
    OwnedFd socket;
    Framer framer;
    std::string out;
    bool negotiated = false, gone = false, deaf = false;  // deaf: it reads nothing more
  };
  struct Listener {
    OwnedFd socket;
    std::string path;
    std::unique_ptr<AcceptPause> pause;
  };
  void accept(int listener, AcceptPause& pause);
  void emit_line(const std::string& line);
  void emit_posted();
  void ready(Session& session, uint32_t events);
  void serve(Session& session, const std::string& text);
  void send(Session& session, const std::string& line);
  void write(Session& session);
  void give_up(Session& session);
  void drop(Session& session);

  EventLoop& loop_;
  std::string package_;
  std::map<std::string, Handler> commands_;
  std::vector<Listener> listeners_;
  std::list<Session> sessions_;
  std::mutex posted_mutex_;
  std::vector<std::string> posted_;
};

}  // namespace vireo::control::qmp
