// SPDX-License-Identifier: Apache-2.0
// A network without privileges: libslirp turns the guest's frames into ordinary sockets of this process. The guest finds
// a DHCP server that gives it 10.0.2.15, a router 10.0.2.2 (which is the host) and a name server 10.0.2.3.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "network/backend.h"

namespace vireo::network {

struct HostForward {
  bool udp = false;
  std::string host_address;   // IPv4, empty: all
  uint16_t host_port = 0;
  std::string guest_address;  // IPv4, empty: what DHCP gives
  uint16_t guest_port = 0;
};

struct UserConfig {
  bool restricted = false;  // nothing leaves but the forwards
  bool ipv6 = true;
  std::string network = "10.0.2.0";  // a /24; .2 is the router, .3 the name server, .15 the guest
  std::string hostname = "vireo";     // the guest's, by DHCP
  std::vector<std::string> dns_search;
  std::string tftp_directory, boot_file;
  std::vector<HostForward> forwards;
};

class User final : public Backend {
 public:
  static Result<std::unique_ptr<User>> create(const UserConfig& config, EventLoop& loop);
  ~User() override;

  void send(std::span<const iovec> frame) override;
  void set_receiver(Receiver receiver) override;
  void resume() override;

  // While running, too.
  Result<> add_forward(const HostForward& forward);
  Result<> remove_forward(const HostForward& forward);

 private:
  struct Impl;
  explicit User(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vireo::network
