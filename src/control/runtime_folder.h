// SPDX-License-Identifier: Apache-2.0
// The folder where the user's running machines have their sockets: only this user can enter it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace vireo::control {

// The first of $XDG_RUNTIME_DIR/vireo, /run/vireo (root) and /tmp/vireo-UID that can be had; made if need be.
Result<std::string> runtime_folder();

// Those of them that are there and this user's own.
std::vector<std::string> runtime_folders();

}  // namespace vireo::control
