// SPDX-License-Identifier: Apache-2.0
// What a vhost-user back-end answers: the input is all that it says, whatever it is asked. The first byte chooses what is asked after the session is up.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>

#include "virtio/vhost_user/front_end.h"

using namespace vireo;
using namespace vireo::virtio::vhost_user;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto memory = std::move(*GuestMemory::create({.size = 4 << 20, .backing = MemoryConfig::Backing::kMemfd}, 4 << 20));
  if (size < 1 || size > 16384) return 0;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) return 0;
  OwnedFd ours(ends[0]), theirs(ends[1]);
  if (write(theirs.get(), data + 1, size - 1) != static_cast<ssize_t>(size - 1)) return 0;
  shutdown(theirs.get(), SHUT_WR);
  auto end = FrontEnd::negotiate(Connection(std::move(ours)));
  if (!end) return 0;
  if (data[0] & 1) (void)(*end)->read_config(60);
  if (data[0] & 2) (void)(*end)->set_features((*end)->features());
  if (data[0] & 4) (void)(*end)->set_memory(*memory);
  if (data[0] & 8) {
    FrontEnd::Ring ring{.place = {.size = 64, .descriptors = GuestAddress{0x1000}, .driver = GuestAddress{0x2000}, .device = GuestAddress{0x3000}}, .kick = theirs.get(), .call = theirs.get()};
    (void)(*end)->start(ring, *memory);
  }
  (void)(*end)->stop(0);
  return 0;
}
