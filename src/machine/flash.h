// SPDX-License-Identifier: Apache-2.0
// The firmware's image at the end of the first 4 GiB: a ROM of code, and below it a flash chip with variables when there is a file for them. The
// chip's bytes are written to that file as the guest programs them, in the guest's order, so that firmware's own protocol against lost power
// holds when this process is killed.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/owned_fd.h"
#include "base/result.h"
#include "devices/pflash.h"
#include "machine/bus.h"

namespace vireo {

class Machine;

class Flash {
 public:
  static constexpr uint64_t kMost = 16 << 20, kEnd = 1ull << 32;
  // `variables` may be empty: none. Names in errors are those of --firmware.
  static Result<std::unique_ptr<Flash>> create(Machine& machine, const std::string& code, const std::string& variables);
  ~Flash();

  std::span<const std::byte> code() const { return code_; }
  void reset(ResetKind kind);

 private:
  explicit Flash(Machine& machine) : machine_(machine) {}
  Result<> load_code(const std::string& path);
  Result<> load_variables(const std::string& path);
  Result<> map_variables(bool shown);
  void keep(uint64_t offset, uint64_t size);

  Machine& machine_;
  std::span<std::byte> code_, variables_;  // mapped
  uint64_t variables_at_ = 0;
  unsigned variables_slot_ = 0;
  OwnedFd file_;
  std::string name_;
  bool told_ = false;
  std::unique_ptr<Pflash> chip_;
};

}  // namespace vireo
