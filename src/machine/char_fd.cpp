// SPDX-License-Identifier: Apache-2.0
#include "machine/char_fd.h"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>

namespace vireo {
namespace {

bool ready(int fd, short events, int timeout_ms) {
  pollfd p{fd, events, 0};
  return poll(&p, 1, timeout_ms) > 0;
}

constexpr uint64_t kRetryNs = 20'000'000;
constexpr size_t kChunk = 512;  // a pipe that polls writable takes this much without waiting (PIPE_BUF)

}  // namespace

CharFd::CharFd(EventLoop& loop, int in, int out) : loop_(loop), in_(in), out_(out) {
  retry_ = loop.create([this] { drain(); });
}

CharFd::~CharFd() {
  *alive_ = false;
  flush();
  stop_input();
  if (watching_out_) loop_.unwatch(out_);
}

void CharFd::connect(CharFrontend* frontend) {
  {
    std::lock_guard lock(frontend_mutex_);
    frontend_ = frontend;
  }
  if (frontend && in_ >= 0) room_made();
}

bool CharFd::write(std::byte byte) {
  if (out_ < 0) return true;
  std::lock_guard lock(mutex_);
  if (output_.size() >= kOutputLimit) {
    refused_ = true;
    return false;
  }
  output_.push_back(static_cast<char>(byte));
  if (!drain_posted_) {
    drain_posted_ = true;
    loop_.post([this, alive = alive_] {
      if (*alive) drain();
    });
  }
  return true;
}

void CharFd::print(const std::string& text) {
  if (out_ < 0) return;
  std::lock_guard lock(mutex_);
  output_ += text;
  if (drain_posted_) return;
  drain_posted_ = true;
  loop_.post([this, alive = alive_] {
    if (*alive) drain();
  });
}

bool CharFd::write_some() {
  std::string chunk;
  {
    std::lock_guard lock(mutex_);
    chunk = output_.substr(0, kChunk);
  }
  ssize_t written = ::write(out_, chunk.data(), chunk.size());
  if (written < 0) {
    if (errno == EINTR || errno == EAGAIN) return false;
    written = static_cast<ssize_t>(chunk.size());  // the other end is gone: nobody will ever read it
  }
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    output_.erase(0, written);
    if (refused_ && output_.size() < kOutputLimit / 2) {
      refused_ = false;
      wake = true;
    }
  }
  if (wake) {
    std::lock_guard lock(frontend_mutex_);
    if (frontend_) frontend_->transmit_ready();
  }
  return true;
}

void CharFd::drain() {
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (output_.empty()) {
        drain_posted_ = false;
        break;
      }
    }
    if (!ready(out_, POLLOUT, 0) || !write_some()) {
      if (!watching_out_ && out_pollable_ && out_ != in_) {
        watching_out_ = out_pollable_ = loop_.watch(out_, EPOLLOUT, [this](uint32_t) { drain(); }).has_value();
        if (watching_out_) return;
      }
      if (watching_out_) return;
      // The descriptor is watched for input already, or cannot be watched: look again soon.
      retry_->arm(loop_.now_ns() + kRetryNs);
      return;
    }
  }
  if (watching_out_) loop_.unwatch(out_);
  watching_out_ = false;
}

void CharFd::flush() {
  if (out_ < 0) return;
  for (int tries = 0; tries < 40; tries++) {
    {
      std::lock_guard lock(mutex_);
      if (output_.empty()) return;
    }
    if (ready(out_, POLLOUT, 50)) write_some();
  }
}

void CharFd::room_made() {
  if (in_ < 0) return;
  loop_.post([this, alive = alive_] {
    if (!*alive) return;
    deliver();
    watch_input();
  });
}

void CharFd::watch_input() {
  if (in_ < 0 || ended_ || watching_in_ || input_.size() >= kInputLimit) return;
  if (in_pollable_) {
    watching_in_ = in_pollable_ = loop_.watch(in_, EPOLLIN, [this](uint32_t) { read_input(); }).has_value();
    if (watching_in_) return;
  }
  read_input();  // a plain file is always ready
}

void CharFd::read_input() {
  char buffer[kInputLimit];
  if (!ready(in_, POLLIN, 0)) return;
  ssize_t size = ::read(in_, buffer, sizeof buffer);
  if (size < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (size <= 0) {
    ended_ = true;
    stop_input();
    return;
  }
  std::string bytes(buffer, size);
  input_ += filter_ ? filter_(std::move(bytes)) : bytes;
  deliver();
  // A full buffer stops reading, so that the sender waits; room_made() starts it again. With a filter reading goes on: its keys must work.
  if (input_.size() >= kInputLimit && !filter_) stop_input();
  if (input_.size() >= 16 * kInputLimit) stop_input();
}

void CharFd::deliver() {
  std::lock_guard lock(frontend_mutex_);
  while (frontend_ && !input_.empty()) {
    size_t taken = frontend_->receive(std::as_bytes(std::span(input_)));
    if (!taken) break;
    input_.erase(0, taken);
  }
}

void CharFd::stop_input() {
  if (watching_in_) loop_.unwatch(in_);
  watching_in_ = false;
}

}  // namespace vireo
