// SPDX-License-Identifier: Apache-2.0
// A CharBackend over descriptors: stdin and stdout, a file, a pty. The descriptors may be shared with other processes, so they
// are never made non-blocking; every read and write follows a poll that says it will not wait.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "base/event_loop.h"
#include "base/owned_fd.h"
#include "devices/char_backend.h"

namespace vireo {

class CharFd final : public CharBackend {
 public:
  // -1: no input, or no output. Descriptors are not closed.
  CharFd(EventLoop& loop, int in, int out);
  ~CharFd() override;

  void connect(CharFrontend* frontend) override;
  bool write(std::byte byte) override;
  void room_made() override;

  // Looks at bytes from the input before the guest does: returns what is to be passed on. On the loop's thread.
  using Filter = std::function<std::string(std::string)>;
  void set_filter(Filter filter) { filter_ = std::move(filter); }
  // Bytes of our own to the output, in line with the guest's.
  void print(const std::string& text);
  void flush();  // waits up to two seconds for the output to drain
  void stop_input();

 private:
  static constexpr size_t kOutputLimit = 64 << 10;
  static constexpr size_t kInputLimit = 4096;

  void drain();
  bool write_some();  // false: not writable now
  void watch_input();
  void read_input();
  void deliver();

  EventLoop& loop_;
  int in_, out_;
  bool in_pollable_ = true, out_pollable_ = true;
  bool watching_in_ = false, watching_out_ = false, ended_ = false;
  Filter filter_;
  std::string input_;  // read, not yet taken by the frontend
  std::mutex mutex_;   // guards the following
  std::string output_;
  bool drain_posted_ = false, refused_ = false;
  std::mutex frontend_mutex_;
  CharFrontend* frontend_ = nullptr;
  std::unique_ptr<Timer> retry_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for posts that come after the end
};

}  // namespace vireo
