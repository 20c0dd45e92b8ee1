// SPDX-License-Identifier: Apache-2.0
// A guest that uses the firmware configuration device: the input is its memory (256 bytes, control blocks among it) and then accesses of one byte
// for offset, size and direction and 8 of data.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "devices/fw_cfg.h"

using namespace vireo;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kHead = 256, kStep = 9;
  std::vector<uint8_t> memory(0x10000);
  const size_t head = size < kHead ? size : kHead;
  memcpy(memory.data(), data, head);
  auto fits = [&](uint64_t at, size_t bytes) { return at <= memory.size() && bytes <= memory.size() - at; };
  FwCfg device({[&](uint64_t at, std::span<std::byte> out) {
                  if (!fits(at, out.size())) return false;
                  memcpy(out.data(), &memory[at], out.size());
                  return true;
                },
                [&](uint64_t at, std::span<const std::byte> in) {
                  if (!fits(at, in.size())) return false;
                  memcpy(&memory[at], in.data(), in.size());
                  return true;
                }});
  device.set_file("etc/a", std::vector<std::byte>(100, std::byte{1}));
  device.set_file("etc/b", {});
  device.set_writable_file("etc/c", std::vector<std::byte>(16));
  device.renew_before({"etc/a"}, [&] { device.set_file("etc/a", std::vector<std::byte>(100, std::byte{2})); });
  for (size_t at = head; at + kStep <= size; at += kStep) {
    const uint8_t what = data[at];
    const uint64_t offset = what % FwCfg::kPorts;
    size_t bytes = size_t{1} << (what >> 4 & 3);
    if (offset + bytes > FwCfg::kPorts) bytes = 1;
    if (what & 0x80) {
      device.write({offset}, std::as_bytes(std::span(data + at + 1, bytes)));
    } else {
      std::byte out[8] = {};
      device.read({offset}, std::span(out).first(bytes));
    }
  }
  return 0;
}
