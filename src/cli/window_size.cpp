// SPDX-License-Identifier: Apache-2.0
#include "cli/window_size.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>

namespace vireo::cli {
namespace {

sigset_t window_change() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGWINCH);
  return set;
}

}  // namespace

void WindowSize::block_signal() {
  sigset_t set = window_change();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Result<std::unique_ptr<WindowSize>> WindowSize::follow(EventLoop& loop, virtio::Console& console) {
  std::unique_ptr<WindowSize> size(new WindowSize(loop, console));
  sigset_t set = window_change();
  size->signal_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!size->signal_.valid()) return fail_errno("signalfd");
  TRY_VOID(loop.watch(size->signal_.get(), EPOLLIN, [self = size.get()](uint32_t) {
    signalfd_siginfo info;
    while (read(self->signal_.get(), &info, sizeof info) == sizeof info) {
    }
    self->tell();
  }));
  size->tell();
  return size;
}

WindowSize::~WindowSize() {
  if (signal_.valid()) loop_.unwatch(signal_.get());
}

void WindowSize::tell() {
  winsize size;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) console_.resize(size.ws_col, size.ws_row);
}

}  // namespace vireo::cli
