// SPDX-License-Identifier: Apache-2.0
// Keeps a virtio console as large as the terminal on standard output.
#pragma once

#include <memory>

#include "base/event_loop.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "virtio/console.h"

namespace vireo::cli {

class WindowSize {
 public:
  // In the main thread, before any other exists: SIGWINCH shall come to the descriptor alone.
  static void block_signal();
  // Sets the size and follows it. `console` lives longer than this.
  static Result<std::unique_ptr<WindowSize>> follow(EventLoop& loop, virtio::Console& console);
  ~WindowSize();

 private:
  WindowSize(EventLoop& loop, virtio::Console& console) : loop_(loop), console_(console) {}
  void tell();

  EventLoop& loop_;
  virtio::Console& console_;
  OwnedFd signal_;
};

}  // namespace vireo::cli
