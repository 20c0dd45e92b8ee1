// SPDX-License-Identifier: Apache-2.0
// The guest kernel's functions by address, from its System.map or a copy of its /proc/kallsyms: lines of "ADDRESS TYPE NAME", a module's
// name behind it. nm(1) tells the types.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace vireo::softkvm {

class GuestSymbols {
 public:
  // Reads the file; an error names it and what is wrong.
  static Result<GuestSymbols> read(const std::string& path);
  static Result<GuestSymbols> parse(std::string_view text);

  // "name+0x10" of the function that has the address, or "": it lies before the first one, or more than kFarthest behind one.
  std::string name(uint64_t address) const;
  size_t count() const { return symbols_.size(); }

 private:
  static constexpr uint64_t kFarthest = 1 << 20;  // no function is as long: behind the last one of a module
  struct Symbol {
    uint64_t address;
    std::string name;
  };
  std::vector<Symbol> symbols_;  // by address
};

}  // namespace vireo::softkvm
