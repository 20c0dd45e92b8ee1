// SPDX-License-Identifier: Apache-2.0
// State declared once: a device's fields(Archive&) names each field with a stable number; one visitor saves, loads,
// compares and dumps.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

namespace vireo {

class Archive {
 public:
  virtual ~Archive() = default;
  virtual void bytes(unsigned number, const char* name, std::span<std::byte> value) = 0;

  template <class T>
    requires std::is_trivially_copyable_v<T>
  void field(unsigned number, const char* name, T& value) {
    bytes(number, name, std::as_writable_bytes(std::span(&value, 1)));
  }
};

}  // namespace vireo
