// SPDX-License-Identifier: Apache-2.0
// Options of qemu-system-x86_64, for who writes them out of habit: what `vireo run` has in their place.
#pragma once

#include <string>

namespace vireo::cli {

// `option` with its dashes; "" where nothing is known of it.
std::string instead_of_qemu(const std::string& option);

}  // namespace vireo::cli
