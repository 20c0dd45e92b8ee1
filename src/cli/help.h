// SPDX-License-Identifier: Apache-2.0
// What `vireo --help` and `vireo run --help [TOPIC]` print.
#pragma once

#include <string>

#include "base/result.h"

namespace vireo::cli {

void print_help();
Result<> print_run_help(const std::string& topic);

}  // namespace vireo::cli
