// SPDX-License-Identifier: Apache-2.0
// CPUs by name that are the same on every host that can have them, so that a guest may move between hosts.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace vireo {

struct NamedCpu {
  const char* name;
  const char* vendor;  // of 12 characters; empty: the host's
  unsigned family, model, stepping;
  const char* brand;     // at most 47 characters
  const char* base;      // another name, whose features it has too; or empty
  const char* features;  // names of cpu_features.h with blanks between them

  std::string all_features() const;
};

std::span<const NamedCpu> named_cpus();
const NamedCpu* find_named_cpu(std::string_view name);

}  // namespace vireo
