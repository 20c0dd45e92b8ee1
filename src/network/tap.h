// SPDX-License-Identifier: Apache-2.0
// A TAP interface of the host: frames in and out of the host's network stack, with checksum and segmentation offloads.
// Source: Linux Documentation/networking/tuntap.rst, <linux/if_tun.h>.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "network/backend.h"

namespace vireo::network {

struct TapConfig {
  std::string name;  // of the interface; empty: the kernel picks one
  int fd = -1;       // an open tap descriptor instead, which this takes over
};

class Tap final : public Backend {
 public:
  static Result<std::unique_ptr<Tap>> create(const TapConfig& config, EventLoop& loop);
  ~Tap() override;

  const std::string& name() const { return name_; }

  bool vnet_header() const override { return true; }
  Offloads supported_offloads() const override { return supported_; }
  void set_offloads(const Offloads& accepted) override;
  void send(std::span<const iovec> frame) override;
  void set_receiver(Receiver receiver) override;
  void resume() override;

 private:
  explicit Tap(EventLoop& loop) : loop_(loop) {}
  Result<> open(const TapConfig& config);
  void readable();
  void listen(bool on);

  EventLoop& loop_;
  OwnedFd fd_;
  std::string name_;
  Offloads supported_;
  Receiver receiver_;
  bool watched_ = false;
  std::vector<std::byte> frame_;
  size_t kept_ = 0;  // size of a frame in frame_ that the receiver refused
};

}  // namespace vireo::network
